// SPDX-License-Identifier: Apache-2.0
// Stage 6a, a thread a Gaussian: its slots are summed, carried back through projection and colour, and used at once by Adam,
// MCMC's noise and the density statistics. shN waits for update_shn, which gets {direction, whether it moves; colour's gradient}.
// If the step may not change anything, all is copied.
threadgroup float shared[128 * 15];  // of each Gaussian the gradient, then what Adam makes of it
threadgroup uint moves[128];
threadgroup uint bad_groups[4];
const uint tid = thread_position_in_threadgroup.x, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
const uint i = thread_position_in_grid.x, group = threadgroup_position_in_grid.x;
const uint n = uint(sizes[kN]);
const bool valid = i < n, well = status[kState] == kWell && is_finite(loss[0]);
const int degree = sizes[kDegree], bands = (degree + 1) * (degree + 1) - 1;
const uint row = 3 * uint(sizes[kRest]) * i;

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

float v_rgb[3] = {0.0f, 0.0f, 0.0f};
Vec3<float> view_direction = {0.0f, 0.0f, 0.0f};
bool broken = false, move = false;
if (valid) {
    const uint q = 3 * n + 4 * i, s = 7 * n + 3 * i, o = 10 * n + i;
    Gaussian<float> g;
    g.mean = {params[3 * i], params[3 * i + 1], params[3 * i + 2]};
    g.qw = params[q], g.qx = params[q + 1], g.qy = params[q + 2], g.qz = params[q + 3];
    g.log_scale = {params[s], params[s + 1], params[s + 2]};
    g.logit = params[o];
    Gaussian<float> v = {{0.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0.0f, 0.0f, {0.0f, 0.0f, 0.0f}, 0.0f};
    SplatGrad<float> d = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    const bool seen = well && radii[2 * i] > 0;
    const float base_opacity = sigmoid(g.logit);
    if (seen) {
        const device float4* c4 = (const device float4*)camera;
        const CameraParams cam = unpack_camera(c4[0], c4[1], c4[2], c4[3], c4[4], sizes[kWidth], sizes[kHeight]);
        const bool antialiased = sizes[kAntialiased] != 0;
        const Projection<float> k = project_parts(g, cam, antialiased);
        const Splat<float> p = project(k, cam);
        d = splat_gradient(a, b, p.a, p.b, p.c, p.opacity);
        v = project_vjp(k, p, d, cam, antialiased);
        const Vec3<float> towards = {g.mean.x - cam.position[0], g.mean.y - cam.position[1], g.mean.z - cam.position[2]};
        const float inv_distance = 1.0f / sqrt(max(dot(towards, towards), 1e-24f));
        const Vec3<float> direction = scale(towards, inv_distance);
        view_direction = direction;
        v_rgb[0] = colours[4 * i] > 0.0f ? b.z : 0.0f;
        v_rgb[1] = colours[4 * i + 1] > 0.0f ? b.w : 0.0f;
        v_rgb[2] = colours[4 * i + 2] > 0.0f ? c.x : 0.0f;
        if (bands > 0) {
            float w[15];
            #pragma unroll
            for (int k = 0; k < 15; ++k) {
                w[k] = 0.0f;
                if (k < bands) {
                    const uint at = row + 3 * uint(k);
                    w[k] = v_rgb[0] * shn[at] + v_rgb[1] * shn[at + 1] + v_rgb[2] * shn[at + 2];
                }
            }
            const Vec3<float> along = direction_vjp(direction, inv_distance, sh_basis_vjp(direction, degree, w));
            v.mean.x += along.x, v.mean.y += along.y, v.mean.z += along.z;
        }
    }
    const float scale_reg = settings[kScaleReg];
    v.log_scale.x += scale_reg * exp(g.log_scale.x);
    v.log_scale.y += scale_reg * exp(g.log_scale.y);
    v.log_scale.z += scale_reg * exp(g.log_scale.z);
    v.logit += settings[kOpacityReg] * base_opacity * (1.0f - base_opacity);
    const float grad[14] = {v.mean.x, v.mean.y, v.mean.z, v.qw, v.qx, v.qy, v.qz, v.log_scale.x, v.log_scale.y, v.log_scale.z,
                            v.logit, kSH0 * v_rgb[0], kSH0 * v_rgb[1], kSH0 * v_rgb[2]};
    float total = 0.0f;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) total += grad[k];
    broken = well && !is_finite(total);
    move = well && !broken;
    #pragma unroll
    for (uint k = 0; k < 14; ++k) shared[15 * tid + k] = grad[k];
    if (STATS) {
        const float half_width = 0.5f * float(sizes[kWidth]), half_height = 0.5f * float(sizes[kHeight]);
        const float sx = d.mx * half_width, sy = d.my * half_height;
        const float ax = c.y * kLn2 * half_width, ay = c.z * kLn2 * half_height;
        const bool counts = move && seen;
        stats[3 * i] = stats_in[3 * i] + (counts ? sqrt(sx * sx + sy * sy) : 0.0f);
        stats[3 * i + 1] = stats_in[3 * i + 1] + (counts ? sqrt(ax * ax + ay * ay) : 0.0f);
        stats[3 * i + 2] = stats_in[3 * i + 2] + (counts ? 1.0f : 0.0f);
    }
    ((device float4*)colour)[2 * i] = float4{view_direction.x, view_direction.y, view_direction.z, move ? 1.0f : 0.0f};
    ((device float4*)colour)[2 * i + 1] = float4{v_rgb[0], v_rgb[1], v_rgb[2], 0.0f};
}
const bool trouble = simd_any(broken);
if (lane == 0) bad_groups[simd] = trouble ? 1u : 0u;
moves[tid] = move ? 1u : 0u;
threadgroup_barrier(mem_flags::mem_threadgroup);
// Adam, one group of parameters after the other: those of neighbours lie side by side, so do the threads that move them.
const uint widths[5] = {3, 4, 3, 1, 3}, firsts[5] = {0, 3, 7, 10, 11}, rows = min(128u, n - 128 * group);
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
        if (moves[e / width] != 0) to[j] = adam_step(to[j].p, to[j].m, to[j].v, shared[at], rate, v_correction);
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
if (tid == 0) {
    const bool lost = status[kState] == kWell && !is_finite(loss[0]);
    const bool half = (bad_groups[0] | bad_groups[1] | bad_groups[2] | bad_groups[3]) != 0;
    flags[group] = half ? 2u : lost ? 1u : 0u;  // 2: a gradient was not finite, other Gaussians have moved
}
