// SPDX-License-Identifier: Apache-2.0
// Stage 6a, a thread a Gaussian: its slots are summed, carried back through projection and colour, and used at once by Adam,
// MCMC's noise and the density statistics. shN waits for update_shn, which gets {direction, whether it moves; colour's gradient}.
// If the step may not change anything, all is copied.
threadgroup float shared[128 * 15];  // of each Gaussian the gradient, then what Adam makes of it
threadgroup uint moves[128];
threadgroup uint bad_groups[4];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint i = thread_position_in_grid.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]);
const bool valid = i < n, well = status[kState] == kWell && is_finite(loss[0]);
const int degree = sizes[kDegree], bands = (degree + 1) * (degree + 1) - 1;
const uint row = 3 * uint(sizes[kRest]) * i;

#include "parts/slot_sums.metal"

float v_rgb[3] = {0.0f, 0.0f, 0.0f};
Vec3<float> view_direction = {0.0f, 0.0f, 0.0f};
bool broken = false, move = false;
if (valid) {
    #include "parts/gaussian_gradient.metal"
    const float base_opacity = sigmoid(g.logit), scale_reg = settings[kScaleReg];
    v.log_scale.x += scale_reg * exp(g.log_scale.x);
    v.log_scale.y += scale_reg * exp(g.log_scale.y);
    v.log_scale.z += scale_reg * exp(g.log_scale.z);
    v.logit += settings[kOpacityReg] * base_opacity * (1.0f - base_opacity);
    const float grad[14] = {v.mean.x, v.mean.y, v.mean.z, v.qw, v.qx, v.qy, v.qz, v.log_scale.x, v.log_scale.y, v.log_scale.z,
                            v.logit, kSH0 * v_rgb[0], kSH0 * v_rgb[1], kSH0 * v_rgb[2]};
    float total = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) total += grad[k];
    broken = well && !is_finite(total);
    move = well && !broken;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) shared[15 * tid + k] = grad[k];
    if (STATS) {
        const float half_width = 0.5f * float(sizes[kWidth]), half_height = 0.5f * float(sizes[kHeight]);
        const float sx = d.mx * half_width, sy = d.my * half_height;
        const float ax = c.y * kLn2 * half_width, ay = c.z * kLn2 * half_height;
        const bool counts = move && seen;
        stats[3 * i] = stats_in[3 * i] + (counts ? sqrt(sx * sx + sy * sy) : 0.0f);
        stats[3 * i + 1] = stats_in[3 * i + 1] + (counts ? sqrt(ax * ax + ay * ay) : 0.0f);
        stats[3 * i + 2] = stats_in[3 * i + 2] + (counts ? 1.0f : 0.0f);
    }
    ((device float4*)colour)[2 * i] = float4{view_direction.x, view_direction.y, view_direction.z, move ? 1.0f : 0.0f};
    ((device float4*)colour)[2 * i + 1] = float4{v_rgb[0], v_rgb[1], v_rgb[2], 0.0f};
}
#define ADAM(p, m, v, g, rate) adam_step(p, m, v, g, rate, v_correction)
#include "parts/adam_of_group.metal"
#undef ADAM
if (tid == 0) {
    const bool lost = status[kState] == kWell && !is_finite(loss[0]);
    const bool partly = (bad_groups[0] | bad_groups[1] | bad_groups[2] | bad_groups[3]) != 0;
    flags[group] = partly ? 2u : lost ? 1u : 0u;  // 2: a gradient was not finite, other Gaussians have moved
}
