// SPDX-License-Identifier: Apache-2.0
// One splat at one pixel, front to back (3DGS, eq. 3), and the gradient of that.
// In base 2: e = log2(opacity) - sigma log2(e) = l + dx (ha dx + hb dy) + hc dy^2 with dx, dy from the splat's mean to the
// pixel's centre, so that alpha = 2^e; visible where e >= log2(1/255).
#pragma once
#include "compat.h"
#include "constants.h"

namespace gs::GS_ISA {

template <class F>
GS_FN F exponent(F dx, F dy, F ha, F hb, F hc, F l) {
    return l + dx * (ha * dx + hb * dy) + (hc * dy) * dy;
}

// d loss / d ln(alpha) of a splat that contributes q = v . colour alpha T, where behind = v . (what all splats behind it and the
// background contribute): a larger alpha brings more of q, and hides as much of what is behind as (1 - alpha) lets through.
template <class F>
GS_FN F log_alpha_vjp(F q, F alpha, F behind) {
    return q - behind * (alpha * reciprocal(F(1.0f) - alpha));
}

// The least of q(dx, dy) = a dx^2 + b dx dy + c dy^2 over the rectangle [x0, x1] x [y0, y1] relative to the mean. A convex
// function whose own minimum lies outside takes its least value on an edge that faces it, so the two nearer edges do.
// ratio_x = -b / 2a and ratio_y = -b / 2c give the best dx for a dy and the best dy for a dx.
template <class F>
GS_FN F least_on_rectangle(F a, F b, F c, F ratio_x, F ratio_y, F x0, F x1, F y0, F y1) {
    const F ex = clamp(F(0.0f), x0, x1), ey = clamp(F(0.0f), y0, y1);
    const F dy = clamp(ratio_y * ex, y0, y1), dx = clamp(ratio_x * ey, x0, x1);
    const F on_x = a * ex * ex + dy * (b * ex + c * dy);
    const F on_y = c * ey * ey + dx * (b * ey + a * dx);
    return min(on_x, on_y);
}

}  // namespace gs::GS_ISA
