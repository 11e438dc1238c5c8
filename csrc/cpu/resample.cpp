// SPDX-License-Identifier: Apache-2.0
// Every product and sum is rounded to float32 by itself, in the order of the NumPy code: this file is compiled without
// contraction to FMA.
#include "resample.h"

#include <algorithm>
#include <cstring>

namespace gs {

namespace {

using Four = float __attribute__((vector_size(16)));
using FourInts = int32_t __attribute__((vector_size(16)));

constexpr double kFar = 1e9;  // of a place: no photo is so large

// Keys' cubic convolution with a = -0.5 at -1, 0, 1, 2 of the fraction t.
inline Four catmull_rom(float t) {
    const float t2 = t * t, t3 = t2 * t;
    return Four{-0.5f, 1.5f, -1.5f, 0.5f} * t3 + Four{1, -2.5f, 2, -0.5f} * t2 + (Four{-0.5f, 0, 0.5f, 0} * t + Four{0, 1, 0, 0});
}

inline double finite(double x) { return x != x ? 0.0 : std::min(std::max(x, -kFar), kFar); }

// The whole number below x and what is left.
inline long split(double x, float& fraction) {
    long whole = long(x);
    whole -= double(whole) > x;
    fraction = float(x - double(whole));
    return whole;
}

// A pixel of C channels: channel c times 256^c, which compilers do in few instructions, and which changes no rounding.
template <int C>
inline Four pixel(const uint8_t* from) {
    if constexpr (C == 4) return Four{float(from[0]), from[1] * 0x1p8f, from[2] * 0x1p16f, from[3] * 0x1p24f};
    int32_t all;
    std::memcpy(&all, from, 4);
    return __builtin_convertvector((FourInts{all, all, all, all} & FourInts{0xff, 0xff00, 0xff0000, 0}), Four);
}
constexpr Four kUnit = {1, 0x1p-8f, 0x1p-16f, 0x1p-24f};

// The same at the border: pixels are looked up one by one, and nothing behind the picture is read.
template <int C>
Four at_border(const Picture& picture, long column, long row, Four wx, Four wy) {
    Four total = {};
    for (int j = 0; j < 4; ++j) {
        const uint8_t* from = picture.data + C * picture.width * std::clamp(row + j - 1, 0l, picture.height - 1);
        Four line = {};
        for (int i = 0; i < 4; ++i) {
            const long c = column + i - 1, width = picture.width;
            uint8_t bytes[4] = {};
            std::memcpy(bytes, from + C * (picture.wraps ? (c % width + width) % width : std::clamp(c, 0l, width - 1)), C);
            line += pixel<C>(bytes) * wx[i];
        }
        total += line * wy[j];
    }
    return total;
}

template <int C>
inline Four inside(const Picture& picture, long column, long row, Four wx, Four wy) {
    const uint8_t* from = picture.data + C * (picture.width * (row - 1) + column - 1);
    Four total = {};
    for (int j = 0; j < 4; ++j, from += C * picture.width) {
        Four line = {};
        for (int i = 0; i < 4; ++i) line += pixel<C>(from + C * i) * wx[i];
        total += line * wy[j];
    }
    return total;
}

template <int C>
void resample_channels(const Picture& picture, const double* x, const double* y, long count, uint8_t* out) {
    for (long n = 0; n < count; ++n, out += C) {
        float tx, ty;
        const long column = split(finite(x[n]) - 0.5, tx), row = split(finite(y[n]) - 0.5, ty);
        const Four wx = catmull_rom(tx), wy = catmull_rom(ty);
        // The last pixel of a row is left to the other: four bytes are read of it.
        const bool is_inside = column >= 1 && column + 3 < picture.width && row >= 1 && row + 2 < picture.height;
        Four total = kUnit * (is_inside ? inside<C>(picture, column, row, wx, wy) : at_border<C>(picture, column, row, wx, wy));
        total = total > 0.0f ? total : Four{};
        total = total < 255.0f ? total : Four{} + 255.0f;
        const FourInts whole = FourInts(total + 0x1.8p23f);  // rounded half to even, in the lowest bits
        for (int c = 0; c < C; ++c) out[c] = uint8_t(whole[c]);
    }
}

}  // namespace

void resample(const Picture& picture, const double* x, const double* y, long count, uint8_t* out) {
    switch (picture.channels) {
        case 1:
            return resample_channels<1>(picture, x, y, count, out);
        case 2:
            return resample_channels<2>(picture, x, y, count, out);
        case 3:
            return resample_channels<3>(picture, x, y, count, out);
        default:
            return resample_channels<4>(picture, x, y, count, out);
    }
}

}  // namespace gs
