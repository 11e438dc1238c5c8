// SPDX-License-Identifier: Apache-2.0
// A part of prefix_sums and positions: a group takes a block of 4,096 counts, a thread 16 that lie side by side from `begin` to
// `end`; `running` becomes the sum of all before them.
threadgroup ulong parts[256];
const uint tid = thread_position_in_threadgroup.x, block = threadgroup_position_in_grid.x, n = uint(sizes[kN]);
ulong sum = 0;
for (uint b = tid; b < block; b += 256) sum += sums[b];
#include "sum_of_threads.metal"
const ulong before = parts[0];
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint begin = min(kCountBlock * block + 16 * tid, n), end = min(begin + 16, n);
sum = 0;
for (uint e = begin; e < end; ++e) sum += counts[e];
parts[tid] = sum;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint d = 1; d < 256; d *= 2) {
    const ulong more = tid >= d ? parts[tid - d] : 0;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    parts[tid] += more;
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
ulong running = before + parts[tid] - sum;
