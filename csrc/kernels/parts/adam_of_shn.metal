// SPDX-License-Identifier: Apache-2.0
// A part of `update_shn` and `combine_shn`: Adam of a threadgroup's rows of shN, four numbers a thread at a time. GRADIENT(line,
// place, band) is the gradient of number `place` of Gaussian `line`, ADAM(p, m, v, gradient, rate) one number's step.
const uint base = width * group * 128, all = width * count;
const float rate = settings[5], v_correction = settings[kVCorrection];
for (uint e = 4 * tid; e < all; e += 1024) {
    float p4[4], m4[4], v4[4];
    const bool whole = e + 4 <= all;
    if (whole) {
        const uint q = (base + e) / 4;
        const float4 p = ((const device float4*)shn)[q], f = ((const device float4*)m)[q], s = ((const device float4*)v_in)[q];
        p4[0] = p.x, p4[1] = p.y, p4[2] = p.z, p4[3] = p.w;
        m4[0] = f.x, m4[1] = f.y, m4[2] = f.z, m4[3] = f.w;
        v4[0] = s.x, v4[1] = s.y, v4[2] = s.z, v4[3] = s.w;
    }
    uint line = e / width, place = e % width;
    #pragma unroll
    for (uint k = 0; k < 4; ++k) {
        if (e + k < all) {
            const uint band = place / 3;
            const float grad = GRADIENT(line, place, band);
            Moved to;
            if (whole) to = {p4[k], m4[k], v4[k]};
            else to = {shn[base + e + k], m[base + e + k], v_in[base + e + k]};
            if (moves[line] != 0) to = ADAM(to.p, to.m, to.v, grad, rate);
            p4[k] = to.p, m4[k] = to.m, v4[k] = to.v;
            if (!whole) new_shn[base + e + k] = to.p, new_m[base + e + k] = to.m, new_v[base + e + k] = to.v;
            place += 1;
            if (place == width) place = 0, line += 1;
        }
    }
    if (whole) {
        const uint q = (base + e) / 4;
        ((device float4*)new_shn)[q] = float4{p4[0], p4[1], p4[2], p4[3]};
        ((device float4*)new_m)[q] = float4{m4[0], m4[1], m4[2], m4[3]};
        ((device float4*)new_v)[q] = float4{v4[0], v4[1], v4[2], v4[3]};
    }
}
