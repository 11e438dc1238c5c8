// SPDX-License-Identifier: Apache-2.0
// Stage 4b, a group a channel of 32x16 pixels: the loss's gradient, dSSIM/dx = G*(dSSIM/dmu) + 2 x G*(dSSIM/ds) +
// y G*(dSSIM/dc), for the window is its own transpose; the first group also sums the loss.
// With MASK, a pixel that does not count gets no gradient: there `ssim` took zeros for x and y.
threadgroup float maps_here[3 * 26 * 43];
threadgroup float4 rows[3 * 26 * 8];
threadgroup float sums[8];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint group = threadgroup_position_in_grid.x, channel = group % 3;
const int width = sizes[kWidth], height = sizes[kHeight], columns = (width + 31) / 32;
const int left = int(group / 3) % columns * 32, top = int(group / 3) / columns * 16;
const uint area = uint(width * height);
const float tap[11] = {kTap5, kTap4, kTap3, kTap2, kTap1, kTap0, kTap1, kTap2, kTap3, kTap4, kTap5};
for (uint i = tid; i < 26 * 42; i += 128) {
    const uint row = i / 42, col = i % 42;
    const int px = left + int(col) - 5, py = top + int(row) - 5;
    const bool inside = px >= 0 && px < width && py >= 0 && py < height;
    const uint p = inside ? channel * 3 * area + uint(py * width + px) : 0;
    #pragma unroll
    for (uint q = 0; q < 3; ++q) maps_here[1118 * q + 43 * row + col] = inside ? maps[p + q * area] : 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint i = tid; i < 26 * 8; i += 128) {
    const uint from = i / 8 * 43 + i % 8 * 4;
    #pragma unroll
    for (uint q = 0; q < 3; ++q) {
        float s[4] = {};
        #pragma unroll
        for (uint k = 0; k < 14; ++k) {
            const float a = maps_here[1118 * q + from + k];
            #pragma unroll
            for (uint o = 0; o < 4; ++o)
                if (k >= o && k <= o + 10) s[o] += tap[k - o] * a;
        }
        rows[208 * q + i] = float4{s[0], s[1], s[2], s[3]};
    }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint col = tid % 32, row = tid / 32 * 4;
const GS_GROUP float* blurred = (const GS_GROUP float*)rows;
float d[3][4] = {};
#pragma unroll
for (uint q = 0; q < 3; ++q) {
    #pragma unroll
    for (uint k = 0; k < 14; ++k) {
        const float a = blurred[832 * q + 32 * (row + k) + col];
        #pragma unroll
        for (uint o = 0; o < 4; ++o)
            if (k >= o && k <= o + 10) d[q][o] += tap[k - o] * a;
    }
}
#pragma unroll
for (uint o = 0; o < 4; ++o) {
    const int px = left + int(col), py = top + int(row + o);
    if (px < width && py < height) {
        const uint p = 3 * uint(py * width + px) + channel;
        float y = float(target[p]) * (1.0f / 255.0f);
        if (MATTE) y = laid_over(float(target[p]), float(matte[p / 3]), settings[kBackground + int(channel)]);
        const float x = image[p];
        const float sign = x > y ? 1.0f : x < y ? -1.0f : 0.0f;
        const float v = settings[kSsimWeight] * (d[0][o] + 2.0f * x * d[1][o] + y * d[2][o]) + settings[kL1Weight] * sign;
        v_image[p] = !MASK || mask[py * width + px] != 0 ? v : 0.0f;
    }
}
if (group == 0) {
    const uint groups = uint(columns * ((height + 15) / 16)) * 3;
    float l1 = 0.0f, ssim = 0.0f;
    for (uint i = tid; i < groups; i += 128) l1 += partials[2 * i], ssim += partials[2 * i + 1];
    l1 = simd_sum(l1), ssim = simd_sum(ssim);
    if (lane == 0) sums[simd] = l1, sums[4 + simd] = ssim;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (tid == 0) {
        const float count = settings[kCount];
        l1 = (sums[0] + sums[1] + sums[2] + sums[3]) / count;
        ssim = (sums[4] + sums[5] + sums[6] + sums[7]) / count;
        loss[0] = (1.0f - settings[kLambda]) * l1 + settings[kLambda] * (1.0f - ssim);
        loss[1] = l1;
        loss[2] = ssim;
        for (uint k = 3; k < 8; ++k) loss[k] = 0.0f;
    }
}
