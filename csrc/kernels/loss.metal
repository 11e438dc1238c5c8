// Stage 4b, a group a channel of a 16x16 tile: the loss's gradient, dSSIM/dx = G*(dSSIM/dmu) + 2 x G*(dSSIM/ds) +
// y G*(dSSIM/dc), for the window is its own transpose; the first group also sums the loss.
threadgroup float grid[3 * 26 * 26];
threadgroup float rows[3 * 26 * 16];
threadgroup float sums[16];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint group = threadgroup_position_in_grid.x, tile = group / 3, channel = group % 3;
const int width = sizes[kWidth], height = sizes[kHeight];
const uint area = uint(width * height);
const int left = int(tile) % sizes[kTilesX] * kTile, top = int(tile) / sizes[kTilesX] * kTile;
const float tap[11] = {kTap5, kTap4, kTap3, kTap2, kTap1, kTap0, kTap1, kTap2, kTap3, kTap4, kTap5};
for (uint i = tid; i < 26 * 26; i += 256) {
    const int px = left + int(i % 26) - 5, py = top + int(i / 26) - 5;
    const bool inside = px >= 0 && px < width && py >= 0 && py < height;
    const uint p = inside ? channel * 3 * area + uint(py * width + px) : 0;
    for (uint k = 0; k < 3; ++k) grid[676 * k + i] = inside ? maps[p + k * area] : 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint i = tid; i < 26 * 16; i += 256) {
    const uint from = i / 16 * 26 + i % 16;
    float a = 0.0f, b = 0.0f, c = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 11; ++k)
        a += tap[k] * grid[from + k], b += tap[k] * grid[676 + from + k], c += tap[k] * grid[1352 + from + k];
    rows[i] = a, rows[416 + i] = b, rows[832 + i] = c;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const int px = left + int(tid % 16), py = top + int(tid / 16);
if (px < width && py < height) {
    float d_mu = 0.0f, d_s = 0.0f, d_c = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 11; ++k) {
        const uint i = tid + 16 * k;
        d_mu += tap[k] * rows[i], d_s += tap[k] * rows[416 + i], d_c += tap[k] * rows[832 + i];
    }
    const uint p = 3 * uint(py * width + px) + channel;
    const float x = image[p], y = float(target[p]) * (1.0f / 255.0f);
    const float sign = x > y ? 1.0f : x < y ? -1.0f : 0.0f;
    v_image[p] = settings[kSsimWeight] * (d_mu + 2.0f * x * d_s + y * d_c) + settings[kL1Weight] * sign;
}
if (group == 0) {
    const uint groups = uint(sizes[kTilesX] * sizes[kTilesY]) * 3;
    float l1 = 0.0f, ssim = 0.0f;
    for (uint i = tid; i < groups; i += 256) l1 += partials[2 * i], ssim += partials[2 * i + 1];
    l1 = simd_sum(l1), ssim = simd_sum(ssim);
    if (lane == 0) sums[simd] = l1, sums[8 + simd] = ssim;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (tid == 0) {
        l1 = 0.0f, ssim = 0.0f;
        for (uint w = 0; w < 8; ++w) l1 += sums[w], ssim += sums[8 + w];
        l1 /= 3.0f * float(area), ssim /= 3.0f * float(area);
        loss[0] = (1.0f - settings[kLambda]) * l1 + settings[kLambda] * (1.0f - ssim);
        loss[1] = l1;
        loss[2] = ssim;
        for (uint k = 3; k < 8; ++k) loss[k] = 0.0f;
    }
}
