// SPDX-License-Identifier: Apache-2.0
// Stage 6 of a step over several views, second half, a thread a Gaussian: their gradients are added in the order of the views and
// divided by their number, and Adam follows. Who made them does not matter: the same bytes on every device. What one view cannot do,
// for want of room or because its loss is not finite, none does.
threadgroup float shared[128 * 15];  // of each Gaussian the gradient, then what Adam makes of it
threadgroup uint moves[128];
threadgroup uint bad_groups[4];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint i = thread_position_in_grid.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]), count = uint(sizes[kViews]), stride = kViewHeader + uint(sizes[kParts]) * n;
const float share = settings[kShare];
uint state = kWell, needed = 0;
float losses[3] = {0.0f, 0.0f, 0.0f};
bool counted = true;
for (uint k = 0; k < count; ++k) {
    const uint at = k * stride;
    state = max(state, uint(views[at + kViewState]));
    needed = max(needed, uint(views[at + kViewNeeded]) << 12 | uint(views[at + kViewNeeded + 1]));
    counted = counted && is_finite(views[at + kViewLoss]);
    for (uint j = 0; j < 3; ++j) losses[j] += views[at + kViewLoss + j];
}
const bool valid = i < n, well = state == kWell && counted;
bool broken = false, move = false;
if (valid) {
    float grad[14] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    float added[3] = {0.0f, 0.0f, 0.0f};
    for (uint k = 0; k < count; ++k) {
        const uint at = k * stride + kViewHeader;
        #pragma unroll
        for (uint j = 0; j < 3; ++j) {
            grad[j] += views[at + 3 * i + j];
            grad[7 + j] += views[at + 7 * n + 3 * i + j];
            grad[11 + j] += views[at + 11 * n + 3 * i + j];
            if (STATS) added[j] += views[at + (14 + j) * n + i];
        }
        #pragma unroll
        for (uint j = 0; j < 4; ++j) grad[3 + j] += views[at + 3 * n + 4 * i + j];
        grad[10] += views[at + 10 * n + i];
    }
    #pragma unroll
    for (uint k = 0; k < 14; ++k) grad[k] *= k < 11 ? share : kSH0 * share;
    const float base_opacity = sigmoid(params[10 * n + i]), scale_reg = settings[kScaleReg];
    #pragma unroll
    for (uint k = 0; k < 3; ++k) grad[7 + k] += scale_reg * exp(params[7 * n + 3 * i + k]);
    grad[10] += settings[kOpacityReg] * base_opacity * (1.0f - base_opacity);
    float total = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) total += grad[k];
    broken = well && !is_finite(total);
    move = well && !broken;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) shared[15 * tid + k] = grad[k];
    if (STATS) {
        #pragma unroll
        for (uint j = 0; j < 3; ++j) stats[3 * i + j] = stats_in[3 * i + j] + (move ? added[j] : 0.0f);
    }
    moving[i] = move ? 1u : 0u;
}
#define ADAM(p, m, v, g, rate) \
    adam_step_over(p, m, v, g, rate, v_correction, settings[kBeta1], settings[kBeta2], settings[kEps])
#include "parts/adam_of_group.metal"
#undef ADAM
if (tid == 0) {
    const bool partly = (bad_groups[0] | bad_groups[1] | bad_groups[2] | bad_groups[3]) != 0;
    flags[group] = partly ? 2u : state == kWell && !counted ? 1u : 0u;  // as update's
}
if (i == 0) {
    for (uint k = 0; k < 8; ++k) new_status[k] = status[k];
    new_status[kState] = state;
    new_status[kNeeded] = needed;
    new_status[kMostNeeded] = max(status[kMostNeeded], needed);
    for (uint k = 0; k < 8; ++k) loss[k] = k < 3 ? losses[k] * share : 0.0f;
}
