// SPDX-License-Identifier: Apache-2.0
// Exposure of a photo between forward and loss: C' = gain C + offset, a channel each, on a view's planes.
// A pixel that the photo shows saturated (255) says only "at least": what lies above 1 there counts as 1, without a gradient.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace gs {

struct Exposure {
    float gain[3], offset[3];
};

// C' from the image of the planes.
void expose(const PlaneArgs& planes, const uint8_t* target, const Exposure& exposure, float* exposed);
// v_image of C' becomes that of C; gradient: of log gain, then offset, a channel each. The same sums for any number of threads.
void expose_vjp(const PlaneArgs& planes, const uint8_t* target, const Exposure& exposure, const float* exposed, float* v_image,
                double gradient[6]);

}  // namespace gs
