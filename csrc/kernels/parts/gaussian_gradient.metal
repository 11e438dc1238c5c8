// SPDX-License-Identifier: Apache-2.0
// A part of `update` and `gradients`, for a Gaussian i that is there: from the sums a, b, c of its slots the gradients v of its
// parameters, v_rgb of its colour and d of its splat; whether it is seen.
const uint q = 3 * n + 4 * i, s = 7 * n + 3 * i, o = 10 * n + i;
Gaussian<float> g;
g.mean = {params[3 * i], params[3 * i + 1], params[3 * i + 2]};
g.qw = params[q], g.qx = params[q + 1], g.qy = params[q + 2], g.qz = params[q + 3];
g.log_scale = {params[s], params[s + 1], params[s + 2]};
g.logit = params[o];
Gaussian<float> v = {{0.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0.0f, 0.0f, {0.0f, 0.0f, 0.0f}, 0.0f};
SplatGrad<float> d = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
const bool seen = well && radii[2 * i] > 0;
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
