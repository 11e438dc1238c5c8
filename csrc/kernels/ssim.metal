// SPDX-License-Identifier: Apache-2.0
// Stage 4a, a group a channel of 32x16 pixels: L1 and SSIM (Wang et al. 2004) and SSIM's derivatives by the blurred moments.
// With blurred moments mu = G*x, nu = G*y, s = G*x^2 - mu^2, t = G*y^2 - nu^2, c = G*xy - mu nu:
// SSIM = A B / (C D), A = 2 mu nu + C1, B = 2 c + C2, C = mu^2 + nu^2 + C1, D = s + t + C2. Zeros lie around the picture.
// With MASK, pixels that do not count are zeros in both pictures too, and have no SSIM and no derivatives.
// With MATTE the photo is laid over the render's background; `loss` does the same.
// A thread blurs four neighbours at once: what it reads from threadgroup memory serves them all.
threadgroup float xs[26 * 43];  // 43: rows begin in other banks
threadgroup float ys[26 * 43];
threadgroup float4 rows[5 * 26 * 8];
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
    const bool inside = px >= 0 && px < width && py >= 0 && py < height && (!MASK || mask[py * width + px] != 0);
    const uint p = inside ? 3 * uint(py * width + px) + channel : 0;
    xs[43 * row + col] = inside ? image[p] : 0.0f;
    float y = inside ? float(target[p]) * (1.0f / 255.0f) : 0.0f;
    if (MATTE && inside) y = laid_over(float(target[p]), float(matte[p / 3]), settings[kBackground + int(channel)]);
    ys[43 * row + col] = y;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint i = tid; i < 26 * 8; i += 128) {
    const uint from = i / 8 * 43 + i % 8 * 4;
    float s[4][5] = {};
    #pragma unroll
    for (uint k = 0; k < 14; ++k) {
        const float a = xs[from + k], b = ys[from + k], aa = a * a, bb = b * b, ab = a * b;
        #pragma unroll
        for (uint o = 0; o < 4; ++o) {
            if (k < o || k > o + 10) continue;
            const float g = tap[k - o];
            s[o][0] += g * a, s[o][1] += g * b, s[o][2] += g * aa, s[o][3] += g * bb, s[o][4] += g * ab;
        }
    }
    #pragma unroll
    for (uint q = 0; q < 5; ++q) rows[208 * q + i] = float4{s[0][q], s[1][q], s[2][q], s[3][q]};
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint col = tid % 32, row = tid / 32 * 4;
const GS_GROUP float* blurred = (const GS_GROUP float*)rows;
float moment[5][4] = {};
#pragma unroll
for (uint q = 0; q < 5; ++q) {
    #pragma unroll
    for (uint k = 0; k < 14; ++k) {
        const float a = blurred[832 * q + 32 * (row + k) + col];
        #pragma unroll
        for (uint o = 0; o < 4; ++o)
            if (k >= o && k <= o + 10) moment[q][o] += tap[k - o] * a;
    }
}
float l1 = 0.0f, ssim = 0.0f;
#pragma unroll
for (uint o = 0; o < 4; ++o) {
    const int px = left + int(col), py = top + int(row + o);
    if (px < width && py < height) {
        const float mu = moment[0][o], nu = moment[1][o], s = moment[2][o] - mu * mu, t = moment[3][o] - nu * nu;
        const float c = moment[4][o] - mu * nu;
        const float A = 2.0f * mu * nu + kSsimC1, B = 2.0f * c + kSsimC2, C = mu * mu + nu * nu + kSsimC1, D = s + t + kSsimC2;
        const float inv = 1.0f / (C * D), value = A * B * inv;
        const float d_s = -value * C * inv, d_c = 2.0f * A * inv;
        const uint p = channel * 3 * area + uint(py * width + px), centre = (row + o + 5) * 43 + col + 5;
        const bool counts = !MASK || mask[py * width + px] != 0;
        maps[p] = counts ? 2.0f * (nu * B * inv - mu * value * D * inv) - 2.0f * mu * d_s - nu * d_c : 0.0f;
        maps[p + area] = counts ? d_s : 0.0f;
        maps[p + 2 * area] = counts ? d_c : 0.0f;
        l1 += abs(xs[centre] - ys[centre]);
        ssim += counts ? value : 0.0f;
    }
}
l1 = simd_sum(l1), ssim = simd_sum(ssim);
if (lane == 0) sums[simd] = l1, sums[4 + simd] = ssim;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (tid < 2) partials[2 * group + tid] = sums[4 * tid] + sums[4 * tid + 1] + sums[4 * tid + 2] + sums[4 * tid + 3];
