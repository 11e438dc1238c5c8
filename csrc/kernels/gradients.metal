// SPDX-License-Identifier: Apache-2.0
// Stage 6 of a step over several views, first half, a thread a Gaussian: the gradients of one view, without regularisers, behind a
// header that says how the view went. Nothing moves. The colour's gradient stands for sh0's and shN's: `combine` makes them of it.
threadgroup float shared[128 * 15];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup;
const uint i = thread_position_in_grid.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]);
const bool valid = i < n, well = status[kState] == kWell && is_finite(loss[0]);
const int degree = sizes[kDegree], bands = (degree + 1) * (degree + 1) - 1;
const uint row = 3 * uint(sizes[kRest]) * i;

#include "parts/slot_sums.metal"

float v_rgb[3] = {0.0f, 0.0f, 0.0f};
Vec3<float> view_direction = {0.0f, 0.0f, 0.0f};
if (valid) {
    #include "parts/gaussian_gradient.metal"
    const float grad[14] = {v.mean.x, v.mean.y, v.mean.z, v.qw, v.qx, v.qy, v.qz, v.log_scale.x, v.log_scale.y, v.log_scale.z,
                            v.logit, v_rgb[0], v_rgb[1], v_rgb[2]};
    #pragma unroll
    for (uint k = 0; k < 14; ++k) shared[15 * tid + k] = grad[k];
    if (STATS) {
        const float half_width = 0.5f * float(sizes[kWidth]), half_height = 0.5f * float(sizes[kHeight]);
        const float sx = d.mx * half_width, sy = d.my * half_height;
        const float ax = c.y * kLn2 * half_width, ay = c.z * kLn2 * half_height;
        view[kViewHeader + 14 * n + i] = seen ? sqrt(sx * sx + sy * sy) : 0.0f;
        view[kViewHeader + 15 * n + i] = seen ? sqrt(ax * ax + ay * ay) : 0.0f;
        view[kViewHeader + 16 * n + i] = seen ? 1.0f : 0.0f;
    }
}
(void)view_direction;  // `combine_shn` makes it again
threadgroup_barrier(mem_flags::mem_threadgroup);
// Each part is as long as its parameters, and neighbours lie side by side.
const uint widths[5] = {3, 4, 3, 1, 3}, firsts[5] = {0, 3, 7, 10, 11}, rows = rows_from(128 * group, n);
#pragma unroll
for (uint part = 0; part < 5; ++part) {
    const uint width = widths[part], base = kViewHeader + firsts[part] * n + width * 128 * group;
    #pragma unroll
    for (uint j = 0; j < 4; ++j) {
        const uint e = 128 * j + tid;
        if (j < width && e < width * rows) view[base + e] = shared[15 * (e / width) + firsts[part] + e % width];
    }
}
if (i == 0) {
    view[kViewState] = float(status[kState]);
    view[kViewNeeded] = float(status[kNeeded] >> 12);  // in two parts that a float holds
    view[kViewNeeded + 1] = float(status[kNeeded] & 4095u);
    #pragma unroll
    for (uint k = 0; k < 3; ++k) view[kViewLoss + k] = loss[k];
    view[6] = 0.0f, view[7] = 0.0f;
}
