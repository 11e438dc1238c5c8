// SPDX-License-Identifier: Apache-2.0
// Between two steps, 128 new rows a group: row i of every leaf is the old row source[i], or zeros where that is negative (the moments
// of a Gaussian that is new). Threads write numbers that lie side by side.
threadgroup int origin[128];
const uint tid = thread_position_in_threadgroup.x, first = threadgroup_position_in_grid.x * 128;
const uint n = uint(sizes[kN]), before = uint(sizes[kBefore]), count = rows_from(first, n);
if (tid < count) origin[tid] = source[first + tid];
threadgroup_barrier(mem_flags::mem_threadgroup);
uint leaf = 0;
for (uint k = 0; k < 5; ++k) {  // means, quats, log_scales, logit_opacities, sh0
    const uint width = k == 1 ? 4 : k == 3 ? 1 : 3;
    for (uint e = tid; e < width * count; e += 256) {
        const uint line = e / width, place = e % width;
        const int row = origin[line];
        new_params[leaf * n + width * first + e] = row < 0 ? 0.0f : params[leaf * before + width * uint(row) + place];
    }
    leaf += width;
}
const uint width = 3 * uint(sizes[kRest]);
for (uint e = tid; e < width * count; e += 256) {
    const uint line = e / width, place = e % width;
    const int row = origin[line];
    new_shn[width * first + e] = row < 0 ? 0.0f : shn[width * uint(row) + place];
}
