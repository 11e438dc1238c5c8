// SPDX-License-Identifier: Apache-2.0
// Stage 6a for autograd, a thread a splat: the sum of its slots -> the gradient of means2d, conics, colors, opacities, absgrad.
// A splat's slots lie side by side; `spans` gives where they begin in their group's, and how many they are.
const uint i = thread_position_in_grid.x;
if (i < uint(sizes[kN])) {
    float4 a = {0.0f, 0.0f, 0.0f, 0.0f}, b = {0.0f, 0.0f, 0.0f, 0.0f}, c = {0.0f, 0.0f, 0.0f, 0.0f};
    const uint first = group_starts[i / kIntersectGroup] + spans[2 * i], last = first + spans[2 * i + 1];
    for (uint k = first; k < last; ++k) {
        const float4 x = ((const device float4*)slot_grads)[3 * k], y = ((const device float4*)slot_grads)[3 * k + 1];
        const float4 z = ((const device float4*)slot_grads)[3 * k + 2];
        a.x += x.x, a.y += x.y, a.z += x.z, a.w += x.w;
        b.x += y.x, b.y += y.y, b.z += y.z, b.w += y.w;
        c.x += z.x, c.y += z.y, c.z += z.z;
    }
    const uint r = kRecord * i;
    SplatGrad<float> v = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};  // a culled one's record may hold anything
    if (last > first) v = splat_gradient(a, b, records[r + 2], records[r + 3], records[r + 4], records[r + 5]);
    v_means2d[2 * i] = v.mx, v_means2d[2 * i + 1] = v.my;
    v_conics[3 * i] = v.a, v_conics[3 * i + 1] = v.b, v_conics[3 * i + 2] = v.c;
    v_colors[3 * i] = b.z, v_colors[3 * i + 1] = b.w, v_colors[3 * i + 2] = c.x;
    v_opacities[i] = v.opacity;
    v_abs[2 * i] = c.y * kLn2, v_abs[2 * i + 1] = c.z * kLn2;
}
