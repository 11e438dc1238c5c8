// SPDX-License-Identifier: Apache-2.0
// Stage 2a, 256 splats a group: which tiles each splat's ellipse touches. The cells of all boxes of the group are dealt to
// its threads, so a splat as large as the picture costs no more than many small ones. Every intersection gets an entry
// {tile, its rank in the tile in any order, splat, its place among the group's}. `counters` (zeroed by `project`) holds the
// tiles' lengths, then the number of entries; it is counted up here although it is an input, for MLX clears outputs
// only by a kernel each.
device atomic_uint* count = (device atomic_uint*)counters;
threadgroup float4 ellipse[kIntersectGroup];
threadgroup float2 centre[kIntersectGroup];
threadgroup uint2 corner[kIntersectGroup];  // first tile's index; width of the box
threadgroup uint starts[kIntersectGroup + 1];
threadgroup atomic_uint hits[kIntersectGroup];
threadgroup uint sums[8];
threadgroup uint base_of_entries[1];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint group = threadgroup_position_in_grid.x, i = thread_position_in_grid.x;
const int tiles_x = sizes[kTilesX], tiles_y = sizes[kTilesY];
const uint total_at = uint(tiles_x * tiles_y), capacity = uint(sizes[kCapacity]);
uint cells = 0;
if (i < uint(sizes[kN])) {
    const device float4* record = (const device float4*)records + 2 * i;
    const float4 r0 = record[0], r1 = record[1];
    const float rx = float(radii[2 * i]), ry = float(radii[2 * i + 1]);
    if (rx > 0.0f && ry > 0.0f) {
        const float inv = 1.0f / float(kTile);
        const int x0 = int(clamp(floor((r0.x - rx) * inv), 0.0f, float(tiles_x)));
        const int x1 = int(clamp(ceil((r0.x + rx) * inv), 0.0f, float(tiles_x)));
        const int y0 = int(clamp(floor((r0.y - ry) * inv), 0.0f, float(tiles_y)));
        const int y1 = int(clamp(ceil((r0.y + ry) * inv), 0.0f, float(tiles_y)));
        cells = uint((x1 - x0) * (y1 - y0));
        ellipse[tid] = float4{r0.z, 2.0f * r0.w, r1.x, visible_reach(r1.y)};
        centre[tid] = float2{r0.x, r0.y};
        corner[tid] = uint2{uint(y0 * tiles_x + x0), uint(x1 - x0)};
    }
}
atomic_store_explicit(&hits[tid], 0u, memory_order_relaxed);
const uint before = simd_prefix_exclusive_sum(cells);
if (lane == 31) sums[simd] = before + cells;
threadgroup_barrier(mem_flags::mem_threadgroup);
uint start = before;
for (uint w = 0; w < simd; ++w) start += sums[w];
starts[tid] = start;
if (tid == 255) starts[256] = start + cells;
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint all = starts[256];
uint running = 0;
for (uint first = 0; first < all; first += 256) {
    const uint cell = first + tid;
    bool hit = false;
    uint s = 0, tile = 0;
    if (cell < all) {
        for (uint step = 128; step; step >>= 1)
            if (starts[s + step] <= cell) s += step;  // the last splat that starts at or before the cell
        const uint2 box = corner[s];
        const uint inside = cell - starts[s], row = inside / box.y;
        tile = box.x + row * uint(tiles_x) + (inside - row * box.y);
        const float4 e = ellipse[s];
        const float x0 = float((tile % uint(tiles_x)) * kTile) + 0.5f - centre[s].x;
        const float y0 = float((tile / uint(tiles_x)) * kTile) + 0.5f - centre[s].y;
        const float least = least_on_rectangle(e.x, e.y, e.z, -0.5f * e.y / e.x, -0.5f * e.y / e.z, x0, x0 + float(kTile - 1), y0,
                                               y0 + float(kTile - 1));
        hit = least <= e.w;
    }
    const uint ahead = simd_prefix_exclusive_sum(hit ? 1u : 0u);
    if (lane == 31) sums[simd] = ahead + (hit ? 1u : 0u);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint place = ahead, found = 0;
    for (uint w = 0; w < 8; ++w) {
        if (w < simd) place += sums[w];
        found += sums[w];
    }
    if (tid == 0) {
        const uint base = atomic_fetch_add_explicit(&count[kStride * total_at], found, memory_order_relaxed);
        base_of_entries[0] = base;
        // Too many for any memory: stays above 2^31, so that what is added further cannot wrap around.
        if (base >= 0x80000000u) atomic_store_explicit(&count[kStride * total_at], 0x80000000u, memory_order_relaxed);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (hit) {
        const uint rank = atomic_fetch_add_explicit(&count[kStride * tile], 1u, memory_order_relaxed);
        atomic_fetch_add_explicit(&hits[s], 1u, memory_order_relaxed);
        const uint at = base_of_entries[0] + place;
        if (at < capacity) {
            ((device uint4*)entries)[at] = uint4{tile, rank, group * kIntersectGroup + s, running + place};
        }
    }
    running += found;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
// Where each splat's slots begin in the group, and how many it has.
const uint own = atomic_load_explicit(&hits[tid], memory_order_relaxed);
const uint earlier = simd_prefix_exclusive_sum(own);
if (lane == 31) sums[simd] = earlier + own;
threadgroup_barrier(mem_flags::mem_threadgroup);
uint at = earlier;
for (uint w = 0; w < simd; ++w) at += sums[w];
if (i < uint(sizes[kN])) {
    spans[2 * i] = at;
    spans[2 * i + 1] = own;
}
if (tid == 0) group_counts[group] = running;
