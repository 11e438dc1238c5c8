// SPDX-License-Identifier: Apache-2.0
// Stage 4: the loss (1 - lambda) L1 + lambda (1 - SSIM) and its gradient (SSIM: Wang et al. 2004; zero padding).
// In u = x + y and v = x - y, the photo being y, SSIM needs four blurred maps and not five. With U = G*u, P = U^2 / 2,
// p = G*u^2 / 2 - P, and Q, q the same of v:  2 mu_x mu_y = P - Q, mu_x^2 + mu_y^2 = P + Q, 2 cov = p - q, var_x + var_y = p + q,
// so SSIM = A B / (C D), A = P - Q + C1, B = p - q + C2, C = P + Q + C1, D = p + q + C2. The window G is its own transpose, and
// du/dx = dv/dx = 1: dSSIM/dx = G*(U S_P + V S_Q) + u G*S_p + v G*S_q, where S_P also counts that p holds -P, and S_Q likewise.
#pragma once
#include "../constants.h"
#include "kernels.h"
#include "simd.h"

namespace gs::GS_ISA {

constexpr int kMargin = 16;  // floats of zero on either side of a row
constexpr int kReach = 5;    // the window's half width
constexpr int kSeen = kLossRows + 2 * kReach;  // rows under the windows of kLossRows rows

struct Window {
    F16 tap[kReach + 1];  // from the centre outwards
    Window() {
        float total = 0.0f, weight[kReach + 1];
        for (int i = 0; i <= kReach; ++i) {
            float e[16];
            store(e, exp(F16(-float(i * i) / (2.0f * gs_const::kSsimSigma * gs_const::kSsimSigma))));
            weight[i] = e[0];
            total += i ? 2.0f * e[0] : e[0];
        }
        float rest = 1.0f;  // the sum is one to the last bit: G*u^2 - (G*u)^2 is small beside its terms
        for (int i = 1; i <= kReach; ++i) {
            tap[i] = weight[i] / total;
            rest -= 2.0f * (weight[i] / total);
        }
        tap[0] = rest;
    }
};

// The rows of a map around the place where the window stands; older ones are overwritten.
struct Ring {
    float* rows;
    long pitch;
    GS_INLINE float* row(int y) const { return rows + (y & (kLossRing - 1)) * pitch; }
};

// Sixteen columns of the rows that the windows on rows y .. y + kLossRows - 1 see.
GS_INLINE void load_rows(const Ring& ring, int y, int x, F16 r[kSeen]) {
    for (int i = 0; i < kSeen; ++i) r[i] = load(ring.row(y - kReach + i) + x);
}

// Blurs over columns. All rows stand in registers: a row that is loaded once serves kLossRows windows.
GS_INLINE void blur_columns(const F16 r[kSeen], const Window& g, F16 out[kLossRows]) {
    for (int i = 0; i < kLossRows; ++i) out[i] = r[kReach + i] * g.tap[0];
    for (int k = 1; k <= kReach; ++k)
        for (int i = 0; i < kLossRows; ++i) out[i] += (r[kReach + i - k] + r[kReach + i + k]) * g.tap[k];
}

// Blurs along the row. q: aligned to a vector, sixteen floats readable on either side.
GS_INLINE F16 blur_row(const float* q, const Window& g) {
    const F16 before = load(q - 16), here = load(q), after = load(q + 16);
    F16 s = here * g.tap[0];
    s += (shifted<-1>(before, here, after, q) + shifted<1>(before, here, after, q)) * g.tap[1];
    s += (shifted<-2>(before, here, after, q) + shifted<2>(before, here, after, q)) * g.tap[2];
    s += (shifted<-3>(before, here, after, q) + shifted<3>(before, here, after, q)) * g.tap[3];
    s += (shifted<-4>(before, here, after, q) + shifted<4>(before, here, after, q)) * g.tap[4];
    s += (shifted<-5>(before, here, after, q) + shifted<5>(before, here, after, q)) * g.tap[5];
    return s;
}

GS_INLINE void clear(float* q, long n) {
    for (long i = 0; i < n; i += 16) store(q + i, F16(0.0f));
}

// Blurs u, u^2, v and v^2 over columns, for the windows on rows top .. top + kLossRows - 1.
GS_INLINE void blur_moments(const Ring& u, const Ring& v, int top, int columns, const Window& g, float* lines[4][kLossRows]) {
    for (int x = 0; x < columns; x += 16) {
        const Ring* rings[2] = {&u, &v};
        for (int q = 0; q < 2; ++q) {
            F16 r[kSeen], s[kLossRows];
            load_rows(*rings[q], top, x, r);
            blur_columns(r, g, s);
            for (int i = 0; i < kLossRows; ++i) store(lines[2 * q][i] + kMargin + x, s[i]);
            for (int i = 0; i < kSeen; ++i) r[i] *= r[i];
            blur_columns(r, g, s);
            for (int i = 0; i < kLossRows; ++i) store(lines[2 * q + 1][i] + kMargin + x, s[i]);
        }
    }
}

// A, B, C and D from the blurred u, v, u^2 and v^2.
struct SsimFactors {
    F16 a, b, c, d;
};
GS_INLINE SsimFactors ssim_factors(F16 U, F16 V, F16 uu, F16 vv) {
    const F16 half = 0.5f, c1 = gs_const::kSsimC1, c2 = gs_const::kSsimC2;
    const F16 P = half * U * U, Q = half * V * V, pu = half * uu - P, qv = half * vv - Q;
    return {P - Q + c1, pu - qv + c2, P + Q + c1, pu + qv + c2};
}

// Which of the sixteen pixels from (x, row) on count: those inside of the picture, and of the mask.
template <bool kMasked>
GS_INLINE M16 counting(const LossArgs& args, int row, int x) {
    const M16 inside = first_lanes(args.planes.width - x);
    if constexpr (!kMasked) return inside;
    return inside & (F16(0.0f) < load_u8(args.mask + long(row) * args.planes.stride + x));
}

// One channel of rows [row0, row1): adds their L1 and SSIM, writes v_image. The window slides down the picture, kLossRows rows at
// a time: photo and picture -> u, v -> maps, and seven rows behind, maps -> gradient. Of each only the last rows are kept, so
// everything between stays in the second-level cache, however wide or long the strip. The maps of the rows above and below the
// strip are computed for it alone. A blur goes over columns into lines with margins of zeros, then along these.
// With a mask, pixels that do not count are zero in u and v, have no maps and get no gradient. With a matte the photo is laid over
// the background of the render.
template <bool kMasked, bool kMatte>
static void loss_rows(LossArgs& args, int channel, int row0, int row1, float* scratch) {
    const PlaneArgs& p = args.planes;
    const Window g;
    const int stride = p.stride, pitch = stride + 2 * kMargin;
    const int columns = p.tiles_x * gs_const::kTile;  // beyond these the planes are not filled, the lines stay zero
    const long plane = long(p.rows) * stride;
    const float* image = p.image + channel * plane;
    const uint8_t* target = args.target + channel * plane;
    float* out = args.v_image + channel * plane;
    for (int row = row0 < p.height ? p.height : row0; row < row1; ++row) clear(out + long(row) * stride, columns);
    if (row1 > p.height) row1 = p.height;

    float* room = scratch;
    const auto take = [&room, pitch](int rows) {
        float* begin = room;
        room += long(rows) * pitch;
        return begin;
    };
    const Ring u{take(kLossRing), pitch}, v{take(kLossRing), pitch};
    const Ring maps[3] = {{take(kLossRing), pitch}, {take(kLossRing), pitch}, {take(kLossRing), pitch}};
    float* lines[4][kLossRows];
    for (auto& map : lines)
        for (float*& line : map) clear(line = take(1), pitch);

    float* blurred[4];
    for (float*& line : blurred) line = take(1);

    const F16 to_unit = 1.0f / 255.0f, zero = 0.0f;
    const F16 background = args.background[channel], opaque = 255.0f;
    const F16 ssim_weight = args.ssim_weight, l1_weight = args.l1_weight;
    F16 l1 = zero, ssim = zero;
    int next = row0 - 2 * kReach;  // of u and v
    constexpr int kBehind = 7;     // rows: kReach, and what makes the strip's first row a group's first
    for (int top = row0 - kReach; top - kBehind < row1; top += kLossRows) {
        for (; next < top + kLossRows + kReach; ++next) {
            if (next < 0 || next >= p.height) {
                clear(u.row(next), columns), clear(v.row(next), columns);
                continue;
            }
            for (int x = 0; x < columns; x += 16) {
                const F16 a = load(image + long(next) * stride + x);
                F16 photo = load_u8(target + long(next) * stride + x);
                if constexpr (kMatte) photo += (opaque - load_u8(args.alpha + long(next) * stride + x)) * background;
                const F16 b = photo * to_unit;
                F16 both = a + b, difference = a - b;
                if constexpr (kMasked) {
                    const M16 counts = counting<true>(args, next, x);
                    both = keep(counts, both), difference = keep(counts, difference);
                }
                store(u.row(next) + x, both), store(v.row(next) + x, difference);
            }
        }
        blur_moments(u, v, top, columns, g, lines);
        for (int i = 0; i < kLossRows; ++i) {
            const int row = top + i;
            if (row < 0 || row >= p.height) {
                for (const Ring& map : maps) clear(map.row(row), columns);
                continue;
            }
            for (int x = 0; x < columns; x += 16)
                for (int q = 0; q < 4; ++q) store(blurred[q] + x, blur_row(lines[q][i] + kMargin + x, g));
            const M16 own = row >= row0 && row < row1 ? all_lanes() : ~all_lanes();
            for (int x = 0; x < columns; x += 16) {
                const M16 inside = counting<kMasked>(args, row, x);  // the others' maps are zero
                const F16 U = load(blurred[0] + x), V = load(blurred[2] + x);
                const auto [A, B, C, D] = ssim_factors(U, V, load(blurred[1] + x), load(blurred[3] + x));
                const F16 inv = reciprocal(C * D);
                const F16 value = A * B * inv, fall = value * inv;
                const F16 s_a = B * inv, s_b = A * inv, s_c = -fall * D, s_d = -fall * C;  // dSSIM/dA, ...
                const F16 s_p = s_b + s_d, s_q = s_d - s_b;
                store(maps[0].row(row) + x, keep(inside, U * (s_a + s_c - s_p) + V * (s_c - s_a - s_q)));
                store(maps[1].row(row) + x, keep(inside, s_p));
                store(maps[2].row(row) + x, keep(inside, s_q));
                ssim += keep(inside & own, value);
            }
        }
        const int first = top - kBehind;
        if (first < row0) continue;
        for (int x = 0; x < columns; x += 16)
            for (int q = 0; q < 3; ++q) {
                F16 r[kSeen], s[kLossRows];
                load_rows(maps[q], first, x, r);
                blur_columns(r, g, s);
                for (int i = 0; i < kLossRows; ++i) store(lines[q][i] + kMargin + x, s[i]);
            }
        for (int i = 0; i < kLossRows && first + i < row1; ++i) {
            const int row = first + i;
            for (int x = 0; x < columns; x += 16) {
                const int at = kMargin + x;
                const F16 a = load(u.row(row) + x), b = load(v.row(row) + x);
                const F16 from_means = blur_row(lines[0][i] + at, g), s_p = blur_row(lines[1][i] + at, g);
                const F16 s_q = blur_row(lines[2][i] + at, g);
                const F16 sign = select(zero < b, F16(1.0f), select(b < zero, F16(-1.0f), zero));
                const F16 grad = ssim_weight * (from_means + a * s_p + b * s_q) + l1_weight * sign;
                const M16 inside = counting<kMasked>(args, row, x);
                store(out + long(row) * stride + x, keep(inside, grad));
                l1 += keep(inside, abs(b));
            }
        }
    }
    args.l1 += double(sum(l1));
    args.ssim += double(sum(ssim));
}

static void loss_strip(LossArgs& args, int channel, int row0, int row1, float* scratch) {
    const auto rows = args.mask ? (args.alpha ? loss_rows<true, true> : loss_rows<true, false>)
                                : (args.alpha ? loss_rows<false, true> : loss_rows<false, false>);
    rows(args, channel, row0, row1, scratch);
}

}  // namespace gs::GS_ISA
