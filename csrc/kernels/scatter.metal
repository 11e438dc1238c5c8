// Stage 2c, a thread an entry: {depth, slot} into its tile's list, in any order. Slots are numbered splat by splat, so equal
// depths sort by index.
const uint p = thread_position_in_grid.x;
const uint tiles = uint(sizes[kTilesX] * sizes[kTilesY]);
if (p < uint(offsets[tiles])) {  // 0 if this step may not change anything
    const uint tile = entries[4 * p], splat = entries[4 * p + 2];
    const uint slot = group_starts[splat / kIntersectGroup] + entries[4 * p + 3];
    const uint at = uint(offsets[tile]) + entries[4 * p + 1];
    keys[2 * at] = slot;
    keys[2 * at + 1] = as_type<uint>(records[kRecord * splat + kDepth]);
    slot_splats[slot] = splat;
}
