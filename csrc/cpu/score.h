// SPDX-License-Identifier: Apache-2.0
// How far a render is from its photo, for evaluation: the render in 8 bits, its squared error in integers, and SSIM as loss.h
// has it, of the 8 bits and without a gradient. A pixel that does not count is in no sum; SSIM's windows see it as it is.
#pragma once
#include "loss.h"

namespace gs::GS_ISA {

// One row: image and photo [width][3] -> 8 bits in planes. floor(255 x + 0.5) in double, where it is exact; NaN is black.
static void score_row(ScoreArgs& args, int row) {
    const PlaneArgs& p = args.planes;
    const int columns = p.tiles_x * gs_const::kTile;
    const long plane = long(p.rows) * p.stride, at = long(row) * p.stride, from = 3L * row * p.width;
    const float* image = args.image + from;
    uint8_t* picture = args.picture + from;
    for (long i = 0; i < 3L * p.width; ++i) {
        const float x = image[i], clipped = x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f;
        picture[i] = uint8_t(int(255.0 * double(clipped) + 0.5));
    }
    if (!args.photo) return;
    const uint8_t* photo = args.photo + from;
    uint8_t* counts = args.counts + at;
    for (int x = 0; x < columns; ++x) counts[x] = x < p.width && (!args.mask || args.mask[long(row) * p.width + x]);
    for (int x = 0; x < p.width; ++x) args.counting += counts[x];
    for (int c = 0; c < 3; ++c) {
        uint8_t *ours = args.ours + c * plane + at, *theirs = args.theirs + c * plane + at;
        for (int x = 0; x < p.width; ++x) ours[x] = picture[3 * x + c], theirs[x] = photo[3 * x + c];
        for (int x = p.width; x < columns; ++x) ours[x] = theirs[x] = 0;
        for (int begin = 0; begin < p.width; begin += 4096) {  // so many squares fit in 32 bits
            const int end = begin + 4096 < p.width ? begin + 4096 : p.width;
            uint32_t squares = 0;
            for (int x = begin; x < end; ++x) {
                const int error = counts[x] ? int(ours[x]) - int(theirs[x]) : 0;
                squares += uint32_t(error * error);
            }
            args.squares += squares;
        }
    }
}

// SSIM of one channel of rows [row0, row1), added up. As loss_rows, but for its second half.
static void score_strip(ScoreArgs& args, int channel, int row0, int row1, float* scratch) {
    const PlaneArgs& p = args.planes;
    const Window g;
    const int pitch = p.stride + 2 * kMargin, columns = p.tiles_x * gs_const::kTile;
    const long plane = channel * long(p.rows) * p.stride;
    float* room = scratch;
    const auto take = [&room, pitch](int rows) {
        float* begin = room;
        room += long(rows) * pitch;
        return begin;
    };
    const Ring u{take(kLossRing), pitch}, v{take(kLossRing), pitch};
    float* lines[4][kLossRows];
    for (auto& map : lines)
        for (float*& line : map) clear(line = take(1), pitch);
    const F16 to_unit = 1.0f / 255.0f;
    int next = row0 - kReach;
    for (int top = row0; top < row1; top += kLossRows) {
        for (; next < top + kLossRows + kReach; ++next) {
            if (next < 0 || next >= p.height) {
                clear(u.row(next), columns), clear(v.row(next), columns);
                continue;
            }
            const long at = plane + long(next) * p.stride;
            for (int x = 0; x < columns; x += 16) {
                const F16 a = load_u8(args.ours + at + x), b = load_u8(args.theirs + at + x);
                store(u.row(next) + x, (a + b) * to_unit), store(v.row(next) + x, (a - b) * to_unit);
            }
        }
        blur_moments(u, v, top, columns, g, lines);
        F16 ssim = 0.0f;  // of few rows: a longer sum would round
        for (int i = 0; i < kLossRows && top + i < row1; ++i)
            for (int x = 0; x < columns; x += 16) {
                F16 blurred[4];
                for (int q = 0; q < 4; ++q) blurred[q] = blur_row(lines[q][i] + kMargin + x, g);
                const auto [A, B, C, D] = ssim_factors(blurred[0], blurred[2], blurred[1], blurred[3]);
                const M16 counts = F16(0.0f) < load_u8(args.counts + long(top + i) * p.stride + x);
                ssim += keep(counts, A * B * reciprocal(C * D));
            }
        args.ssim += double(sum(ssim));
    }
}

}  // namespace gs::GS_ISA
