// SPDX-License-Identifier: Apache-2.0
// Stage 1b, 128 Gaussians a group: colours from where the camera is. Apart from `project`, so that the lists are made while shN
// is still being updated. The rows of shN of a group lie side by side, and its threads fetch them together.
threadgroup float4 rows[128 * 45 / 4];
const uint tid = thread_position_in_threadgroup.x, i = thread_position_in_grid.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]), width = 3 * uint(sizes[kRest]);
const int degree = sizes[kDegree], bands = (degree + 1) * (degree + 1) - 1;
if (bands > 0) {
    const uint base = width * group * 128, all = width * rows_from(group * 128, n);
    for (uint e = 4 * tid; e < all; e += 512) {
        if (e + 4 <= all) {
            rows[e / 4] = ((const device float4*)shn)[(base + e) / 4];
        } else {
            for (uint k = e; k < all; ++k) ((GS_GROUP float*)rows)[k] = shn[base + k];
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
if (i < n) {
    float rgb[3] = {0.0f, 0.0f, 0.0f};
    if (radii[2 * i] > 0) {
        const Vec3<float> towards = {params[3 * i] - camera[12], params[3 * i + 1] - camera[13], params[3 * i + 2] - camera[14]};
        const Vec3<float> direction = scale(towards, 1.0f / sqrt(max(dot(towards, towards), 1e-24f)));
        const GS_GROUP float* row = (const GS_GROUP float*)rows + width * tid;
        float basis[15];
        sh_basis(direction, degree, basis);
        for (uint c = 0; c < 3; ++c) rgb[c] = kSH0 * params[11 * n + 3 * i + c] + 0.5f;
        for (int b = 0; b < 15; ++b) {
            if (b >= bands) break;
            for (int c = 0; c < 3; ++c) rgb[c] += basis[b] * row[3 * b + c];
        }
    }
    ((device float4*)colours)[i] = float4{max(rgb[0], 0.0f), max(rgb[1], 0.0f), max(rgb[2], 0.0f), 0.0f};
}
