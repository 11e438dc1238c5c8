// SPDX-License-Identifier: Apache-2.0
// Stage 6, the only pass over the state: a Gaussian's splat gradients are summed over its tiles, carried back through the
// projection and the colour, and used at once by Adam (Kingma and Ba 2015), density statistics and MCMC's noise.
#pragma once
#include "project.h"

namespace gs::GS_ISA {

struct Incoming {
    SplatGrad<F16> splat;
    F16 color[3];
    F16 abs_x, abs_y;
};

// Sums the slots of sixteen Gaussians. With the sums over pixels of d, d dx, d dy, ... (d = dL/d ln alpha), e's coefficients
// give dL/dmean2d and dL/dconic; dL/dopacity = sum d / opacity.
GS_INLINE Incoming sum_slots(const UpdateArgs& args, long first, int n) {
    F16 r[16];
    for (int i = 0; i < 16; ++i) {
        r[i] = 0.0f;
        if (i >= n) continue;
        const Record& rec = args.records[first + i];
        const float* slot = args.slots + long(args.first_slot[first + i]) * kSlotFloats;
        for (uint32_t k = 0; k < rec.tiles; ++k) r[i] += load(slot + k * kSlotFloats);
    }
    transpose(r);
    F16 line[16];
    for (int i = 0; i < 16; ++i) line[i] = load(&args.records[first + (i < n ? i : 0)].mx);
    transpose(line);
    Incoming in;
    const F16 to_a = -2.0f * gs_const::kLn2, to_b = -gs_const::kLn2;
    const F16 a = line[2] * to_a, b = line[3] * to_b, c = line[4] * to_a;
    in.splat.mx = a * r[kX] + b * r[kY];
    in.splat.my = b * r[kX] + c * r[kY];
    in.splat.a = F16(-0.5f) * r[kXX];
    in.splat.b = -r[kXY];
    in.splat.c = F16(-0.5f) * r[kYY];
    in.splat.opacity = r[kAlpha] / max(line[9], F16(1e-12f));
    in.splat.depth = 0.0f;
    for (int k = 0; k < 3; ++k) in.color[k] = r[kRed + k];
    const F16 ln2 = gs_const::kLn2;
    in.abs_x = r[kAbsX] * ln2;
    in.abs_y = r[kAbsY] * ln2;
    return in;
}

GS_INLINE Incoming load_incoming(const UpdateArgs& args, long first, int n) {
    Incoming in;
    F16 t[3];
    load_columns<2>(args.v_means2d + 2 * first, n, t);
    in.splat.mx = t[0], in.splat.my = t[1];
    load_columns<3>(args.v_conics + 3 * first, n, t);
    in.splat.a = t[0], in.splat.b = t[1], in.splat.c = t[2];
    load_columns<3>(args.v_colors + 3 * first, n, in.color);
    in.splat.opacity = load_first(args.v_opacities + first, n);
    in.splat.depth = load_first(args.v_depths + first, n);
    return in;
}

static void splat_gradients(const UpdateArgs& args, long first, long last, float* v_means2d, float* v_conics, float* v_colors,
                            float* v_opacities, float* v_abs) {
    for (long i = first; i < last; i += 16) {
        const int n = last - i < 16 ? int(last - i) : 16;
        const Incoming in = sum_slots(args, i, n);
        const F16 mean[2] = {in.splat.mx, in.splat.my}, conic[3] = {in.splat.a, in.splat.b, in.splat.c};
        const F16 abs_mean[2] = {in.abs_x, in.abs_y};
        store_columns<2>(v_means2d + 2 * i, n, mean);
        store_columns<3>(v_conics + 3 * i, n, conic);
        store_columns<3>(v_colors + 3 * i, n, in.color);
        store_first(v_opacities + i, in.splat.opacity, n);
        if (v_abs) store_columns<2>(v_abs + 2 * i, n, abs_mean);
    }
}

struct AdamRate {
    F16 rate, correction;
};
GS_INLINE void adam_vector(float* p, float* m, float* v, F16 grad, int n, const AdamRate& r) {
    using namespace gs_const;
    const F16 m1 = F16(kAdamBeta1) * load_first(m, n) + F16(1.0f - kAdamBeta1) * grad;
    const F16 v1 = F16(kAdamBeta2) * load_first(v, n) + F16(1.0f - kAdamBeta2) * grad * grad;
    // 1 / sqrt(v + eps^2) is 1 / (sqrt(v) + eps) wherever either term counts alone, and costs no root and no division.
    const F16 p1 = load_first(p, n) - r.rate * m1 * reciprocal_sqrt(v1 * r.correction + F16(kAdamEps * kAdamEps));
    store_first(m, m1, n), store_first(v, v1, n), store_first(p, p1, n);
}

// One Adam step on `count` consecutive floats; lr holds m's bias correction, v_correction v's.
static void adam(float* p, float* m, float* v, const float* g, long count, float lr, float v_correction) {
    const AdamRate r = {lr, v_correction};
    long i = 0;
    for (; i + 16 <= count; i += 16) adam_vector(p + i, m + i, v + i, load(g + i), 16, r);
    if (i < count) adam_vector(p + i, m + i, v + i, load_first(g + i, int(count - i)), int(count - i), r);
}

// A normal sample per lane from a counter (finaliser "lowbias32"; Box and Muller 1958): the same for any order of work.
GS_INLINE U16 hash(U16 x) {
    x = x ^ (x >> 16);
    x = x * U16(0x7FEB352Du);
    x = x ^ (x >> 15);
    x = x * U16(0x846CA68Bu);
    return x ^ (x >> 16);
}
GS_INLINE F16 normal(U16 index, uint32_t component, uint32_t seed, uint32_t step) {
    const U16 key = (index * U16(3u) + U16(component)) * U16(0x9E3779B1u) + U16(step * 0x85EBCA77u + seed * 0xC2B2AE3Du);
    const F16 unit = 1.0f / 16777216.0f, half = 0.5f;
    const F16 u1 = (to_float(hash(key) >> 8) + half) * unit;
    const F16 u2 = (to_float(hash(key + U16(0x27D4EB2Fu)) >> 8) + half) * unit;
    return sqrt(F16(-2.0f) * log(u1)) * cos_turns(u2);
}

// MCMC's exploration (Kheradmand et al. 2024, eq. 9): Sigma n, gated so that only nearly transparent Gaussians move.
GS_INLINE void add_noise(const UpdateArgs& args, long first, int n) {
    const Gaussian<F16> g = load_gaussians(args.params, first, n);
    const F16 gate = sigmoid(F16(-gs_const::kNoiseSteepness) * (sigmoid(g.logit) - F16(gs_const::kNoiseOpacity)));
    const F16 amount = gate * F16(args.noise_scale);
    uint32_t lane[16];
    for (int i = 0; i < 16; ++i) lane[i] = uint32_t(first + i);
    U16 index;
    __builtin_memcpy(&index, lane, 64);
    const F16 norm2 = max(g.qw * g.qw + g.qx * g.qx + g.qy * g.qy + g.qz * g.qz, F16(1e-24f));
    const F16 inv = F16(1.0f) / sqrt(norm2), one = 1.0f, two = 2.0f;
    const F16 w = g.qw * inv, x = g.qx * inv, y = g.qy * inv, z = g.qz * inv;
    const F16 q[9] = {one - two * (y * y + z * z), two * (x * y - w * z),       two * (x * z + w * y),
                      two * (x * y + w * z),       one - two * (x * x + z * z), two * (y * z - w * x),
                      two * (x * z - w * y),       two * (y * z + w * x),       one - two * (x * x + y * y)};
    F16 s[3] = {exp(g.log_scale.x), exp(g.log_scale.y), exp(g.log_scale.z)};
    F16 r[3], local[3], mean[3] = {g.mean.x, g.mean.y, g.mean.z};
    for (int c = 0; c < 3; ++c) r[c] = normal(index, c, args.noise_seed, args.noise_step);
    for (int c = 0; c < 3; ++c) local[c] = (q[c] * r[0] + q[3 + c] * r[1] + q[6 + c] * r[2]) * s[c] * s[c];
    for (int c = 0; c < 3; ++c) mean[c] += amount * (q[3 * c] * local[0] + q[3 * c + 1] * local[1] + q[3 * c + 2] * local[2]);
    store_columns<3>(args.params.means + 3 * first, n, mean);
}

// Adds what turning this block of splats about the camera does to the loss: v before the colours' part.
GS_INLINE void add_turn(const Gaussian<F16>& g, const Gaussian<F16>& v, const CameraParams& cam, M16 seen, F16 turn[3]) {
    const F16 x = g.mean.x - F16(cam.position[0]), y = g.mean.y - F16(cam.position[1]), z = g.mean.z - F16(cam.position[2]);
    const F16 half = 0.5f;
    turn[0] += keep(seen, y * v.mean.z - z * v.mean.y + half * (g.qw * v.qx - g.qx * v.qw + g.qy * v.qz - g.qz * v.qy));
    turn[1] += keep(seen, z * v.mean.x - x * v.mean.z + half * (g.qw * v.qy - g.qy * v.qw + g.qz * v.qx - g.qx * v.qz));
    turn[2] += keep(seen, x * v.mean.y - y * v.mean.x + half * (g.qw * v.qz - g.qz * v.qw + g.qx * v.qy - g.qy * v.qx));
}

static void update_range(UpdateArgs& args, long first, long last) {
    const CameraParams& cam = *args.camera;
    const int bands = (args.sh_degree + 1) * (args.sh_degree + 1) - 1, row = 3 * args.sh_stride;
    const F16 zero = 0.0f;
    F16 pose[kPoseFloats] = {zero, zero, zero, zero, zero, zero};
    for (long i = first; i < last; i += 16) {
        const int n = last - i < 16 ? int(last - i) : 16;
        Incoming in = args.slots ? sum_slots(args, i, n) : load_incoming(args, i, n);
        // A culled Gaussian has no gradient, whatever its projection overflowed to.
        float seen_f[16];
        for (int j = 0; j < 16; ++j) seen_f[j] = j < n && args.records[i + j].w > 0 ? 1.0f : 0.0f;
        const M16 seen = load(seen_f) > zero;

        const Gaussian<F16> g = load_gaussians(args.params, i, n);
        const Projection<F16> k = project_parts(g, cam, args.antialiased);
        const Splat<F16> s = project(k, cam);
        Gaussian<F16> v = project_vjp(k, s, in.splat, cam, args.antialiased);
        if (args.pose) add_turn(g, v, cam, seen, pose + kPoseTurn);
        F16 sh[48];
        const Color color = shade(args.params, cam, g.mean, i, n, args.sh_degree, args.sh_stride, sh);
        F16 v_color[3], v_sh0[3];
        for (int c = 0; c < 3; ++c) {
            v_color[c] = keep(seen & (color.rgb[c] > zero), in.color[c]);
            v_sh0[c] = args.rgb ? v_color[c] : F16(kSH0) * v_color[c];
        }
        F16 g_sh[48];  // g_sh[16 group + j]: sixteen of Gaussian j's floats
        if (bands > 0) {
            F16 weight[15];
            for (int b = 0; b < bands; ++b)
                weight[b] = sh[3 * b] * v_color[0] + sh[3 * b + 1] * v_color[1] + sh[3 * b + 2] * v_color[2];
            const Vec3<F16> v_dir = sh_basis_vjp(color.direction, args.sh_degree, weight);
            const F16 along = dot(v_dir, color.direction);
            v.mean.x += (v_dir.x - along * color.direction.x) * color.inv_distance;
            v.mean.y += (v_dir.y - along * color.direction.y) * color.inv_distance;
            v.mean.z += (v_dir.z - along * color.direction.z) * color.inv_distance;
            for (int b = 0; b < 16; ++b)
                for (int c = 0; c < 3; ++c)
                    g_sh[3 * b + c] = b < bands ? keep(seen, color.basis[b < 15 ? b : 0] * v_color[c]) : zero;
            for (int group = 0; group < row; group += 16) transpose(g_sh + group);
        }
        F16 mean[3] = {keep(seen, v.mean.x), keep(seen, v.mean.y), keep(seen, v.mean.z)};
        F16 quat[4] = {keep(seen, v.qw), keep(seen, v.qx), keep(seen, v.qy), keep(seen, v.qz)};
        F16 scales[3] = {keep(seen, v.log_scale.x), keep(seen, v.log_scale.y), keep(seen, v.log_scale.z)};
        F16 logit = keep(seen, v.logit);
        if (args.pose)
            for (int c = 0; c < 3; ++c) pose[kPoseShift + c] += mean[c];
        if (args.update) {
            const F16 reg = args.scale_reg;
            for (int c = 0; c < 3; ++c) scales[c] += reg * k.s[c];
            logit += F16(args.opacity_reg) * k.base_opacity * k.transparency;
        }
        if (args.stat_norm) {
            const F16 sx = in.splat.mx * F16(args.half_width), sy = in.splat.my * F16(args.half_height);
            const F16 ax = in.abs_x * F16(args.half_width), ay = in.abs_y * F16(args.half_height);
            store_first(args.stat_norm + i, load_first(args.stat_norm + i, n) + keep(seen, sqrt(sx * sx + sy * sy)), n);
            store_first(args.stat_abs + i, load_first(args.stat_abs + i, n) + keep(seen, sqrt(ax * ax + ay * ay)), n);
            store_first(args.stat_count + i, load_first(args.stat_count + i, n) + keep(seen, F16(1.0f)), n);
        }
        float g_mean[48], g_quat[64], g_scale[48], g_sh0[48], g_logit[16];
        store_columns<3>(g_mean, 16, mean);
        store_columns<4>(g_quat, 16, quat);
        store_columns<3>(g_scale, 16, scales);
        store_columns<3>(g_sh0, 16, v_sh0);
        store(g_logit, logit);
        const float* const gradients[5] = {g_mean, g_quat, g_scale, g_logit, g_sh0};
        const int columns[5] = {3, 4, 3, 1, 3};
        if (!args.update) {
            float* const out[5] = {args.grads.means, args.grads.quats, args.grads.log_scales, args.grads.logits, args.grads.sh0};
            for (int q = 0; q < 5; ++q) __builtin_memcpy(out[q] + i * columns[q], gradients[q], sizeof(float) * n * columns[q]);
            for (int j = 0; j < n && !args.rgb; ++j)
                for (int group = 0; group < row; group += 16)
                    store_first(args.grads.shN + (i + j) * row + group, bands > 0 ? g_sh[group + j] : zero, row - group);
            continue;
        }
        // x - x is zero but for infinities and NaN. Colours' gradients are products of the same factors.
        F16 total = mean[0] + mean[1] + mean[2] + quat[0] + quat[1] + quat[2] + quat[3] + scales[0] + scales[1] + scales[2] +
                    logit + v_sh0[0] + v_sh0[1] + v_sh0[2];
        if (bits(first_lanes(n) & ~((total - total) <= zero))) {
            args.finite = false;
            continue;
        }
        float* const p[5] = {args.params.means, args.params.quats, args.params.log_scales, args.params.logits, args.params.sh0};
        float* const m[5] = {args.m.means, args.m.quats, args.m.log_scales, args.m.logits, args.m.sh0};
        float* const second[5] = {args.v.means, args.v.quats, args.v.log_scales, args.v.logits, args.v.sh0};
        for (int q = 0; q < 5; ++q) {
            const long at = i * columns[q];
            adam(p[q] + at, m[q] + at, second[q] + at, gradients[q], long(n) * columns[q], args.lr[q], args.v_correction);
        }
        if (bands > 0) {  // before degree 1 the moments of shN are zero: nothing to do
            const AdamRate rate = {args.lr[5], args.v_correction};
            for (int j = 0; j < n; ++j)
                for (int group = 0; group < row; group += 16) {
                    const long at = (i + j) * row + group;
                    // Into the second-level cache, two blocks ahead, to arrive while the next block's gradients are computed: three
                    // streams in turns of a few kilobytes are too short for the machine's own prefetching.
                    __builtin_prefetch(args.params.shN + at + 32 * row, 0, 2);
                    __builtin_prefetch(args.m.shN + at + 32 * row, 0, 2);
                    __builtin_prefetch(args.v.shN + at + 32 * row, 0, 2);
                    adam_vector(args.params.shN + at, args.m.shN + at, args.v.shN + at, g_sh[group + j], row - group, rate);
                }
        }
        if (args.noise_scale > 0.0f) add_noise(args, i, n);
    }
    if (args.pose)
        for (int q = 0; q < kPoseFloats; ++q) args.pose[q] += double(sum(pose[q]));
}

}  // namespace gs::GS_ISA
