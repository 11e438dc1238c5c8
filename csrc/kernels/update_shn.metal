// SPDX-License-Identifier: Apache-2.0
// Stage 6b, 128 Gaussians a group: Adam of shN, most of the state. The rows of a group lie side by side, and its threads take them
// four numbers at a time. The gradient of band k is basis k of the direction times the colour's gradient.
threadgroup float basis[128 * 15];
threadgroup float rgb[128 * 3];
threadgroup uint moves[128];
const uint tid = thread_position_in_threadgroup.x, group = threadgroup_position_in_grid.x;
const uint count = rows_from(group * 128, uint(sizes[kN])), width = 3 * uint(sizes[kRest]);
if (tid < count) {
    const float4 view = ((const device float4*)colour)[2 * (group * 128 + tid)];
    const float4 v_rgb = ((const device float4*)colour)[2 * (group * 128 + tid) + 1];
    float b[15] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    const Vec3<float> direction = {view.x, view.y, view.z};
    sh_basis(direction, sizes[kDegree], b);
    #pragma unroll
    for (uint k = 0; k < 15; ++k) basis[15 * tid + k] = b[k];
    rgb[3 * tid] = v_rgb.x, rgb[3 * tid + 1] = v_rgb.y, rgb[3 * tid + 2] = v_rgb.z;
    moves[tid] = view.w != 0.0f ? 1u : 0u;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
#define GRADIENT(line, place, band) basis[15 * line + band] * rgb[3 * line + place - 3 * band]
#define ADAM(p, m, v, g, rate) adam_step(p, m, v, g, rate, v_correction)
#include "parts/adam_of_shn.metal"
#undef GRADIENT
#undef ADAM
