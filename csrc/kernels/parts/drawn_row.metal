// SPDX-License-Identifier: Apache-2.0
// A part of draw and mark: thread i hashes its number to a point below the weights' sum; `low` becomes the first row whose sum is above it.
// stream: what tells these random numbers from others.
const ulong bits = hash(i * 0x9E3779B1u + stream[0]);
const ulong point = bits * (total >> 32) + ((bits * (total & ulong(0xFFFFFFFFu))) >> 32);  // bits * total / 2^32
uint low = 0;
for (uint high = last; low < high;) {
    const uint middle = (low + high) / 2;
    if (total_to[middle] > point) {
        high = middle;
    } else {
        low = middle + 1;
    }
}
