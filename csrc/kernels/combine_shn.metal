// SPDX-License-Identifier: Apache-2.0
// Stage 6 of a step over several views, the last part, 128 Gaussians a group: Adam of shN. The gradient of band k is the sum over the
// views of basis k of the direction times the colour's gradient, divided by their number.
threadgroup float grads[128 * 45];
threadgroup uint moves[128];
const uint tid = thread_position_in_threadgroup.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]), count = rows_from(group * 128, n), width = 3 * uint(sizes[kRest]);
if (tid < count) {
    const uint i = group * 128 + tid, stride = kViewHeader + uint(sizes[kParts]) * n;
    float g[45];
    #pragma unroll
    for (uint k = 0; k < 45; ++k) g[k] = 0.0f;
    for (uint k = 0; k < uint(sizes[kViews]); ++k) {
        const uint at = k * stride + kViewHeader + 11 * n + 3 * i;
        const float rgb[3] = {views[at], views[at + 1], views[at + 2]};
        const Vec3<float> towards = {params[3 * i] - cameras[32 * k + 12], params[3 * i + 1] - cameras[32 * k + 13],
                                     params[3 * i + 2] - cameras[32 * k + 14]};
        const Vec3<float> direction = scale(towards, 1.0f / sqrt(max(dot(towards, towards), 1e-24f)));
        float b[15] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        sh_basis(direction, sizes[kDegree], b);
        #pragma unroll
        for (uint j = 0; j < 45; ++j) g[j] += b[j / 3] * rgb[j % 3];
    }
    #pragma unroll
    for (uint k = 0; k < 45; ++k) grads[45 * tid + k] = g[k] * settings[kShare];
    moves[tid] = moving[i];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
#define GRADIENT(line, place, band) grads[45 * line + 3 * band + (place - 3 * band)]
#define ADAM(p, m, v, g, rate) \
    adam_step_over(p, m, v, g, rate, v_correction, settings[kBeta1], settings[kBeta2], settings[kEps])
#include "parts/adam_of_shn.metal"
#undef GRADIENT
#undef ADAM
