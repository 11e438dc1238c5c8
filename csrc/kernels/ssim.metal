// Stage 4a, a group a channel of a 16x16 tile: L1 and SSIM (Wang et al. 2004) and SSIM's derivatives by the blurred moments.
// With blurred moments mu = G*x, nu = G*y, s = G*x^2 - mu^2, t = G*y^2 - nu^2, c = G*xy - mu nu:
// SSIM = A B / (C D), A = 2 mu nu + C1, B = 2 c + C2, C = mu^2 + nu^2 + C1, D = s + t + C2. Zeros lie around the picture.
threadgroup float xs[26 * 26];
threadgroup float ys[26 * 26];
threadgroup float rows[5 * 26 * 16];
threadgroup float sums[16];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint group = threadgroup_position_in_grid.x, tile = group / 3, channel = group % 3;
const int width = sizes[kWidth], height = sizes[kHeight];
const int left = int(tile) % sizes[kTilesX] * kTile, top = int(tile) / sizes[kTilesX] * kTile;
const float tap[11] = {kTap5, kTap4, kTap3, kTap2, kTap1, kTap0, kTap1, kTap2, kTap3, kTap4, kTap5};
for (uint i = tid; i < 26 * 26; i += 256) {
    const int px = left + int(i % 26) - 5, py = top + int(i / 26) - 5;
    const bool inside = px >= 0 && px < width && py >= 0 && py < height;
    const uint p = inside ? 3 * uint(py * width + px) + channel : 0;
    xs[i] = inside ? image[p] : 0.0f;
    ys[i] = inside ? float(target[p]) * (1.0f / 255.0f) : 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint i = tid; i < 26 * 16; i += 256) {
    const uint from = i / 16 * 26 + i % 16;
    float sx = 0.0f, sy = 0.0f, sxx = 0.0f, syy = 0.0f, sxy = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 11; ++k) {
        const float a = xs[from + k], b = ys[from + k], ta = tap[k] * a, tb = tap[k] * b;
        sx += ta, sy += tb, sxx += ta * a, syy += tb * b, sxy += ta * b;
    }
    rows[i] = sx, rows[416 + i] = sy, rows[832 + i] = sxx, rows[1248 + i] = syy, rows[1664 + i] = sxy;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const int px = left + int(tid % 16), py = top + int(tid / 16);
float mu = 0.0f, nu = 0.0f, s = 0.0f, t = 0.0f, c = 0.0f;
#pragma unroll
for (uint k = 0; k < 11; ++k) {
    const uint i = tid + 16 * k;
    mu += tap[k] * rows[i], nu += tap[k] * rows[416 + i];
    s += tap[k] * rows[832 + i], t += tap[k] * rows[1248 + i], c += tap[k] * rows[1664 + i];
}
s -= mu * mu, t -= nu * nu, c -= mu * nu;
const float A = 2.0f * mu * nu + kSsimC1, B = 2.0f * c + kSsimC2, C = mu * mu + nu * nu + kSsimC1, D = s + t + kSsimC2;
const float inv = 1.0f / (C * D), value = A * B * inv;
const float d_s = -value * C * inv, d_c = 2.0f * A * inv;
const float d_mu = 2.0f * (nu * B * inv - mu * value * D * inv) - 2.0f * mu * d_s - nu * d_c;
float l1 = 0.0f, ssim = 0.0f;
if (px < width && py < height) {
    const uint area = uint(width * height), p = uint(py * width + px);
    maps[channel * 3 * area + p] = d_mu;
    maps[(channel * 3 + 1) * area + p] = d_s;
    maps[(channel * 3 + 2) * area + p] = d_c;
    const uint centre = (tid / 16 + 5) * 26 + tid % 16 + 5;
    l1 = abs(xs[centre] - ys[centre]);
    ssim = value;
}
l1 = simd_sum(l1), ssim = simd_sum(ssim);
if (lane == 0) sums[simd] = l1, sums[8 + simd] = ssim;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (tid < 2) {
    float total = 0.0f;
    for (uint w = 0; w < 8; ++w) total += sums[8 * tid + w];
    partials[2 * group + tid] = total;
}
