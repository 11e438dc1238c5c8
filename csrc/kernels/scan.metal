// SPDX-License-Identifier: Apache-2.0
// Stage 2b, one group: where each tile's list, its buckets and each group's slots begin; and whether this step may change
// anything: not if an earlier one could not, and not if there is too little room. Then all lists are empty.
threadgroup uint sums[32];
threadgroup uint troubles[1];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint tiles = uint(sizes[kTilesX] * sizes[kTilesY]), groups = uint(sizes[kGroups]);
const uint needed = counters[kStride * tiles];
uint trouble = 0;
for (uint i = tid; i < uint(sizes[kFlags]); i += 1024) trouble = max(trouble, flags[i]);
trouble = simd_max(trouble);
if (lane == 0) sums[simd] = trouble;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (tid == 0) {
    trouble = 0;
    for (uint w = 0; w < 32; ++w) trouble = max(trouble, sums[w]);
    uint state = status_in[kState], done = status_in[kDone];
    if (state == kWell && trouble != 0) state = kNotFinite;
    else if (state == kWell && status_in[kRunning] != 0) done += 1;
    if (state == kWell && needed > uint(sizes[kCapacity])) state = kOverflow;
    status[kState] = state;
    status[kNeeded] = needed;
    status[kMostNeeded] = max(status_in[kMostNeeded], needed);
    status[kDone] = done;
    status[kRunning] = 1;
    status[kTrouble] = status_in[kState] == kWell ? trouble : status_in[kTrouble];
    for (uint k = 6; k < 8; ++k) status[k] = 0;
    troubles[0] = state;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const bool well = troubles[0] == kWell;
for (uint pass = 0; pass < 3; ++pass) {
    const uint count = pass < 2 ? tiles : groups;
    uint carry = 0;
    for (uint first = 0; first < count; first += 1024) {
        const uint i = first + tid;
        uint value = 0;
        if (i < count && well) value = pass == 0 ? counters[kStride * i] : pass == 1 ? (counters[kStride * i] + kBucket - 1) / kBucket : group_counts[i];
        const uint before = simd_prefix_exclusive_sum(value);
        threadgroup_barrier(mem_flags::mem_threadgroup);  // the last round's sums are read
        if (lane == 31) sums[simd] = before + value;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const uint part = sums[lane];
        const uint earlier = simd_prefix_exclusive_sum(part);
        const uint at = carry + simd_shuffle(earlier, simd) + before;
        carry += simd_shuffle(earlier + part, 31);
        if (i < count) {
            if (pass == 0) offsets[i] = int(at);
            else if (pass == 1) buckets[i] = at;
            else group_starts[i] = at;
        }
    }
    if (tid == 0) {
        if (pass == 0) offsets[tiles] = int(carry);
        if (pass == 1) buckets[tiles] = carry;
    }
}
