// SPDX-License-Identifier: Apache-2.0
// Stages 3 and 5: blending a tile of 16x16 pixels, and its gradient. A tile is sixteen blocks of 4x4 pixels, a block is one
// vector of sixteen lanes.
// Forward, block by block: a block's colour and transmittance stay in registers while its own list of splats passes by.
// Backward, splat by splat: the nine sums of a splat stay in registers while the blocks that it touched pass by.
#pragma once
#include "../blend.h"
#include "kernels.h"
#include "simd.h"

namespace gs::GS_ISA {

constexpr int kBatch = 128;   // splats whose lists and records (12 kB) stay in the first-level cache
constexpr int kBlocks = 16;

struct PixelGrid {  // centres of a block's pixels relative to the tile's corner, by the block's column and row
    F16 x[4], y[4];
    PixelGrid(float left, float top) {
        const float lane_x[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
        const float lane_y[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
        for (int i = 0; i < 4; ++i) {
            x[i] = load(lane_x) + F16(left + 4.0f * i + 0.5f);
            y[i] = load(lane_y) + F16(top + 4.0f * i + 0.5f);
        }
    }
};

// Which of sixteen splats (lanes) reach each of the tile's blocks: masks[b].
GS_INLINE void block_masks(const Record* records, int n, float left, float top, uint32_t masks[kBlocks]) {
    F16 r[16];
    for (int i = 0; i < 16; ++i) r[i] = load(&records[i < n ? i : 0].mx);
    transpose(r);
    const F16 mx = r[0], my = r[1], a = -r[2], b = -r[3], c = -r[4];
    const F16 reach = (r[5] - F16(gs_const::kLog2AlphaMin)) * F16(1.0001f) + F16(1e-4f);
    const F16 half = 0.5f;
    const F16 ratio_x = -half * b / a, ratio_y = -half * b / c;
    const M16 valid = first_lanes(n);
    F16 x0[4], x1[4];
    for (int i = 0; i < 4; ++i) {
        x0[i] = F16(left + 4.0f * i + 0.5f) - mx;
        x1[i] = x0[i] + F16(3.0f);
    }
    for (int row = 0; row < 4; ++row) {
        const F16 y0 = F16(top + 4.0f * row + 0.5f) - my, y1 = y0 + F16(3.0f);
        for (int col = 0; col < 4; ++col) {
            const F16 least = least_on_rectangle(a, b, c, ratio_x, ratio_y, x0[col], x1[col], y0, y1);
            masks[4 * row + col] = bits(valid & (least <= reach));
        }
    }
}

static void forward_tile(BlendArgs& args, int tile) {
    using namespace gs_const;
    const PlaneArgs& planes = args.planes;
    const int tile_x = tile % planes.tiles_x, tile_y = tile / planes.tiles_x;
    const float left = float(tile_x * kTile), top = float(tile_y * kTile);
    const PixelGrid grid(left, top);
    const long first = args.offsets[tile], last = args.offsets[tile + 1];
    const F16 width = float(planes.width), height = float(planes.height);
    const F16 alpha_min = kLog2AlphaMin, alpha_max = kLog2AlphaMax, stop_at = kTransmittanceMin, zero = 0.0f;

    // `t` falls with every splat, blended or not, so that the next value needs one multiplication; once it has passed the limit it
    // stays below, and nothing blends any more. `left_over` is the transmittance after the last splat that was blended.
    F16 t_of[kBlocks], left_over[kBlocks], red[kBlocks], green[kBlocks], blue[kBlocks];
    uint32_t live_blocks = 0;
    for (int b = 0; b < kBlocks; ++b) {
        const M16 inside = (grid.x[b % 4] < width) & (grid.y[b / 4] < height);
        t_of[b] = left_over[b] = keep(inside, F16(1.0f));
        red[b] = green[b] = blue[b] = zero;
        live_blocks |= uint32_t(any(inside)) << b;
    }

    Record local[kBatch];
    uint16_t lists[kBlocks][kBatch + 16];
    uint64_t evaluations = 0;
    for (long batch = first; batch < last; batch += kBatch) {
        uint16_t* used = args.used + batch;
        const int n = last - batch < kBatch ? int(last - batch) : kBatch;
        for (int i = 0; i < n; ++i) used[i] = 0;
        if (!live_blocks) continue;
        for (int i = 0; i < n; ++i) {
            if (batch + i + 8 < last) __builtin_prefetch(&args.records[args.tiles[batch + i + 8].id]);
            const Record& rec = args.records[args.tiles[batch + i].id];
            store(&local[i].mx, load(&rec.mx));
        }
        uint16_t* ends[kBlocks];
        for (int b = 0; b < kBlocks; ++b) ends[b] = lists[b];
        for (int i = 0; i < n; i += 16) {
            uint32_t masks[kBlocks];
            block_masks(local + i, n - i < 16 ? n - i : 16, left, top, masks);
            for (int b = 0; b < kBlocks; ++b) ends[b] = append_indices(ends[b], i, masks[b]);
        }
        for (int b = 0; b < kBlocks; ++b) {
            if (!((live_blocks >> b) & 1)) continue;
            const F16 x = grid.x[b % 4], y = grid.y[b / 4];
            F16 t = t_of[b], rest = left_over[b], cr = red[b], cg = green[b], cb = blue[b];
            M16 live = stop_at < t;
            for (const uint16_t* it = lists[b]; it != ends[b]; ++it) {
                const Record& rec = local[*it];
                F16 e = exponent(x - F16(rec.mx), y - F16(rec.my), F16(rec.ha), F16(rec.hb), F16(rec.hc), F16(rec.l));
                if (__builtin_expect(rec.l > kLog2AlphaMax, 0)) e = min(e, alpha_max);
                const M16 hit = alpha_min < e;
                const F16 alpha = exp2_where(hit, e);
                const F16 before = t;
                const M16 counts = hit & live;  // also if it only ends pixels: the backward pass has to end them too
                t = fused_nma(alpha, t, t);
                live = stop_at < t;
                const F16 w = keep(live, before - t);
                cr += w * F16(rec.color[0]);
                cg += w * F16(rec.color[1]);
                cb += w * F16(rec.color[2]);
                rest = select(live, t, rest);
                used[*it] |= uint16_t(uint32_t(any(counts)) << b);
                ++evaluations;
                if (__builtin_expect(!any(live), 0)) {
                    live_blocks &= ~(1u << b);
                    break;
                }
            }
            t_of[b] = t, left_over[b] = rest, red[b] = cr, green[b] = cg, blue[b] = cb;
        }
    }
    const long plane = long(planes.rows) * planes.stride;
    for (int b = 0; b < kBlocks; ++b) {
        const long at = long(tile_y * kTile + 4 * (b / 4)) * planes.stride + tile_x * kTile + 4 * (b % 4);
        const F16 t = left_over[b];
        store_block(planes.image + at, planes.stride, red[b] + t * F16(planes.background[0]));
        store_block(planes.image + plane + at, planes.stride, green[b] + t * F16(planes.background[1]));
        store_block(planes.image + 2 * plane + at, planes.stride, blue[b] + t * F16(planes.background[2]));
        store_block(planes.transmittance + at, planes.stride, t);
    }
    args.evaluations += evaluations;
}

template <bool kAbsGrad>
GS_INLINE void backward_tile_impl(BlendArgs& args, int tile) {
    using namespace gs_const;
    const PlaneArgs& planes = args.planes;
    const int tile_x = tile % planes.tiles_x, tile_y = tile / planes.tiles_x;
    const PixelGrid grid(float(tile_x * kTile), float(tile_y * kTile));
    const long first = args.offsets[tile], last = args.offsets[tile + 1];
    const F16 alpha_min = kLog2AlphaMin, alpha_max = kLog2AlphaMax, stop_at = kTransmittanceMin, zero = 0.0f;

    // behind = v . (what a ray sees past the splats so far), background included; T starts at one again.
    struct State {
        F16 t, behind, vr, vg, vb;
    } state[kBlocks];
    F16 odd = zero;  // sum of x - x: zero but for infinities and NaN
    const long plane = long(planes.rows) * planes.stride;
    for (int b = 0; b < kBlocks; ++b) {
        const long at = long(tile_y * kTile + 4 * (b / 4)) * planes.stride + tile_x * kTile + 4 * (b % 4);
        State& s = state[b];
        s.t = 1.0f;
        s.vr = load_block(planes.v_image + at, planes.stride);
        s.vg = load_block(planes.v_image + plane + at, planes.stride);
        s.vb = load_block(planes.v_image + 2 * plane + at, planes.stride);
        s.behind = s.vr * load_block(planes.image + at, planes.stride) +
                   s.vg * load_block(planes.image + plane + at, planes.stride) +
                   s.vb * load_block(planes.image + 2 * plane + at, planes.stride);
        if (planes.v_alpha)  // alpha = 1 - T: like a colour of -v_alpha behind everything
            s.behind -= load_block(planes.v_alpha + at, planes.stride) * load_block(planes.transmittance + at, planes.stride);
        odd += s.behind - s.behind;
    }
    uint64_t evaluations = 0;
    for (long i = first; i < last; ++i) {
        evaluations += uint64_t(__builtin_popcount(args.used[i]));
        if (i + 8 < last) {
            __builtin_prefetch(&args.records[args.tiles[i + 8].id]);
            __builtin_prefetch(args.slots + long(args.tiles[i + 8].slot) * kSlotFloats, 1);
        }
        float* slot = args.slots + long(args.tiles[i].slot) * kSlotFloats;
        F16 sums[12];
        for (int q = 0; q < 12; ++q) sums[q] = zero;
        const Record& rec = args.records[args.tiles[i].id];
        const F16 mx = rec.mx, my = rec.my, ha = rec.ha, hb = rec.hb, hc = rec.hc, l = rec.l;
        const F16 red = rec.color[0], green = rec.color[1], blue = rec.color[2];
        const bool capped = rec.l > kLog2AlphaMax;
        for (uint32_t left = args.used[i]; left; left &= left - 1) {
            const int b = __builtin_ctz(left);
            State& s = state[b];
            const F16 dx = grid.x[b % 4] - mx, dy = grid.y[b / 4] - my;
            F16 e = exponent(dx, dy, ha, hb, hc, l);
            M16 moves = all_lanes();  // alpha follows its parameters where it is not capped
            if (__builtin_expect(capped, 0)) {
                moves = e < alpha_max;
                e = min(e, alpha_max);
            }
            const F16 alpha = exp2_where(alpha_min < e, e);
            const F16 before = s.t;
            s.t = fused_nma(alpha, before, before);  // as in the forward pass, to the last bit
            const M16 live = stop_at < s.t;
            const F16 w = keep(live, before - s.t);
            const F16 q = product(w, s.vr * red + s.vg * green + s.vb * blue);
            s.behind -= q;
            const F16 d = keep(live & moves, log_alpha_vjp(q, alpha, s.behind));
            const F16 d_x = product(d, dx), d_y = product(d, dy);
            sums[kAlpha] += d;
            sums[kX] += d_x;
            sums[kY] += d_y;
            sums[kXX] += d_x * dx;
            sums[kXY] += d_x * dy;
            sums[kYY] += d_y * dy;
            sums[kRed] += w * s.vr;
            sums[kGreen] += w * s.vg;
            sums[kBlue] += w * s.vb;
            if (kAbsGrad) {  // |dL/dmx| = |d| |a dx + b dy|, in units of -ln 2 (2 ha, hb)
                sums[kAbsX] += abs(ha * (d_x + d_x) + hb * d_y);
                sums[kAbsY] += abs(hc * (d_y + d_y) + hb * d_x);
            }
        }
        const F16 total = sum_each(sums);
        store_first(slot, total, kSlotFloats);
    }
    args.finite = !any(~(odd <= zero));
    args.evaluations += evaluations;
}

static void backward_tile(BlendArgs& args, int tile) {
    if (args.absgrad) backward_tile_impl<true>(args, tile);
    else backward_tile_impl<false>(args, tile);
}

}  // namespace gs::GS_ISA
