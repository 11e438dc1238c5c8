// SPDX-License-Identifier: Apache-2.0
// Exposure of a photo between forward and loss: C' = gain C + offset, a channel each, on a view's planes.
// A pixel that the photo shows saturated (255) says only "at least": what lies above 1 there counts as 1, without a gradient.
// A see-through photo (one with alpha) exposes the splats alone, C' = gain S + offset (1 - T) + T background, S being what the
// splats add and T what they let through. That is gain C + offset, where the render's background is `behind`.
#pragma once
#include <cstdint>

#include "kernels.h"

namespace gs {

struct Exposure {
    float gain[3], offset[3];
};

// The background to render before, so that C' has `background`.
void behind(const Exposure& exposure, const float background[3], float result[3]);
// C' from the image of the planes.
void expose(const PlaneArgs& planes, const uint8_t* target, const Exposure& exposure, float* exposed);
// v_image of C' becomes that of C; gradient: of log gain, then offset, a channel each. The same sums for any number of threads.
// background: of C' where the photo is see-through, else null.
void expose_vjp(const PlaneArgs& planes, const uint8_t* target, const Exposure& exposure, const float* background,
                const float* exposed, float* v_image, double gradient[6]);

}  // namespace gs
