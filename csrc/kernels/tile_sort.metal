// SPDX-License-Identifier: Apache-2.0
// Stage 2d, a group a tile: its list front to back. Up to 2,048 keys are sorted in registers; a longer list is sorted in such
// pieces, which are then merged in device memory, each key finding its place by a binary search in the
// piece beside its own: no list is too long. Positive floats sort as their bits do.
threadgroup ulong local[kSortChunk];
const uint tid = thread_position_in_threadgroup.x, tile = threadgroup_position_in_grid.x;
const uint first = uint(offsets[tile]), n = uint(offsets[tile + 1]) - first;
for (uint i = tid; i < (n + kBucket - 1) / kBucket; i += 256) bucket_tiles[buckets[tile] + i] = tile;
const bool merges = n > kSortChunk;
const device ulong* unsorted = (const device ulong*)keys + first;
device ulong* here = (device ulong*)ping + first;
device ulong* there = (device ulong*)pong + first;
for (uint begin = 0; begin < n; begin += kSortChunk) {
    const uint count = min(n - begin, kSortChunk);
    uint width = 1;
    while (width < count) width *= 2;
    const uint per_thread = count <= 256 ? 1 : count <= 512 ? 2 : count <= 1024 ? 4 : 8;
    ulong key[8];
    #pragma unroll
    for (uint i = 0; i < 8; ++i) {
        const uint at = per_thread * tid + i;
        key[i] = i < per_thread && at < count ? unsorted[begin + at] : ~ulong(0);
    }
    if (per_thread == 1) sort_keys<1>(key, local, tid, width);
    else if (per_thread == 2) sort_keys<2>(key, local, tid, width);
    else if (per_thread == 4) sort_keys<4>(key, local, tid, width);
    else sort_keys<8>(key, local, tid, width);
    #pragma unroll
    for (uint i = 0; i < 8; ++i) {
        const uint at = begin + per_thread * tid + i;
        if (i >= per_thread || at >= n) continue;
        if (merges) {
            here[at] = key[i];
        } else {
            const uint slot = uint(key[i] & 0xFFFFFFFFu);
            slots[first + at] = slot;
            ids[first + at] = int(slot_splats[slot]);
        }
    }
}
if (merges) {
    for (uint width = kSortChunk; width < n; width *= 2) {
        threadgroup_barrier(mem_flags::mem_device);
        for (uint i = tid; i < n; i += 256) {
            const ulong key = here[i];
            const uint pair = i / (2 * width) * (2 * width), middle = min(pair + width, n), end = min(pair + 2 * width, n);
            const bool left = i < middle;
            uint low = left ? middle : pair, high = left ? end : middle;
            const uint other = low;
            while (low < high) {  // how many of the other piece stand before this key; no two keys are equal
                const uint probe = (low + high) / 2;
                if (here[probe] < key) low = probe + 1;
                else high = probe;
            }
            there[pair + (i - (left ? pair : middle)) + (low - other)] = key;
        }
        device ulong* const swap = here;
        here = there;
        there = swap;
    }
    threadgroup_barrier(mem_flags::mem_device);
    for (uint i = tid; i < n; i += 256) {
        const uint slot = uint(here[i] & 0xFFFFFFFFu);
        slots[first + i] = slot;
        ids[first + i] = int(slot_splats[slot]);
    }
}
