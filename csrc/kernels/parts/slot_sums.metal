// SPDX-License-Identifier: Apache-2.0
// A part of `update` and `gradients`: a, b, c become the sums of splat i's slots.
// The slots of a SIMD group's splats: a lane its own where they are few, all lanes together where they are many.
float4 a = {0.0f, 0.0f, 0.0f, 0.0f}, b = {0.0f, 0.0f, 0.0f, 0.0f}, c = {0.0f, 0.0f, 0.0f, 0.0f};
uint from = 0, count = 0;
if (valid) from = group_starts[i / kIntersectGroup] + spans[2 * i], count = spans[2 * i + 1];
if (!well) count = 0;
const bool many = count > 24;
for (uint k = 0; k < (many ? 0u : count); k += 4) {  // four fetched at once
    float4 x[4], y[4], z[4];
    #pragma unroll
    for (uint s = 0; s < 4; ++s) {
        x[s] = y[s] = z[s] = float4{0.0f, 0.0f, 0.0f, 0.0f};
        if (k + s < count) {
            const device float4* slot = (const device float4*)slot_grads + 3 * (from + k + s);
            x[s] = slot[0], y[s] = slot[1], z[s] = slot[2];
        }
    }
    #pragma unroll
    for (uint s = 0; s < 4; ++s) {
        a.x += x[s].x, a.y += x[s].y, a.z += x[s].z, a.w += x[s].w;
        b.x += y[s].x, b.y += y[s].y, b.z += y[s].z, b.w += y[s].w;
        c.x += z[s].x, c.y += z[s].y, c.z += z[s].z;
    }
}
for (uint left = uint(simd_vote::vote_t(simd_ballot(many))); left; left &= left - 1) {
    const uint owner = ctz(left), begin = simd_shuffle(from, owner), end = begin + simd_shuffle(count, owner);
    float s[11] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (uint k = begin + lane; k < end; k += 32) {
        const float4 x = ((const device float4*)slot_grads)[3 * k], y = ((const device float4*)slot_grads)[3 * k + 1];
        const float4 z = ((const device float4*)slot_grads)[3 * k + 2];
        s[0] += x.x, s[1] += x.y, s[2] += x.z, s[3] += x.w, s[4] += y.x, s[5] += y.y, s[6] += y.z, s[7] += y.w;
        s[8] += z.x, s[9] += z.y, s[10] += z.z;
    }
    #pragma unroll
    for (uint k = 0; k < 11; ++k) s[k] = simd_sum(s[k]);
    if (lane == owner) {
        a = float4{s[0], s[1], s[2], s[3]};
        b = float4{s[4], s[5], s[6], s[7]};
        c = float4{s[8], s[9], s[10], 0.0f};
    }
}
