// SPDX-License-Identifier: Apache-2.0
// Stage 2c, a thread an entry: {depth, slot} into its tile's list, in any order. Slots are numbered splat by splat, so equal
// depths sort by index.
const uint p = thread_position_in_grid.x;
const uint tiles = uint(sizes[kTilesX] * sizes[kTilesY]);
if (p < uint(offsets[tiles])) {  // 0 if this step may not change anything
    const uint4 entry = ((const device uint4*)entries)[p];  // tile, rank, splat, place in its group
    const uint splat = entry.z, slot = group_starts[splat / kIntersectGroup] + entry.w;
    ((device uint2*)keys)[uint(offsets[entry.x]) + entry.y] = uint2{slot, as_type<uint>(records[kRecord * splat + kDepth])};
    slot_splats[slot] = splat;
}
