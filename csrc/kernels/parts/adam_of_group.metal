// SPDX-License-Identifier: Apache-2.0
// A part of `update` and `combine`: Adam of all but shN for a threadgroup's Gaussians, whose gradients lie in `shared`, then MCMC's
// noise. A Gaussian moves unless it, or the step, must not. ADAM(p, m, v, gradient, rate) is one number's step.
const bool trouble = simd_any(broken);
if (lane == 0) bad_groups[simd] = trouble ? 1u : 0u;
moves[tid] = move ? 1u : 0u;
threadgroup_barrier(mem_flags::mem_threadgroup);
// Adam, one group of parameters after the other: those of neighbours lie side by side, so do the threads that move them.
const uint widths[5] = {3, 4, 3, 1, 3}, firsts[5] = {0, 3, 7, 10, 11}, rows = rows_from(128 * group, n);
const float v_correction = settings[kVCorrection];
#pragma unroll
for (uint part = 0; part < 5; ++part) {
    const uint width = widths[part], base = firsts[part] * n + width * 128 * group;
    const float rate = settings[part];
    Moved to[4];  // all fetched before the first is written: the compiler cannot know that the arrays are apart
    #pragma unroll
    for (uint j = 0; j < 4; ++j) {
        const uint e = 128 * j + tid;
        if (j < width && e < width * rows) to[j] = {params[base + e], m[base + e], v_in[base + e]};
    }
    #pragma unroll
    for (uint j = 0; j < 4; ++j) {
        const uint e = 128 * j + tid, at = 15 * (e / width) + firsts[part] + e % width;
        if (j >= width || e >= width * rows) continue;
        if (moves[e / width] != 0) to[j] = ADAM(to[j].p, to[j].m, to[j].v, shared[at], rate);
        shared[at] = to[j].p;
        new_m[base + e] = to[j].m;
        new_v[base + e] = to[j].v;
        if (part > 0) new_params[base + e] = to[j].p;
    }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (valid) {
    float moved[11];
    #pragma unroll
    for (uint k = 0; k < 11; ++k) moved[k] = shared[15 * tid + k];
    const float noise = settings[kNoise];
    if (move && noise > 0.0f) {
        // MCMC's exploration (Kheradmand et al. 2024, eq. 9): Sigma n, gated so that only nearly transparent Gaussians move.
        const float gate = sigmoid(-kNoiseSteepness * (sigmoid(moved[10]) - kNoiseOpacity)) * noise;
        const float norm2 = max(moved[3] * moved[3] + moved[4] * moved[4] + moved[5] * moved[5] + moved[6] * moved[6], 1e-24f);
        const float inv = 1.0f / sqrt(norm2), w = moved[3] * inv, x = moved[4] * inv, y = moved[5] * inv, z = moved[6] * inv;
        const float turn[9] = {1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y),
                               2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x),
                               2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)};
        const uint seed = as_type<uint>(settings[kSeed]), step = as_type<uint>(settings[kStep]);
        float draw[3], local[3];
        #pragma unroll
        for (uint k = 0; k < 3; ++k) draw[k] = normal(3 * i + k, seed, step);
        #pragma unroll
        for (uint k = 0; k < 3; ++k)
            local[k] = (turn[k] * draw[0] + turn[3 + k] * draw[1] + turn[6 + k] * draw[2]) * exp(2.0f * moved[7 + k]);
        #pragma unroll
        for (uint k = 0; k < 3; ++k)
            moved[k] += gate * (turn[3 * k] * local[0] + turn[3 * k + 1] * local[1] + turn[3 * k + 2] * local[2]);
    }
    for (uint k = 0; k < 3; ++k) new_params[3 * i + k] = moved[k];
}
