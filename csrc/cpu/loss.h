// SPDX-License-Identifier: Apache-2.0
// Stage 4: the loss (1 - lambda) L1 + lambda (1 - SSIM) and its gradient (SSIM: Wang et al. 2004; zero padding).
// With blurred moments mu = G*x, nu = G*y, s = G*x^2 - mu^2, t = G*y^2 - nu^2, c = G*xy - mu nu:
// SSIM = A B / (C D), A = 2 mu nu + C1, B = 2 c + C2, C = mu^2 + nu^2 + C1, D = s + t + C2, and
// dSSIM/dx = G*(dSSIM/dmu) + 2 x G*(dSSIM/ds) + y G*(dSSIM/dc), for the window is its own transpose.
#pragma once
#include "../constants.h"
#include "kernels.h"
#include "simd.h"

namespace gs::GS_ISA {

constexpr int kMargin = 16;  // floats of zero on either side of a row
constexpr int kReach = 5;    // the window's half width

constexpr int kTaps = 2 * kReach + 1;

struct Window {
    float tap[kReach + 1];  // from the centre outwards
    float all[kTaps];       // from one end to the other
    Window() {
        float total = 0.0f;
        for (int i = 0; i <= kReach; ++i) {
            float e[16];
            store(e, exp(F16(-float(i * i) / (2.0f * gs_const::kSsimSigma * gs_const::kSsimSigma))));
            tap[i] = e[0];
            total += i ? 2.0f * e[0] : e[0];
        }
        for (int i = 0; i <= kReach; ++i) {
            tap[i] /= total;
            all[kReach + i] = all[kReach - i] = tap[i];
        }
    }
};

// The rows [first, last) under the window centred on `row` that the picture has; the first one stands under tap `tap`.
struct Band {
    int first, last, tap;
    Band(int row, int height) {
        first = row - kReach < 0 ? 0 : row - kReach;
        last = row + kReach < height ? row + kReach + 1 : height;
        tap = first - (row - kReach);
    }
};

// q: aligned to a vector, sixteen floats readable on either side.
GS_INLINE F16 blur_row(const float* q, const Window& g) {
    const F16 before = load(q - 16), here = load(q), after = load(q + 16);
    F16 s = here * F16(g.tap[0]);
    s += (shifted<-1>(before, here, after, q) + shifted<1>(before, here, after, q)) * F16(g.tap[1]);
    s += (shifted<-2>(before, here, after, q) + shifted<2>(before, here, after, q)) * F16(g.tap[2]);
    s += (shifted<-3>(before, here, after, q) + shifted<3>(before, here, after, q)) * F16(g.tap[3]);
    s += (shifted<-4>(before, here, after, q) + shifted<4>(before, here, after, q)) * F16(g.tap[4]);
    s += (shifted<-5>(before, here, after, q) + shifted<5>(before, here, after, q)) * F16(g.tap[5]);
    return s;
}

GS_INLINE void clear(float* q, long n) {
    for (long i = 0; i < n; i += 16) store(q + i, F16(0.0f));
}

// One channel of rows [row0, row1): adds their L1 and SSIM, writes v_image. The maps of five more rows on either side are computed
// along the way, so that they live and die in the second-level cache. Everything is blurred by columns into a row with margins of
// zeros, then along that row.
static void loss_strip(LossArgs& args, int channel, int row0, int row1, float* scratch) {
    const PlaneArgs& p = args.planes;
    const Window g;
    const int stride = p.stride, pitch = stride + 2 * kMargin;
    const int columns = p.tiles_x * gs_const::kTile;  // beyond these the planes are not filled, the blurred rows stay zero
    const long plane = long(p.rows) * stride;
    const float* image = p.image + channel * plane;
    const uint8_t* target = args.target + channel * plane;
    float* out = args.v_image + channel * plane;
    for (int row = row0 < p.height ? p.height : row0; row < row1; ++row) clear(out + long(row) * stride, columns);
    if (row0 >= p.height) return;
    if (row1 > p.height) row1 = p.height;

    float* rows[5];
    for (int k = 0; k < 5; ++k) {
        rows[k] = scratch + long(k) * pitch;
        clear(rows[k], pitch);
    }
    // Rows [map0, map1) of the maps, and of the photo as floats [photo0, photo1).
    const int map0 = Band(row0, p.height).first, map1 = Band(row1 - 1, p.height).last;
    const int photo0 = Band(map0, p.height).first, photo1 = Band(map1 - 1, p.height).last;
    float* maps[3];
    for (int k = 0; k < 3; ++k) maps[k] = scratch + 5L * pitch + long(k) * (kStripRows + 2 * kReach) * stride;
    float* photo = scratch + 5L * pitch + 3L * (kStripRows + 2 * kReach) * stride;
    const F16 to_unit = 1.0f / 255.0f, zero = 0.0f, two = 2.0f, one = 1.0f;
    for (int row = photo0; row < photo1; ++row)
        for (int x = 0; x < columns; x += 16)
            store(photo + long(row - photo0) * stride + x, load_u8(target + long(row) * stride + x) * to_unit);

    const F16 c1 = gs_const::kSsimC1, c2 = gs_const::kSsimC2;
    F16 l1 = zero, ssim = zero;
    for (int row = map0; row < map1; ++row) {
        const Band band(row, p.height);
        for (int x = 0; x < columns; x += 16) {
            const float *a_row = image + long(band.first) * stride + x, *b_row = photo + long(band.first - photo0) * stride + x;
            F16 sx = zero, sy = zero, sxx = zero, syy = zero, sxy = zero;
            for (int k = 0; k < band.last - band.first; ++k) {
                const F16 tap = g.all[band.tap + k], a = load(a_row + long(k) * stride), b = load(b_row + long(k) * stride);
                const F16 ta = tap * a, tb = tap * b;
                sx += ta, sy += tb, sxx += ta * a, syy += tb * b, sxy += ta * b;
            }
            const int at = kMargin + x;
            store(rows[0] + at, sx), store(rows[1] + at, sy), store(rows[2] + at, sxx), store(rows[3] + at, syy),
                store(rows[4] + at, sxy);
        }
        const M16 own = row >= row0 && row < row1 ? all_lanes() : ~all_lanes();
        for (int x = 0; x < columns; x += 16) {
            const M16 inside = first_lanes(p.width - x);  // the others' maps are zero
            const int from = kMargin + x;
            const F16 mu = blur_row(rows[0] + from, g), nu = blur_row(rows[1] + from, g);
            const F16 s = blur_row(rows[2] + from, g) - mu * mu, t = blur_row(rows[3] + from, g) - nu * nu;
            const F16 c = blur_row(rows[4] + from, g) - mu * nu;
            const F16 A = two * mu * nu + c1, B = two * c + c2, C = mu * mu + nu * nu + c1, D = s + t + c2;
            const F16 inv = one / (C * D);
            const F16 value = A * B * inv;
            const F16 d_s = -value * C * inv;  // dSSIM/ds = -A B / (C D^2)
            const F16 d_c = two * A * inv;
            const F16 d_mu = two * (nu * B * inv - mu * value * D * inv) - two * mu * d_s - nu * d_c;
            const long at = long(row - map0) * stride + x;
            store(maps[0] + at, keep(inside, d_mu));
            store(maps[1] + at, keep(inside, d_s));
            store(maps[2] + at, keep(inside, d_c));
            ssim += keep(inside & own, value);
            l1 += keep(inside & own, abs(load(image + long(row) * stride + x) - load(photo + long(row - photo0) * stride + x)));
        }
    }
    args.l1 += double(sum(l1));
    args.ssim += double(sum(ssim));

    const F16 ssim_weight = args.ssim_weight, l1_weight = args.l1_weight;
    for (int row = row0; row < row1; ++row) {
        const Band band(row, p.height);
        for (int x = 0; x < columns; x += 16) {
            F16 s[3] = {zero, zero, zero};
            for (int k = 0; k < band.last - band.first; ++k) {
                const F16 tap = g.all[band.tap + k];
                const long at = long(band.first + k - map0) * stride + x;
                for (int q = 0; q < 3; ++q) s[q] += tap * load(maps[q] + at);
            }
            for (int q = 0; q < 3; ++q) store(rows[q] + kMargin + x, s[q]);
        }
        for (int x = 0; x < columns; x += 16) {
            const long at = long(row) * stride + x;
            const int from = kMargin + x;
            const F16 a = load(image + at), b = load(photo + long(row - photo0) * stride + x);
            const F16 d_mu = blur_row(rows[0] + from, g), d_s = blur_row(rows[1] + from, g), d_c = blur_row(rows[2] + from, g);
            const F16 sign = select(b < a, F16(1.0f), select(a < b, F16(-1.0f), zero));
            const F16 v = ssim_weight * (d_mu + two * a * d_s + b * d_c) + l1_weight * sign;
            store(out + at, keep(first_lanes(p.width - x), v));
        }
    }
}

}  // namespace gs::GS_ISA
