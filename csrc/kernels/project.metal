// SPDX-License-Identifier: Apache-2.0
// Stage 1a, a thread a Gaussian: parameters -> the splat's record and radii; and zeroes for the counters of `intersect`.
const uint i = thread_position_in_grid.x;
const int n = sizes[kN];
if (i <= uint(sizes[kTilesX] * sizes[kTilesY])) counters[kStride * i] = 0;
if (i < uint(n)) {
    const device float4* c4 = (const device float4*)camera;
    const CameraParams cam = unpack_camera(c4[0], c4[1], c4[2], c4[3], c4[4], sizes[kWidth], sizes[kHeight]);
    const bool antialiased = sizes[kAntialiased] != 0;
    Gaussian<float> g;
    g.mean = {params[3 * i], params[3 * i + 1], params[3 * i + 2]};
    const uint q = 3 * n + 4 * i, s = 7 * n + 3 * i;
    g.qw = params[q], g.qx = params[q + 1], g.qy = params[q + 2], g.qz = params[q + 3];
    g.log_scale = {params[s], params[s + 1], params[s + 2]};
    g.logit = params[10 * n + i];
    const Projection<float> k = project_parts(g, cam, antialiased);
    const Splat<float> p = project(k, cam);

    const float extent = min(kMaxExtent, sqrt(max(2.0f * log(max(255.0f * p.opacity, 1e-9f)), 0.0f)));
    const float rx = ceil(extent * sqrt(p.cov_a)), ry = ceil(extent * sqrt(p.cov_c));
    // The sole visibility gate, for NaN as well.
    const bool visible = is_finite(p.mx + p.my + k.det_blur + p.opacity) && p.depth >= kNearPlane && p.opacity >= kAlphaMin && rx > 0.0f && ry > 0.0f && p.mx + rx > 0.0f &&
                         p.mx - rx < float(cam.width) && p.my + ry > 0.0f && p.my - ry < float(cam.height) &&
                         p.depth < 1e30f && k.det_blur < 1e30f;
    device float4* record = (device float4*)records + 2 * i;
    record[0] = float4{p.mx, p.my, p.a, p.b};
    record[1] = float4{p.c, p.opacity, p.depth, 0.0f};
    radii[2 * i] = visible ? int(min(rx, 1e9f)) : 0;
    radii[2 * i + 1] = visible ? int(min(ry, 1e9f)) : 0;
}
