// SPDX-License-Identifier: Apache-2.0
// Rows drawn in proportion to weights, of which total_to are the sums.
const uint i = thread_position_in_grid.x, last = uint(sizes[kBefore]) - 1;
if (i < uint(sizes[kN])) {
    const ulong total = total_to[last];
    #include "parts/drawn_row.metal"
    drawn[i] = int(low);
}
