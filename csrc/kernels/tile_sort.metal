// Stage 2d, a group a tile: its list front to back. Up to 2,048 keys are sorted in threadgroup memory (bitonic); a longer list
// is sorted in such pieces, which are then merged in device memory, each key finding its place by a binary search in the
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
    for (uint i = tid; i < width; i += 256) local[i] = i < count ? unsorted[begin + i] : ~ulong(0);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 2; k <= width; k *= 2) {
        for (uint j = k / 2; j > 0; j /= 2) {
            for (uint t = tid; t < width / 2; t += 256) {
                const uint low = 2 * t - (t & (j - 1)), high = low + j;
                const ulong a = local[low], b = local[high];
                if ((a > b) == ((low & k) == 0)) {
                    local[low] = b;
                    local[high] = a;
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
    for (uint i = tid; i < count; i += 256) {
        const ulong key = local[i];
        if (merges) {
            here[begin + i] = key;
        } else {
            const uint slot = uint(key & 0xFFFFFFFFu);
            slots[first + i] = slot;
            ids[first + i] = int(slot_splats[slot]);
        }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
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
