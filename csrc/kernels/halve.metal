// SPDX-License-Identifier: Apache-2.0
// Rows of Gaussians -> two halves of each, set apart along the longest axis, and together as opaque: see training/strategies/copies.py.
// how: standard deviations from the middle to either side, what that takes from the logarithm of the axis, the least and the largest
// opacity. Row i of the results is one half, row n + i the other.
const uint i = thread_position_in_grid.x, n = uint(sizes[kN]), before = uint(sizes[kBefore]);
if (i < n) {
    const uint row = uint(rows[i]), q = 3 * before + 4 * row, s = 7 * before + 3 * row;
    const float logit = params[10 * before + row];
    // o_new = 1 - sqrt(1 - o), without cancellation.
    const float decay = exp(-abs(logit)), opacity = (logit < 0.0f ? decay : 1.0f) / (1.0f + decay);
    const float left = sqrt((logit < 0.0f ? 1.0f : decay) / (1.0f + decay));
    const float half_opacity = min(max(opacity / (1.0f + left), how[2]), how[3]);
    const float rest = min(max(left, 1.0f - how[3]), 1.0f - how[2]);
    new_logits[i] = new_logits[n + i] = log(half_opacity) - log(rest);
    uint longest = 0;
    for (uint k = 1; k < 3; ++k) longest = params[s + k] > params[s + longest] ? k : longest;
    const float reach = how[0] * exp(params[s + longest]);
    float w = params[q], x = params[q + 1], y = params[q + 2], z = params[q + 3];
    const float inverse = 1.0f / max(sqrt(w * w + x * x + y * y + z * z), 1e-12f);
    w *= inverse, x *= inverse, y *= inverse, z *= inverse;
    // The column of the rotation that the axis becomes.
    const float column[3] = {
        longest == 0 ? 1.0f - 2.0f * (y * y + z * z) : longest == 1 ? 2.0f * (x * y - w * z) : 2.0f * (x * z + w * y),
        longest == 0 ? 2.0f * (x * y + w * z) : longest == 1 ? 1.0f - 2.0f * (x * x + z * z) : 2.0f * (y * z - w * x),
        longest == 0 ? 2.0f * (x * z - w * y) : longest == 1 ? 2.0f * (y * z + w * x) : 1.0f - 2.0f * (x * x + y * y),
    };
    for (uint k = 0; k < 3; ++k) {
        const float mean = params[3 * row + k], offset = reach * column[k];
        new_means[3 * i + k] = mean - offset;
        new_means[3 * (n + i) + k] = mean + offset;
        new_log_scales[3 * i + k] = new_log_scales[3 * (n + i) + k] = params[s + k] + (k == longest ? how[1] : 0.0f);
    }
}
