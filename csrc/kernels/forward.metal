// SPDX-License-Identifier: Apache-2.0
// Stage 3, a SIMD group an 8x4 block of a tile, a thread a pixel: blend front to back. The lanes of a SIMD group test 32 splats
// at a time against their block and pass over those that miss it. Before each bucket every pixel leaves its transmittance
// (0 once it has ended) and colour, where the backward pass takes up; `used` says up to where a block went.
threadgroup float4 shared[4 * 32 * 3];
const uint lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint tile = threadgroup_position_in_grid.x / 2, block = threadgroup_position_in_grid.x % 2 * 4 + simd;
const int tiles_x = sizes[kTilesX], width = sizes[kWidth], height = sizes[kHeight];
const int left = int(tile) % tiles_x * kTile + int(block % 2) * 8, top = int(tile) / tiles_x * kTile + int(block / 2) * 4;
const int px = left + int(lane % 8), py = top + int(lane / 8);
const float x = float(px) + 0.5f, y = float(py) + 0.5f;
const bool inside = px < width && py < height;
const uint first = uint(offsets[tile]), last = uint(offsets[tile + 1]), bucket = buckets[tile];
const uint staged = simd * 96, pixel = block * 32 + lane;
float t = 1.0f, red = 0.0f, green = 0.0f, blue = 0.0f;
float passes = inside ? 1.0f : 0.0f;  // t, and 0 once the pixel has ended: then nothing blends
uint at = first;
uint id = at + lane < last ? uint(ids[at + lane]) : 0;
for (; at < last && simd_any(passes > 0.0f); at += 32) {
    if ((at - first) % kBucket == 0)
        ((device float4*)checkpoints)[(bucket + (at - first) / kBucket) * 256 + pixel] = float4{passes, red, green, blue};
    bool reaches = false;
    if (at + lane < last) {
        const device float4* record = (const device float4*)records + 2 * id;
        const float4 r0 = record[0], r1 = record[1], colour = ((const device float4*)colours)[id];
        const float l = fast::log2(r1.y);
        const float ha = -0.5f * kLog2E * r0.z, hb = -kLog2E * r0.w, hc = -0.5f * kLog2E * r1.x;
        const float x0 = float(left) + 0.5f - r0.x, y0 = float(top) + 0.5f - r0.y;
        reaches = least_on_rectangle(-ha, -hb, -hc, -0.5f * hb * reciprocal(ha), -0.5f * hb * reciprocal(hc), x0, x0 + 7.0f, y0, y0 + 3.0f) <=
                  (l - kLog2AlphaMin) * 1.0001f + 1e-4f;
        if (reaches) {
            shared[staged + 3 * lane] = float4{r0.x, r0.y, ha, hb};
            shared[staged + 3 * lane + 1] = float4{hc, l, colour.x, colour.y};
            shared[staged + 3 * lane + 2] = float4{colour.z, 0.0f, 0.0f, 0.0f};
        }
    }
    if (at + 32 + lane < last) id = uint(ids[at + 32 + lane]);  // under way while the splats blend
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint rest = uint(simd_vote::vote_t(simd_ballot(reaches))); rest; rest &= rest - 1) {
        const GS_GROUP float4* splat = shared + staged + 3 * ctz(rest);
        const float4 s0 = splat[0], s1 = splat[1];
        const float e = exponent(x - s0.x, y - s0.y, s0.z, s0.w, s1.x, s1.y);
        const float alpha = fast::exp2(min(e, kLog2AlphaMax)), next = fma(-alpha, passes, passes);
        if (e >= kLog2AlphaMin) {
            const bool blends = next > kTransmittanceMin;
            const float w = alpha * passes;
            if (blends) red += w * s1.z, green += w * s1.w, blue += w * splat[2].x, t = next;
            passes = blends ? next : 0.0f;
        }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
}
if (lane == 0) used[8 * tile + block] = at - first;
if (inside) {
    const uint p = uint(py * width + px);
    image[3 * p] = red + t * settings[kBackground];
    image[3 * p + 1] = green + t * settings[kBackground + 1];
    image[3 * p + 2] = blue + t * settings[kBackground + 2];
    final_t[p] = t;
}
