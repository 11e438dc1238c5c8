// SPDX-License-Identifier: Apache-2.0
// Stage 6 of a step over several views, whose gradients lie side by side: they are added in the order of the views, shN's made from
// the colour's and the direction of each view, and Adam follows. Who made them does not matter: the same sum on every machine.
#pragma once
#include "update.h"

namespace gs::GS_ISA {

struct CombineRate {
    F16 rate, correction, beta1, beta2, eps2;
};
GS_INLINE void combine_vector(float* p, float* m, float* v, F16 grad, int n, const CombineRate& r) {
    const F16 one = 1.0f;
    const F16 m1 = r.beta1 * load_first(m, n) + (one - r.beta1) * grad;
    const F16 v1 = r.beta2 * load_first(v, n) + (one - r.beta2) * grad * grad;
    const F16 p1 = load_first(p, n) - r.rate * m1 * reciprocal_sqrt(v1 * r.correction + r.eps2);
    store_first(m, m1, n), store_first(v, v1, n), store_first(p, p1, n);
}

// The sum over the views of one part, kCount floats a Gaussian.
template <int kCount>
GS_INLINE void add_views(const CombineArgs& args, int part, long first, int n, F16 out[kCount]) {
    for (int c = 0; c < kCount; ++c) out[c] = 0.0f;
    for (int k = 0; k < args.count; ++k) {
        F16 t[kCount];
        const float* rows = args.views + k * args.row + kViewHeader + part * args.n + kCount * first;
        if constexpr (kCount == 1) t[0] = load_first(rows, n);
        else load_columns<kCount>(rows, n, t);
        for (int c = 0; c < kCount; ++c) out[c] += t[c];
    }
}

// The sums over the views of the gradients of sh0 and, `bands` bands in lanes, of shN.
GS_INLINE void add_colours(const CombineArgs& args, const Vec3<F16>& mean, long first, int n, int bands, F16 v_sh0[3], F16 g_sh[48]) {
    for (int c = 0; c < 3; ++c) v_sh0[c] = 0.0f;
    for (int b = 0; b < 48; ++b) g_sh[b] = 0.0f;
    for (int k = 0; k < args.count; ++k) {
        F16 rgb[3], basis[15];
        load_columns<3>(args.views + k * args.row + kViewHeader + kVRgb * args.n + 3 * first, n, rgb);
        for (int c = 0; c < 3; ++c) v_sh0[c] += F16(kSH0) * rgb[c];
        if (bands == 0) continue;
        const float* at = args.positions + 3 * k;
        const Vec3<F16> d = {mean.x - F16(at[0]), mean.y - F16(at[1]), mean.z - F16(at[2])};
        sh_basis(scale(d, F16(1.0f) / sqrt(max(dot(d, d), F16(1e-24f)))), args.update.sh_degree, basis);
        for (int b = 0; b < bands; ++b)
            for (int c = 0; c < 3; ++c) g_sh[3 * b + c] += basis[b] * rgb[c];
    }
}

static void combine_range(CombineArgs& args, long first, long last) {
    UpdateArgs& u = args.update;
    const int bands = (u.sh_degree + 1) * (u.sh_degree + 1) - 1, row = 3 * u.sh_stride;
    const F16 share = 1.0f / float(args.count), one = 1.0f, zero = 0.0f;
    for (long i = first; i < last; i += 16) {
        const int n = last - i < 16 ? int(last - i) : 16;
        const Gaussian<F16> g = load_gaussians(u.params, i, n);
        F16 mean[3], quat[4], scales[3], logit[1], v_sh0[3], g_sh[48];
        add_views<3>(args, kVMean, i, n, mean);
        add_views<4>(args, kVQuat, i, n, quat);
        add_views<3>(args, kVScale, i, n, scales);
        add_views<1>(args, kVLogit, i, n, logit);
        add_colours(args, g.mean, i, n, bands, v_sh0, g_sh);
        for (int c = 0; c < 3; ++c) mean[c] = mean[c] * share, scales[c] = scales[c] * share, v_sh0[c] = v_sh0[c] * share;
        for (int c = 0; c < 4; ++c) quat[c] = quat[c] * share;
        logit[0] = logit[0] * share;
        for (int b = 0; b < 3 * bands; ++b) g_sh[b] = g_sh[b] * share;
        const F16 reg = u.scale_reg, opacity = sigmoid(g.logit);
        scales[0] += reg * exp(g.log_scale.x), scales[1] += reg * exp(g.log_scale.y), scales[2] += reg * exp(g.log_scale.z);
        logit[0] += F16(u.opacity_reg) * opacity * (one - opacity);

        F16 total = mean[0] + mean[1] + mean[2] + quat[0] + quat[1] + quat[2] + quat[3] + scales[0] + scales[1] + scales[2] +
                    logit[0] + v_sh0[0] + v_sh0[1] + v_sh0[2];
        if (bits(first_lanes(n) & ~((total - total) <= zero))) {
            u.finite = false;
            continue;
        }
        if (u.stat_norm) {
            float* const sums[3] = {u.stat_norm, u.stat_abs, u.stat_count};
            for (int s = 0; s < 3; ++s) {
                F16 added[1];
                add_views<1>(args, kVNorm + s, i, n, added);
                store_first(sums[s] + i, load_first(sums[s] + i, n) + added[0], n);
            }
        }
        float g_mean[48], g_quat[64], g_scale[48], g_sh0[48], g_logit[16];
        store_columns<3>(g_mean, 16, mean);
        store_columns<4>(g_quat, 16, quat);
        store_columns<3>(g_scale, 16, scales);
        store_columns<3>(g_sh0, 16, v_sh0);
        store(g_logit, logit[0]);
        const float* const gradients[5] = {g_mean, g_quat, g_scale, g_logit, g_sh0};
        const int columns[5] = {3, 4, 3, 1, 3};
        float* const p[5] = {u.params.means, u.params.quats, u.params.log_scales, u.params.logits, u.params.sh0};
        float* const m[5] = {u.m.means, u.m.quats, u.m.log_scales, u.m.logits, u.m.sh0};
        float* const second[5] = {u.v.means, u.v.quats, u.v.log_scales, u.v.logits, u.v.sh0};
        for (int q = 0; q < 5; ++q) {
            const CombineRate rate = {u.lr[q], u.v_correction, args.beta1, args.beta2, args.eps2};
            for (int e = 0; e < n * columns[q]; e += 16) {
                const long at = i * columns[q] + e;
                const int left = n * columns[q] - e < 16 ? n * columns[q] - e : 16;
                combine_vector(p[q] + at, m[q] + at, second[q] + at, load(gradients[q] + e), left, rate);
            }
        }
        if (bands > 0) {
            for (int group = 0; group < row; group += 16) transpose(g_sh + group);
            const CombineRate rate = {u.lr[5], u.v_correction, args.beta1, args.beta2, args.eps2};
            for (int j = 0; j < n; ++j)
                for (int group = 0; group < row; group += 16) {
                    const long at = (i + j) * row + group;
                    combine_vector(u.params.shN + at, u.m.shN + at, u.v.shN + at, g_sh[group + j], row - group, rate);
                }
        }
        if (u.noise_scale > 0.0f) add_noise(u, i, n);
    }
}

}  // namespace gs::GS_ISA
