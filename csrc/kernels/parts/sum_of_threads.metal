// SPDX-License-Identifier: Apache-2.0
// A part of what sums counts: parts[0] becomes the sum of the 256 threads' `sum`; integers, so in any order.
parts[tid] = sum;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint apart = 128; apart > 0; apart /= 2) {
    if (tid < apart) parts[tid] += parts[tid + apart];
    threadgroup_barrier(mem_flags::mem_threadgroup);
}
