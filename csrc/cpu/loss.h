// SPDX-License-Identifier: Apache-2.0
// Stage 4: the loss (1 - lambda) L1 + lambda (1 - SSIM) and its gradient (SSIM: Wang et al. 2004; zero padding).
// With blurred moments mu = G*x, nu = G*y, s = G*x^2 - mu^2, t = G*y^2 - nu^2, c = G*xy - mu nu:
// SSIM = A B / (C D), A = 2 mu nu + C1, B = 2 c + C2, C = mu^2 + nu^2 + C1, D = s + t + C2, and
// dSSIM/dx = G*(dSSIM/dmu) + 2 x G*(dSSIM/ds) + y G*(dSSIM/dc), for the window is its own transpose.
// Both passes blur by columns into a row with margins, then along that row.
#pragma once
#include "../constants.h"
#include "kernels.h"
#include "simd.h"

namespace gs::GS_ISA {

constexpr int kMargin = 16;  // floats of zero on either side of a row
constexpr int kReach = 5;    // the window's half width

struct Window {
    float tap[kReach + 1];
    Window() {
        float total = 0.0f;
        for (int i = 0; i <= kReach; ++i) {
            float e[16];
            store(e, exp(F16(-float(i * i) / (2.0f * gs_const::kSsimSigma * gs_const::kSsimSigma))));
            tap[i] = e[0];
            total += i ? 2.0f * e[0] : e[0];
        }
        for (int i = 0; i <= kReach; ++i) tap[i] /= total;
    }
};

GS_INLINE F16 blur_row(const float* q, const Window& g) {
    F16 s = load(q) * F16(g.tap[0]);
    for (int i = 1; i <= kReach; ++i) s += (load(q - i) + load(q + i)) * F16(g.tap[i]);
    return s;
}

GS_INLINE void clear(float* q, long n) {
    for (long i = 0; i < n; i += 16) store(q + i, F16(0.0f));
}

// Writes the three maps of rows [row0, row1) and adds their L1 and SSIM.
static void ssim_maps(LossArgs& args, int channel, int row0, int row1, float* scratch) {
    const PlaneArgs& p = args.planes;
    const Window g;
    const int stride = p.stride, pitch = stride + 2 * kMargin;
    const long plane = long(p.rows) * stride;
    const float* image = p.image + channel * plane;
    const uint8_t* target = args.target + channel * plane;
    float* maps[3];
    for (int k = 0; k < 3; ++k) maps[k] = args.maps + (3 * channel + k) * plane;
    // A ring of eleven rows of y as floats (x is floats already), then the five blurred rows.
    float* ring = scratch;
    float* rows[5];
    for (int k = 0; k < 5; ++k) {
        rows[k] = scratch + long(11 + k) * pitch;
        clear(rows[k], pitch);
    }
    const F16 to_unit = 1.0f / 255.0f, zero = 0.0f, two = 2.0f, one = 1.0f;
    const F16 c1 = gs_const::kSsimC1, c2 = gs_const::kSsimC2;
    F16 l1 = zero, ssim = zero;
    int filled = row0 - kReach < 0 ? 0 : row0 - kReach;
    for (int row = row0; row < row1; ++row) {
        const int from = row - kReach < 0 ? 0 : row - kReach, to = row + kReach >= p.height ? p.height - 1 : row + kReach;
        for (; filled <= to; ++filled)
            for (int x = 0; x < stride; x += 16)
                store(ring + long(filled % 11) * pitch + x, load_u8(target + long(filled) * stride + x) * to_unit);
        for (int x = 0; x < stride; x += 16) {
            F16 sx = zero, sy = zero, sxx = zero, syy = zero, sxy = zero;
            for (int r = from; r <= to; ++r) {
                const F16 tap = g.tap[r < row ? row - r : r - row];
                const F16 a = load(image + long(r) * stride + x), b = load(ring + long(r % 11) * pitch + x);
                const F16 ta = tap * a, tb = tap * b;
                sx += ta, sy += tb, sxx += ta * a, syy += tb * b, sxy += ta * b;
            }
            store(rows[0] + kMargin + x, sx), store(rows[1] + kMargin + x, sy), store(rows[2] + kMargin + x, sxx);
            store(rows[3] + kMargin + x, syy), store(rows[4] + kMargin + x, sxy);
        }
        for (int x = 0; x < p.width; x += 16) {
            const int n = p.width - x < 16 ? p.width - x : 16;
            const M16 inside = first_lanes(n);
            const F16 mu = blur_row(rows[0] + kMargin + x, g), nu = blur_row(rows[1] + kMargin + x, g);
            const F16 s = blur_row(rows[2] + kMargin + x, g) - mu * mu, t = blur_row(rows[3] + kMargin + x, g) - nu * nu;
            const F16 c = blur_row(rows[4] + kMargin + x, g) - mu * nu;
            const F16 A = two * mu * nu + c1, B = two * c + c2, C = mu * mu + nu * nu + c1, D = s + t + c2;
            const F16 inv = one / (C * D);
            const F16 value = A * B * inv;
            const F16 d_s = -value * C * inv;                // dSSIM/ds = -A B / (C D^2)
            const F16 d_c = two * A * inv;
            const F16 d_mu = two * (nu * B * inv - mu * value * D * inv) - two * mu * d_s - nu * d_c;
            const long at = long(row) * stride + x;
            store(maps[0] + at, keep(inside, d_mu));
            store(maps[1] + at, keep(inside, d_s));
            store(maps[2] + at, keep(inside, d_c));
            ssim += keep(inside, value);
            l1 += keep(inside, abs(load(image + at) - load(ring + long(row % 11) * pitch + x)));
        }
        // What stands beyond the picture's width in these rows counts as zero.
        for (int k = 0; k < 3; ++k)
            for (int x = (p.width + 15) / 16 * 16; x < stride; x += 16) store(maps[k] + long(row) * stride + x, zero);
    }
    args.l1 += double(sum(l1));
    args.ssim += double(sum(ssim));
}

// Rows [row0, row1) of v_image from the maps of up to five rows on either side.
static void loss_gradient(LossArgs& args, int channel, int row0, int row1, float* scratch) {
    const PlaneArgs& p = args.planes;
    const Window g;
    const int stride = p.stride, pitch = stride + 2 * kMargin;
    const long plane = long(p.rows) * stride;
    const float* image = p.image + channel * plane;
    const uint8_t* target = args.target + channel * plane;
    float* out = args.v_image + channel * plane;
    const float* maps[3];
    float* rows[3];
    for (int k = 0; k < 3; ++k) {
        maps[k] = args.maps + (3 * channel + k) * plane;
        rows[k] = scratch + long(k) * pitch;
        clear(rows[k], pitch);
    }
    const F16 to_unit = 1.0f / 255.0f, zero = 0.0f, two = 2.0f;
    const F16 ssim_weight = args.ssim_weight, l1_weight = args.l1_weight;
    for (int row = row0; row < row1; ++row) {
        if (row >= p.height) {
            clear(out + long(row) * stride, stride);
            continue;
        }
        const int from = row - kReach < 0 ? 0 : row - kReach, to = row + kReach >= p.height ? p.height - 1 : row + kReach;
        for (int x = 0; x < stride; x += 16) {
            F16 s[3] = {zero, zero, zero};
            for (int r = from; r <= to; ++r) {
                const F16 tap = g.tap[r < row ? row - r : r - row];
                for (int k = 0; k < 3; ++k) s[k] += tap * load(maps[k] + long(r) * stride + x);
            }
            for (int k = 0; k < 3; ++k) store(rows[k] + kMargin + x, s[k]);
        }
        for (int x = 0; x < stride; x += 16) {
            const long at = long(row) * stride + x;
            const F16 a = load(image + at), b = load_u8(target + at) * to_unit;
            const F16 d_mu = blur_row(rows[0] + kMargin + x, g), d_s = blur_row(rows[1] + kMargin + x, g);
            const F16 d_c = blur_row(rows[2] + kMargin + x, g);
            const F16 sign = select(b < a, F16(1.0f), select(a < b, F16(-1.0f), zero));
            const F16 v = ssim_weight * (d_mu + two * a * d_s + b * d_c) + l1_weight * sign;
            store(out + at, keep(first_lanes(p.width - x < 0 ? 0 : p.width - x), v));
        }
    }
}

}  // namespace gs::GS_ISA
