// SPDX-License-Identifier: Apache-2.0
// Stage 1: sixteen Gaussians at a time -> records: projection, colour, and the tiles that the splat's ellipse touches.
#pragma once
#include "../gaussian.h"
#include "../sh.h"
#include "kernels.h"
#include "simd.h"

namespace gs::GS_ISA {

// n <= 16 rows of kCount floats <-> lanes: out[j] holds column j. Missing rows read as zero.
template <int kCount>
GS_INLINE void load_columns(const float* rows, int n, F16 out[kCount]) {
    F16 t[kCount];
    for (int j = 0; j < kCount; ++j) t[j] = load_first(rows + 16 * j, n * kCount - 16 * j);
    rows_to_columns<kCount>(t, out);
}
template <int kCount>
GS_INLINE void store_columns(float* rows, int n, const F16 in[kCount]) {
    F16 t[kCount];
    columns_to_rows<kCount>(in, t);
    for (int j = 0; j < kCount; ++j) store_first(rows + 16 * j, t[j], n * kCount - 16 * j);
}

// As load_columns for the first `count` <= 45 of `stride` columns, in groups of sixteen transposed in registers. Missing rows
// repeat the last one: nothing reads their lanes.
GS_INLINE void load_sh(const float* rows, int n, int stride, int count, F16 out[48]) {
    for (int group = 0; group < count; group += 16) {
        F16 r[16];
        const int rest = stride - group;
        for (int i = 0; i < 16; ++i) r[i] = load_first(rows + long(i < n ? i : n - 1) * stride + group, rest < 16 ? rest : 16);
        transpose(r);
        for (int j = 0; j < 16; ++j) out[group + j] = r[j];
    }
}

GS_INLINE Gaussian<F16> load_gaussians(const Params& p, long first, int n) {
    Gaussian<F16> g;
    F16 t[4];
    load_columns<3>(p.means + 3 * first, n, t);
    g.mean = {t[0], t[1], t[2]};
    load_columns<4>(p.quats + 4 * first, n, t);
    g.qw = t[0], g.qx = t[1], g.qy = t[2], g.qz = t[3];
    load_columns<3>(p.log_scales + 3 * first, n, t);
    g.log_scale = {t[0], t[1], t[2]};
    g.logit = load_first(p.logits + first, n);
    return g;
}

struct Color {
    F16 rgb[3];           // before the clamp at zero
    Vec3<F16> direction;  // unit, camera -> mean
    F16 inv_distance;
    F16 basis[15];
};

GS_INLINE Color shade(const Params& p, const CameraParams& cam, Vec3<F16> mean, long first, int n, int degree, int stride,
                   F16 sh[48]) {
    Color c;
    const Vec3<F16> d = {mean.x - F16(cam.position[0]), mean.y - F16(cam.position[1]), mean.z - F16(cam.position[2])};
    c.inv_distance = F16(1.0f) / sqrt(max(dot(d, d), F16(1e-24f)));
    c.direction = scale(d, c.inv_distance);
    F16 dc[3];
    load_columns<3>(p.sh0 + 3 * first, n, dc);
    for (int k = 0; k < 3; ++k) c.rgb[k] = F16(kSH0) * dc[k] + F16(0.5f);
    const int bands = (degree + 1) * (degree + 1) - 1;
    if (bands > 0) {
        sh_basis(c.direction, degree, c.basis);
        load_sh(p.shN + first * 3 * stride, n, 3 * stride, 3 * bands, sh);
        for (int k = 0; k < bands; ++k)
            for (int j = 0; j < 3; ++j) c.rgb[j] += c.basis[k] * sh[3 * k + j];
    }
    return c;
}

// The interval of x that the ellipse a dx^2 + 2 b dx dy + c dy^2 <= reach covers while dy lies in [y0, y1]. The rightmost
// point of the ellipse stands at dy = -b / c times its dx; outside the band the nearest dy inside is the best. det is
// ac - b^2 from elsewhere: that difference has no digit left where the ellipse is a thousand times as long as thick.
GS_INLINE void span(F16 a, F16 b, F16 c, F16 det, F16 reach, F16 y0, F16 y1, F16& left, F16& right) {
    const F16 far = sqrt(reach * c / max(det, F16(1e-30f)));
    const F16 dy = b / c * far;
    const F16 inv = F16(1.0f) / a, zero = 0.0f;
    const F16 yr = clamp(-dy, y0, y1), yl = clamp(dy, y0, y1);
    right = (sqrt(max(a * reach - det * yr * yr, zero)) - b * yr) * inv;
    left = (-sqrt(max(a * reach - det * yl * yl, zero)) - b * yl) * inv;
}

// Sixteen rows' spans -> tile columns [from, to) relative to the box, as floats. A tile counts where its outermost pixel
// centres, half a pixel inside its sides, lie in the interval; the slack covers rounding, never a visible pixel.
GS_INLINE void tile_span(F16 mx, F16 my, F16 a, F16 b, F16 c, F16 det, F16 reach, F16 x0, F16 w, F16 row, F16& from, F16& to) {
    const F16 tile = float(gs_const::kTile), half = 0.5f, slack = 1e-3f;
    F16 left, right;
    const F16 top = row * tile + half - my;
    span(a, b, c, det, reach, top - slack, top + tile - F16(1.0f) + slack, left, right);
    const F16 inv = 1.0f / gs_const::kTile;
    from = clamp(ceil((mx + left - slack - tile + half) * inv) - x0, F16(0.0f), w);
    to = clamp(floor((mx + right + slack - half) * inv) + F16(1.0f) - x0, from, w);
}

// What the cut at 1/255 leaves: a dx^2 + 2 b dx dy + c dy^2 <= 2 ln(255 opacity), a little wider for rounding.
GS_INLINE F16 visible_reach(F16 opacity) {
    return max(F16(2.0f) * log(F16(255.0f) * opacity), F16(0.0f)) * F16(1.0001f) + F16(1e-4f);
}

static bool project_range(const ProjectArgs& args, long first, long last) {
    using namespace gs_const;
    bool large = false;
    const CameraParams& cam = *args.camera;
    for (long i = first; i < last; i += 16) {
        const int n = last - i < 16 ? int(last - i) : 16;
        const Gaussian<F16> g = load_gaussians(args.params, i, n);
        const Projection<F16> k = project_parts(g, cam, args.antialiased);
        const Splat<F16> s = project(k, cam);
        F16 sh[48];
        const Color color = shade(args.params, cam, g.mean, i, n, args.sh_degree, args.sh_stride, sh);

        const F16 zero = 0.0f;
        const F16 extent = min(F16(kMaxExtent), sqrt(max(F16(2.0f) * log(max(F16(255.0f) * s.opacity, F16(1e-9f))), zero)));
        const F16 rx = ceil(extent * sqrt(s.cov_a)), ry = ceil(extent * sqrt(s.cov_c));
        const F16 width = float(cam.width), height = float(cam.height);
        // The sole visibility gate; every comparison is false for NaN.
        M16 visible = first_lanes(n) & (s.depth >= F16(kNearPlane)) & (s.opacity >= F16(kAlphaMin)) & (rx > zero) & (ry > zero);
        visible = visible & (s.mx + rx > zero) & (s.mx - rx < width) & (s.my + ry > zero) & (s.my - ry < height);
        visible = visible & (s.depth < F16(1e30f)) & (k.det_blur < F16(1e30f));
        // exp() takes NaN for a small number: look at what went in. x - x is zero but for infinities and NaN.
        const F16 inputs =
            g.mean.x + g.mean.y + g.mean.z + g.qw + g.qx + g.qy + g.qz + g.log_scale.x + g.log_scale.y + g.log_scale.z + g.logit;
        visible = visible & (inputs - inputs <= zero);

        // Box of tiles from the radii, then the rows' spans.
        const F16 inv_tile = 1.0f / kTile;
        const F16 tiles_x = float((cam.width + kTile - 1) / kTile), tiles_y = float((cam.height + kTile - 1) / kTile);
        const F16 x0 = clamp(floor((s.mx - rx) * inv_tile), zero, tiles_x), x1 = clamp(ceil((s.mx + rx) * inv_tile), zero, tiles_x);
        const F16 y0 = clamp(floor((s.my - ry) * inv_tile), zero, tiles_y), y1 = clamp(ceil((s.my + ry) * inv_tile), zero, tiles_y);
        const F16 w = keep(visible, x1 - x0), h = keep(visible, y1 - y0);
        const F16 reach = visible_reach(s.opacity), det = F16(1.0f) / k.det_blur;
        float fx0[16], fy0[16], fw[16], fh[16];
        store(fx0, x0), store(fy0, y0), store(fw, w), store(fh, h);
        uint64_t mask[16] = {};
        int most_rows = 0;
        for (int j = 0; j < n; ++j) {
            if (fw[j] * fh[j] > 64.0f) large = true;
            else if (int(fh[j]) > most_rows) most_rows = int(fh[j]);
        }
        for (int r = 0; r < most_rows; ++r) {
            F16 from, to;
            tile_span(s.mx, s.my, s.a, s.b, s.c, det, reach, x0, w, y0 + F16(float(r)), from, to);
            float ffrom[16], fto[16];
            store(ffrom, from), store(fto, to);
            for (int j = 0; j < n; ++j) {
                if (r >= int(fh[j]) || fw[j] * fh[j] > 64.0f) continue;
                const int a = int(ffrom[j]), b = int(fto[j]);
                if (a < b) mask[j] |= (~0ull >> (64 - (b - a))) << (r * int(fw[j]) + a);
            }
        }

        F16 line[16];
        const F16 half_log2e = -0.5f * kLog2E;
        line[0] = s.mx, line[1] = s.my;
        line[2] = half_log2e * s.a, line[3] = F16(-kLog2E) * s.b, line[4] = half_log2e * s.c;
        line[5] = log2(max(s.opacity, F16(1e-30f)));
        for (int c = 0; c < 3; ++c) line[6 + c] = max(color.rgb[c], zero);
        line[9] = s.opacity;
        for (int c = 0; c < 10; ++c) line[c] = keep(visible, line[c]);  // a culled row holds nothing that is not finite
        for (int c = 10; c < 16; ++c) line[c] = zero;
        transpose(line);
        float depth[16], dets[16];
        store(depth, s.depth), store(dets, det);
        const uint32_t seen = bits(visible);
        for (int j = 0; j < n; ++j) {
            Record& rec = args.records[i + j];
            store(&rec.mx, line[j]);
            rec.x0 = uint16_t(fx0[j]), rec.y0 = uint16_t(fy0[j]), rec.w = uint16_t(fw[j]), rec.h = uint16_t(fh[j]);
            rec.mask = mask[j], rec.det = dets[j];
            rec.tiles = uint32_t(__builtin_popcountll(mask[j]));
            uint32_t key;
            __builtin_memcpy(&key, &depth[j], 4);
            args.depth_keys[i + j] = (seen >> j) & 1 ? key : 0xFFFFFFFFu;
        }
        if (args.out_means2d) {
            const F16 means2d[2] = {keep(visible, s.mx), keep(visible, s.my)};
            const F16 conics[3] = {keep(visible, s.a), keep(visible, s.b), keep(visible, s.c)};
            const F16 colors[3] = {keep(visible, max(color.rgb[0], zero)), keep(visible, max(color.rgb[1], zero)),
                                   keep(visible, max(color.rgb[2], zero))};
            store_columns<2>(args.out_means2d + 2 * i, n, means2d);
            store_columns<3>(args.out_conics + 3 * i, n, conics);
            store_columns<3>(args.out_colors + 3 * i, n, colors);
            store_first(args.out_depths + i, keep(visible, s.depth), n);
            store_first(args.out_opacities + i, keep(visible, s.opacity), n);
            float frx[16], fry[16];
            store(frx, min(rx, F16(1e9f))), store(fry, min(ry, F16(1e9f)));
            for (int j = 0; j < n; ++j) {
                args.out_radii[2 * (i + j)] = (seen >> j) & 1 ? int(frx[j]) : 0;
                args.out_radii[2 * (i + j) + 1] = (seen >> j) & 1 ? int(fry[j]) : 0;
            }
        }
    }
    return large;
}

// A box of more than 64 tiles: the spans of its rows, sixteen at a time.
static void box_spans(const Record& rec, uint16_t* out) {
    const F16 a = rec.ha * (-2.0f * gs_const::kLn2), b = rec.hb * -gs_const::kLn2, c = rec.hc * (-2.0f * gs_const::kLn2);
    const F16 reach = visible_reach(rec.opacity);
    const float iota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int r = 0; r < rec.h; r += 16) {
        F16 from, to;
        tile_span(rec.mx, rec.my, a, b, c, rec.det, reach, float(rec.x0), float(rec.w), load(iota) + F16(float(rec.y0 + r)), from,
                  to);
        float ffrom[16], fto[16];
        store(ffrom, from), store(fto, to);
        for (int j = 0; j < 16 && r + j < rec.h; ++j) {
            out[2 * (r + j)] = uint16_t(ffrom[j]);
            out[2 * (r + j) + 1] = uint16_t(fto[j]);
        }
    }
}

}  // namespace gs::GS_ISA
