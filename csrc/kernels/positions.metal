// SPDX-License-Identifier: Apache-2.0
// Where counts of 0 and 1 are 1, after block_sums: kParts places, in order.
#include "parts/sums_to_thread.metal"
for (uint e = begin; e < end; ++e) {
    if (counts[e] != 0 && running < ulong(sizes[kParts])) {
        found[running] = int(e);
        ++running;
    }
}
