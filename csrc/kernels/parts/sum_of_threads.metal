// SPDX-License-Identifier: Apache-2.0
// A part of what sums counts: parts[0] becomes the sum of the 256 threads' `sum`; integers, so in any order.
parts[tid] = sum;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint half = 128; half > 0; half /= 2) {
    if (tid < half) parts[tid] += parts[tid + half];
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
