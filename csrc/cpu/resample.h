// SPDX-License-Identifier: Apache-2.0
// Pixels of a photo at any place in it: bicubic, as gsplat_train/datasets/undistort.py has it, and the same bytes.
#pragma once
#include <cstdint>

namespace gs {

struct Picture {
    const uint8_t* data;  // [height, width, channels]
    long width, height, channels;  // 1 to 4
    bool wraps;                    // its left side goes on at its right
};

// The picture at the places (x, y) [count], pixels with centres at +0.5, into [count, channels]. What is not finite is 0 or
// beyond the border, whose pixels go on for ever. Starts no threads.
void resample(const Picture& picture, const double* x, const double* y, long count, uint8_t* out);

}  // namespace gs
