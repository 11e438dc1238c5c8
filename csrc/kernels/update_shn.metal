// SPDX-License-Identifier: Apache-2.0
// Stage 6b, 128 Gaussians a group: Adam of shN, most of the state. The rows of a group lie side by side, and its threads take them
// four numbers at a time. The gradient of band k is basis k of the direction times the colour's gradient.
threadgroup float basis[128 * 15];
threadgroup float rgb[128 * 3];
threadgroup uint moves[128];
const uint tid = thread_position_in_threadgroup.x, group = threadgroup_position_in_grid.x;
const uint count = min(128u, uint(sizes[kN]) - group * 128), width = 3 * uint(sizes[kRest]);
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
const uint base = width * group * 128, all = width * count;
const float rate = settings[5], v_correction = settings[kVCorrection];
for (uint e = 4 * tid; e < all; e += 1024) {
    float p4[4], m4[4], v4[4];
    const bool whole = e + 4 <= all;
    if (whole) {
        const uint q = (base + e) / 4;
        const float4 p = ((const device float4*)shn)[q], f = ((const device float4*)m)[q], s = ((const device float4*)v_in)[q];
        p4[0] = p.x, p4[1] = p.y, p4[2] = p.z, p4[3] = p.w;
        m4[0] = f.x, m4[1] = f.y, m4[2] = f.z, m4[3] = f.w;
        v4[0] = s.x, v4[1] = s.y, v4[2] = s.z, v4[3] = s.w;
    }
    uint line = e / width, place = e % width;
    #pragma unroll
    for (uint k = 0; k < 4; ++k) {
        if (e + k < all) {
            const uint band = place / 3;
            const float grad = basis[15 * line + band] * rgb[3 * line + place - 3 * band];
            Moved to;
            if (whole) to = {p4[k], m4[k], v4[k]};
            else to = {shn[base + e + k], m[base + e + k], v_in[base + e + k]};
            if (moves[line] != 0) to = adam_step(to.p, to.m, to.v, grad, rate, v_correction);
            p4[k] = to.p, m4[k] = to.m, v4[k] = to.v;
            if (!whole) new_shn[base + e + k] = to.p, new_m[base + e + k] = to.m, new_v[base + e + k] = to.v;
            place += 1;
            if (place == width) place = 0, line += 1;
        }
    }
    if (whole) {
        const uint q = (base + e) / 4;
        ((device float4*)new_shn)[q] = float4{p4[0], p4[1], p4[2], p4[3]};
        ((device float4*)new_m)[q] = float4{m4[0], m4[1], m4[2], m4[3]};
        ((device float4*)new_v)[q] = float4{v4[0], v4[1], v4[2], v4[3]};
    }
}
