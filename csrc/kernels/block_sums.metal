// SPDX-License-Identifier: Apache-2.0
// Sums of counts, 4,096 a group.
threadgroup ulong parts[256];
const uint tid = thread_position_in_threadgroup.x, block = threadgroup_position_in_grid.x;
const uint end = min(kCountBlock * (block + 1), uint(sizes[kN]));
ulong sum = 0;
for (uint e = kCountBlock * block + tid; e < end; e += 256) sum += counts[e];
#include "parts/sum_of_threads.metal"
if (tid == 0) sums[block] = parts[0];
