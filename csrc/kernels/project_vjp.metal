// SPDX-License-Identifier: Apache-2.0
// Stage 6b for autograd, a thread a Gaussian: the gradient of its splat -> of its parameters. A culled one's is zero. The
// rows of shN of a group lie side by side, and its threads write them together.
threadgroup float group_basis[128 * 15];
threadgroup float group_rgb[128 * 3];
const uint tid = thread_position_in_threadgroup.x, i = thread_position_in_grid.x;
const uint group = threadgroup_position_in_grid.x;
const int n = sizes[kN];
if (i < uint(n)) {
    const device float4* c4 = (const device float4*)camera;
    const CameraParams cam = unpack_camera(c4[0], c4[1], c4[2], c4[3], c4[4], sizes[kWidth], sizes[kHeight]);
    const bool antialiased = sizes[kAntialiased] != 0;
    const int degree = sizes[kDegree], bands = (degree + 1) * (degree + 1) - 1;
    const uint q = 3 * n + 4 * i, s = 7 * n + 3 * i, dc = 11 * n + 3 * i, row = 3 * uint(sizes[kRest]) * i;
    const bool seen = radii[2 * i] > 0;
    Gaussian<float> v = {{0.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0.0f, 0.0f, {0.0f, 0.0f, 0.0f}, 0.0f};
    float v_rgb[3] = {0.0f, 0.0f, 0.0f}, basis[15];
    for (int b = 0; b < 15; ++b) basis[b] = 0.0f;
    if (seen) {
        Gaussian<float> g;
        g.mean = {params[3 * i], params[3 * i + 1], params[3 * i + 2]};
        g.qw = params[q], g.qx = params[q + 1], g.qy = params[q + 2], g.qz = params[q + 3];
        g.log_scale = {params[s], params[s + 1], params[s + 2]};
        g.logit = params[10 * n + i];
        const Projection<float> k = project_parts(g, cam, antialiased);
        const Splat<float> p = project(k, cam);
        const SplatGrad<float> d = {v_means2d[2 * i], v_means2d[2 * i + 1], v_conics[3 * i], v_conics[3 * i + 1],
                                    v_conics[3 * i + 2], v_opacities[i], v_depths[i]};
        v = project_vjp(k, p, d, cam, antialiased);
        const Vec3<float> towards = {g.mean.x - cam.position[0], g.mean.y - cam.position[1], g.mean.z - cam.position[2]};
        const float inv_distance = 1.0f / sqrt(max(dot(towards, towards), 1e-24f));
        const Vec3<float> direction = scale(towards, inv_distance);
        sh_basis(direction, degree, basis);
        for (int c = 0; c < 3; ++c) v_rgb[c] = colours[4 * i + uint(c)] > 0.0f ? v_colors[3 * i + c] : 0.0f;
        float w[15];
        for (int b = 0; b < 15; ++b) {
            w[b] = 0.0f;
            if (b < bands)
                for (int c = 0; c < 3; ++c) w[b] += v_rgb[c] * shn[row + 3 * b + c];
        }
        const Vec3<float> along = direction_vjp(direction, inv_distance, sh_basis_vjp(direction, degree, w));
        v.mean.x += along.x, v.mean.y += along.y, v.mean.z += along.z;
    }
    grads[3 * i] = v.mean.x, grads[3 * i + 1] = v.mean.y, grads[3 * i + 2] = v.mean.z;
    grads[q] = v.qw, grads[q + 1] = v.qx, grads[q + 2] = v.qy, grads[q + 3] = v.qz;
    grads[s] = v.log_scale.x, grads[s + 1] = v.log_scale.y, grads[s + 2] = v.log_scale.z;
    grads[10 * n + i] = v.logit;
    for (int c = 0; c < 3; ++c) grads[dc + c] = kSH0 * v_rgb[c];
    for (int b = 0; b < 15; ++b) group_basis[15 * tid + uint(b)] = b < bands ? basis[b] : 0.0f;
    for (int c = 0; c < 3; ++c) group_rgb[3 * tid + uint(c)] = v_rgb[c];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint width = 3 * uint(sizes[kRest]), base = width * group * 128, all = width * min(128u, uint(n) - group * 128);
for (uint e = tid; e < all; e += 128) {
    const uint line = e / width, place = e % width, band = place / 3;
    grads_shn[base + e] = group_basis[15 * line + band] * group_rgb[3 * line + place - 3 * band];
}
