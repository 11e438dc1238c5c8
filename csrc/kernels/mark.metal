// SPDX-License-Identifier: Apache-2.0
// As draw, but rows that are drawn are marked by 1 among zeros, and no more than few[0] are drawn; none where all weights are 0.
const uint i = thread_position_in_grid.x, last = uint(sizes[kBefore]) - 1;
const ulong total = total_to[last];
if (int(i) < min(sizes[kN], few[0]) && total > 0) {
    #include "parts/drawn_row.metal"
    atomic_store_explicit((device atomic_uint*)marks + low, 1u, memory_order_relaxed);
}
