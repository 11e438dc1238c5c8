// SPDX-License-Identifier: Apache-2.0
// Inclusive sums of counts, after block_sums.
#include "parts/sums_to_thread.metal"
for (uint e = begin; e < end; ++e) {
    running += counts[e];
    total_to[e] = running;
}
