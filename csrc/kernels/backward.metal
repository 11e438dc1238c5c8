// SPDX-License-Identifier: Apache-2.0
// Stage 5, a SIMD group a bucket of a tile's list: eight pixels a lane, one in each 8x4 block. From the checkpoint on it goes
// front to back again, with behind = v . (what lies behind the splats passed so far), background included. Every
// (splat, tile) pair owns a slot and gets exactly one sum: no atomics, the same bits each time.
threadgroup float4 shared[32 * 3];
const uint lane = thread_index_in_simdgroup, b = threadgroup_position_in_grid.x;
const uint tiles = uint(sizes[kTilesX] * sizes[kTilesY]);
const int tiles_x = sizes[kTilesX], width = sizes[kWidth], height = sizes[kHeight];
if (b < buckets[tiles]) {
    const uint tile = bucket_tiles[b];
    const uint begin = (b - buckets[tile]) * kBucket, first = uint(offsets[tile]) + begin;
    const uint last = min(first + kBucket, uint(offsets[tile + 1]));
    const int left = int(tile) % tiles_x * kTile, top = int(tile) / tiles_x * kTile;
    const bool entry = first + lane < last;
    const uint slot = entry ? slots[first + lane] : 0, id = entry ? uint(ids[first + lane]) : 0;
    const uint reached = lane < 8 ? used[8 * tile + lane] : 0;  // up to where each block went
    if (begin >= simd_max(reached)) {
        for (uint k = first * 3 + lane; k < last * 3; k += 32)
            ((device float4*)slot_grads)[3 * slots[k / 3] + k % 3] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    } else {
        const device float4* record = (const device float4*)records + 2 * id;  // under way while the pixels are fetched
        const float4 r0 = record[0], r1 = record[1], colour = ((const device float4*)colours)[id];
        float t[8], behind[8], vr[8], vg[8], vb[8];
        uint alive = 0;
        #pragma unroll
        for (uint s = 0; s < 8; ++s) {
            const int px = left + int(s % 2) * 8 + int(lane % 8), py = top + int(s / 2) * 4 + int(lane / 8);
            float4 start = {0.0f, 0.0f, 0.0f, 0.0f};
            if (begin < simd_shuffle(reached, s)) start = ((const device float4*)checkpoints)[b * 256 + s * 32 + lane];
            t[s] = start.x, behind[s] = 0.0f, vr[s] = 0.0f, vg[s] = 0.0f, vb[s] = 0.0f;
            if (px < width && py < height) {
                const uint p = uint(py * width + px);
                vr[s] = v_image[3 * p], vg[s] = v_image[3 * p + 1], vb[s] = v_image[3 * p + 2];
                behind[s] = vr[s] * (image[3 * p] - start.y) + vg[s] * (image[3 * p + 1] - start.z) +
                            vb[s] * (image[3 * p + 2] - start.w);
                if (ALPHA) behind[s] -= v_alpha[p] * final_t[p];  // alpha = 1 - T: a colour of -v_alpha behind everything
            }
            alive |= simd_any(t[s] > 0.0f) ? 1u << s : 0u;
        }
        const float x = float(left) + float(lane % 8) + 0.5f, y = float(top) + float(lane / 8) + 0.5f;
        uint blocks = 0;
        if (entry) {
            const float l = fast::log2(r1.y);
            const float ha = -0.5f * kLog2E * r0.z, hb = -kLog2E * r0.w, hc = -0.5f * kLog2E * r1.x;
            const float reach = (l - kLog2AlphaMin) * 1.0001f + 1e-4f;
            const float ratio_x = -0.5f * hb * reciprocal(ha), ratio_y = -0.5f * hb * reciprocal(hc);
            #pragma unroll
            for (uint s = 0; s < 8; ++s) {
                const float x0 = float(left + int(s % 2) * 8) + 0.5f - r0.x, y0 = float(top + int(s / 2) * 4) + 0.5f - r0.y;
                const float least = least_on_rectangle(-ha, -hb, -hc, ratio_x, ratio_y, x0, x0 + 7.0f, y0, y0 + 3.0f);
                blocks |= least <= reach ? 1u << s : 0u;
            }
            blocks &= alive;
            shared[3 * lane] = float4{r0.x, r0.y, ha, hb};
            shared[3 * lane + 1] = float4{hc, l, colour.x, colour.y};
            shared[3 * lane + 2] = float4{colour.z, as_type<float>(slot), as_type<float>(blocks), 0.0f};
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint j = 0; j < last - first; ++j) {
            const float4 s2 = shared[3 * j + 2];
            const uint to = kSlot * as_type<uint>(s2.y);
            const uint mask = as_type<uint>(s2.z);
            if (mask == 0) {
                if (lane < 12) slot_grads[to + lane] = 0.0f;
                continue;
            }
            const float4 s0 = shared[3 * j], s1 = shared[3 * j + 1];
            float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, sum_blue = 0.0f, abs_x = 0.0f, abs_y = 0.0f;
            #pragma unroll
            for (uint s = 0; s < 8; ++s) {
                if ((mask >> s & 1) == 0) continue;
                const float dx = x + float(s % 2 * 8) - s0.x, dy = y + float(s / 2 * 4) - s0.y;
                const float e = exponent(dx, dy, s0.z, s0.w, s1.x, s1.y);
                const float alpha = fast::exp2(min(e, kLog2AlphaMax));
                const float free = alpha * t[s], next = fma(-alpha, t[s], t[s]);  // as `forward` has it
                const bool hit = e >= kLog2AlphaMin, blend = hit && next > kTransmittanceMin;
                const float w = blend ? free : 0.0f;
                const float q = w * (vr[s] * s1.z + vg[s] * s1.w + vb[s] * s2.x);
                behind[s] -= q;
                t[s] = hit ? (blend ? next : 0.0f) : t[s];  // a pixel that ends gets T = 0 and never blends again
                const float d = blend && e < kLog2AlphaMax ? log_alpha_vjp(q, alpha, behind[s]) : 0.0f;
                const float d_x = d * dx, d_y = d * dy;
                sum[0] += d, sum[1] += d_x, sum[2] += d_y;
                sum[3] += d_x * dx, sum[4] += d_x * dy, sum[5] += d_y * dy;
                sum[6] += w * vr[s], sum[7] += w * vg[s], sum_blue += w * vb[s];
                if (ABSGRAD) {  // |dL/dmx| = |d| |a dx + b dy|, in units of ln 2: a = -2 ln 2 ha, b = -ln 2 hb
                    abs_x += abs(2.0f * s0.z * d_x + s0.w * d_y);
                    abs_y += abs(2.0f * s1.x * d_y + s0.w * d_x);
                }
            }
            // Eight sums over 32 lanes at the price of little more than one: lanes hand each other the halves they keep.
            #pragma unroll
            for (uint k = 0; k < 4; ++k) {
                const bool upper = (lane & 16) != 0;
                const float give = upper ? sum[k] : sum[k + 4];
                sum[k] = (upper ? sum[k + 4] : sum[k]) + simd_shuffle_xor(give, 16);
            }
            #pragma unroll
            for (uint k = 0; k < 2; ++k) {
                const bool upper = (lane & 8) != 0;
                const float give = upper ? sum[k] : sum[k + 2];
                sum[k] = (upper ? sum[k + 2] : sum[k]) + simd_shuffle_xor(give, 8);
            }
            const bool odd = (lane & 4) != 0;
            float one = (odd ? sum[1] : sum[0]) + simd_shuffle_xor(odd ? sum[0] : sum[1], 4);
            one += simd_shuffle_xor(one, 2);
            one += simd_shuffle_xor(one, 1);
            // Lane 4 k holds sum k: 16, 8 and 4 in the lane's number are 4, 2 and 1 in k.
            sum_blue = simd_sum(sum_blue);
            if (ABSGRAD) abs_x = simd_sum(abs_x), abs_y = simd_sum(abs_y);
            if (lane % 4 == 0) slot_grads[to + lane / 4] = one;
            if (lane < 4) slot_grads[to + 8 + lane] = lane == 0 ? sum_blue : lane == 1 ? abs_x : lane == 2 ? abs_y : 0.0f;
        }
    }
}
