// SPDX-License-Identifier: Apache-2.0
#include "exposure.h"

#include <algorithm>
#include <vector>

#include "../constants.h"
#include "parallel.h"

namespace gs {

namespace {

constexpr int kLanes = 16;  // partial sums of a row, so that compilers take vectors and the order stays the same

constexpr int kRows = 32;   // a task

struct Row {
    int channel;
    long at;  // of its first pixel in the planes
};

// Calls body(row, Row) for each row of three channels, counted through; beyond the picture there is nothing to do.
template <class F>
void each_row(const PlaneArgs& p, F&& body) {
    const int rows = 3 * p.height;
    parallel_for((rows + kRows - 1) / kRows, [&](int task) {
        for (int i = task * kRows; i < std::min(rows, (task + 1) * kRows); ++i)
            body(i, Row{i / p.height, (long(i / p.height) * p.rows + i % p.height) * p.stride});
    });
}

}  // namespace

void behind(const Exposure& exposure, const float background[3], float result[3]) {
    for (int c = 0; c < 3; ++c) result[c] = (background[c] - exposure.offset[c]) / exposure.gain[c];
}

void expose(const PlaneArgs& p, const uint8_t* target, const Exposure& exposure, float* exposed) {
    const int columns = p.tiles_x * gs_const::kTile;
    each_row(p, [&](int, const Row& row) {
        const float gain = exposure.gain[row.channel], offset = exposure.offset[row.channel];
        const float* image = p.image + row.at;
        float* out = exposed + row.at;
        const uint8_t* photo = target + row.at;
        for (int x = 0; x < columns; ++x) {
            const float value = gain * image[x] + offset;
            out[x] = photo[x] == 255 ? std::min(value, 1.0f) : value;
        }
    });
}

void expose_vjp(const PlaneArgs& p, const uint8_t* target, const Exposure& exposure, const float* background, const float* exposed,
                float* v_image, double gradient[6]) {
    const int columns = p.tiles_x * gs_const::kTile;
    struct Sums {
        double gain, offset;
    };
    std::vector<Sums> sums(size_t(3) * p.height);
    each_row(p, [&](int i, const Row& row) {
        const float gain = exposure.gain[row.channel], offset = exposure.offset[row.channel];
        const float* image = exposed + row.at;
        const uint8_t* photo = target + row.at;
        float* v = v_image + row.at;
        float along[kLanes] = {}, plain[kLanes] = {};
        for (int x = 0; x < columns; x += kLanes)
            for (int j = 0; j < kLanes; ++j) {
                const float value = image[x + j];
                const float here = photo[x + j] == 255 && value >= 1.0f ? 0.0f : v[x + j];
                along[j] += here * (value - offset);
                plain[j] += here;
                v[x + j] = gain * here;
            }
        if (background) {  // what shines through is not exposed
            const float* through = p.transmittance + (row.at - long(row.channel) * p.rows * p.stride);
            for (int x = 0; x < columns; x += kLanes)
                for (int j = 0; j < kLanes; ++j) {
                    const float here = v[x + j] / gain * through[x + j];
                    along[j] -= here * (background[row.channel] - offset);
                    plain[j] -= here;
                }
        }
        Sums& own = sums[i];
        own = {0.0, 0.0};
        for (int j = 0; j < kLanes; ++j) own.gain += along[j], own.offset += plain[j];
    });
    std::fill_n(gradient, 6, 0.0);
    for (int i = 0; i < 3 * p.height; ++i) {
        gradient[i / p.height] += sums[i].gain;
        gradient[3 + i / p.height] += sums[i].offset;
    }
}

}  // namespace gs
