// SPDX-License-Identifier: Apache-2.0
// For evaluation, a group a channel of 32x16 pixels: the render in 8 bits, and beside a photo (not with ALONE) its squared error,
// in integers, and its SSIM, as the bits of a float, of the 8 bits; behind these sums how the view went. With MASK, a pixel that
// does not count is in neither sum; SSIM's windows see it as it is.
// In the sum u and the difference v of picture and photo SSIM needs four blurred maps: with U = G*u, P = U^2 / 2,
// p = G*u^2 / 2 - P and Q, q the same of v, SSIM = (P - Q + C1) (p - q + C2) / ((P + Q + C1) (p + q + C2)). What rounding does
// to p is in numerator and denominator alike.
threadgroup float us[26 * 43];  // 43: rows begin in other banks
threadgroup float vs[26 * 43];
threadgroup float4 rows[4 * 26 * 8];
threadgroup uint errors[4];
threadgroup float sums[4];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint group = threadgroup_position_in_grid.x, channel = group % 3;
const int width = sizes[kWidth], height = sizes[kHeight], columns = (width + 31) / 32;
const int left = int(group / 3) % columns * 32, top = int(group / 3) / columns * 16;
const float tap[11] = {kTap5, kTap4, kTap3, kTap2, kTap1, kTap0, kTap1, kTap2, kTap3, kTap4, kTap5};
uint error = 0;
const uint groups = uint(3 * columns * ((height + 15) / 16));
if (group == 0 && tid < 8) sums_and_status[2 * groups + tid] = status[tid];
for (uint i = tid; i < 26 * 42; i += 128) {
    const uint row = i / 42, col = i % 42;
    const int px = left + int(col) - 5, py = top + int(row) - 5;
    float u = 0.0f, v = 0.0f;
    if (px >= 0 && px < width && py >= 0 && py < height) {
        const uint p = 3 * uint(py * width + px) + channel;
        const float k = eight_bits(image[p]);
        const bool own = row >= 5 && row < 21 && col >= 5 && col < 37;
        if (own) picture[p] = uchar(k);
        if (!ALONE) {
            const float t = float(target[p]);
            u = (k + t) * (1.0f / 255.0f), v = (k - t) * (1.0f / 255.0f);
            if (own && (!MASK || mask[py * width + px] != 0)) error += uint((k - t) * (k - t));
        }
    }
    us[43 * row + col] = u;
    vs[43 * row + col] = v;
}
if (!ALONE) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = tid; i < 26 * 8; i += 128) {
        const uint from = i / 8 * 43 + i % 8 * 4;
        float s[4][4] = {};
        #pragma unroll
        for (uint k = 0; k < 14; ++k) {
            const float a = us[from + k], b = vs[from + k], aa = a * a, bb = b * b;
            #pragma unroll
            for (uint o = 0; o < 4; ++o) {
                if (k < o || k > o + 10) continue;
                const float g = tap[k - o];
                s[o][0] += g * a, s[o][1] += g * aa, s[o][2] += g * b, s[o][3] += g * bb;
            }
        }
        #pragma unroll
        for (uint q = 0; q < 4; ++q) rows[208 * q + i] = float4{s[0][q], s[1][q], s[2][q], s[3][q]};
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint col = tid % 32, row = tid / 32 * 4;
    const GS_GROUP float* blurred = (const GS_GROUP float*)rows;
    float moment[4][4] = {};
    #pragma unroll
    for (uint q = 0; q < 4; ++q) {
        #pragma unroll
        for (uint k = 0; k < 14; ++k) {
            const float a = blurred[832 * q + 32 * (row + k) + col];
            #pragma unroll
            for (uint o = 0; o < 4; ++o)
                if (k >= o && k <= o + 10) moment[q][o] += tap[k - o] * a;
        }
    }
    float ssim = 0.0f;
    #pragma unroll
    for (uint o = 0; o < 4; ++o) {
        const int px = left + int(col), py = top + int(row + o);
        if (px < width && py < height && (!MASK || mask[py * width + px] != 0)) {
            const float P = 0.5f * moment[0][o] * moment[0][o], Q = 0.5f * moment[2][o] * moment[2][o];
            const float p = 0.5f * moment[1][o] - P, q = 0.5f * moment[3][o] - Q;
            ssim += (P - Q + kSsimC1) * (p - q + kSsimC2) / ((P + Q + kSsimC1) * (p + q + kSsimC2));
        }
    }
    error = simd_sum(error), ssim = simd_sum(ssim);
    if (lane == 0) errors[simd] = error, sums[simd] = ssim;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (tid == 0) {
        sums_and_status[group] = errors[0] + errors[1] + errors[2] + errors[3];
        sums_and_status[groups + group] = as_type<uint>(sums[0] + sums[1] + sums[2] + sums[3]);
    }
}
