// SPDX-License-Identifier: Apache-2.0
// Real spherical harmonics up to degree 3 in a unit direction (Ramamoorthi and Hanrahan 2001; signs as in 3DGS) and
// their derivatives.
#pragma once
#include "compat.h"

namespace gs::GS_ISA {

GS_CONSTANT float kSH0 = 0.28209479f;
GS_CONSTANT float kSH1 = 0.48860251f;
GS_CONSTANT float kSH2[5] = {1.09254843f, -1.09254843f, 0.31539157f, -1.09254843f, 0.54627422f};
GS_CONSTANT float kSH3[7] = {-0.59004359f, 2.89061144f, -0.45704580f, 0.37317633f, -0.45704580f, 1.44530572f, -0.59004359f};

// basis[k - 1] for k = 1 .. (degree + 1)^2 - 1
template <class F>
GS_FN void sh_basis(Vec3<F> d, int degree, GS_THREAD F* basis) {
    if (degree < 1) return;
    basis[0] = F(-kSH1) * d.y;
    basis[1] = F(kSH1) * d.z;
    basis[2] = F(-kSH1) * d.x;
    if (degree < 2) return;
    const F xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z;
    basis[3] = F(kSH2[0]) * d.x * d.y;
    basis[4] = F(kSH2[1]) * d.y * d.z;
    basis[5] = F(kSH2[2]) * (F(2.0f) * zz - xx - yy);
    basis[6] = F(kSH2[3]) * d.x * d.z;
    basis[7] = F(kSH2[4]) * (xx - yy);
    if (degree < 3) return;
    basis[8] = F(kSH3[0]) * d.y * (F(3.0f) * xx - yy);
    basis[9] = F(kSH3[1]) * d.x * d.y * d.z;
    basis[10] = F(kSH3[2]) * d.y * (F(4.0f) * zz - xx - yy);
    basis[11] = F(kSH3[3]) * d.z * (F(2.0f) * zz - F(3.0f) * (xx + yy));
    basis[12] = F(kSH3[4]) * d.x * (F(4.0f) * zz - xx - yy);
    basis[13] = F(kSH3[5]) * d.z * (xx - yy);
    basis[14] = F(kSH3[6]) * d.x * (xx - F(3.0f) * yy);
}

// sum over k of w[k] * d basis[k] / d direction
template <class F>
GS_FN Vec3<F> sh_basis_vjp(Vec3<F> d, int degree, const GS_THREAD F* w) {
    Vec3<F> g = {F(0.0f), F(0.0f), F(0.0f)};
    if (degree < 1) return g;
    const F two = 2.0f, three = 3.0f;
    g.x -= F(kSH1) * w[2];
    g.y -= F(kSH1) * w[0];
    g.z += F(kSH1) * w[1];
    if (degree < 2) return g;
    const F a = F(kSH2[0]) * w[3], b = F(kSH2[1]) * w[4], c = F(kSH2[2]) * w[5], e = F(kSH2[3]) * w[6], f = F(kSH2[4]) * w[7];
    g.x += a * d.y + e * d.z + two * d.x * (f - c);
    g.y += a * d.x + b * d.z - two * d.y * (f + c);
    g.z += b * d.y + e * d.x + F(4.0f) * c * d.z;
    if (degree < 3) return g;
    const F xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z, xy = d.x * d.y, xz = d.x * d.z, yz = d.y * d.z;
    const F h0 = F(kSH3[0]) * w[8], h1 = F(kSH3[1]) * w[9], h2 = F(kSH3[2]) * w[10], h3 = F(kSH3[3]) * w[11],
            h4 = F(kSH3[4]) * w[12], h5 = F(kSH3[5]) * w[13], h6 = F(kSH3[6]) * w[14];
    const F six = 6.0f, eight = 8.0f, four = 4.0f;
    g.x += six * h0 * xy + h1 * yz - two * h2 * xy - six * h3 * xz + h4 * (four * zz - three * xx - yy) + two * h5 * xz +
           three * h6 * (xx - yy);
    g.y += three * h0 * (xx - yy) + h1 * xz + h2 * (four * zz - xx - three * yy) - six * h3 * yz - two * h4 * xy - two * h5 * yz -
           six * h6 * xy;
    g.z += h1 * xy + eight * h2 * yz + three * h3 * (two * zz - xx - yy) + eight * h4 * xz + h5 * (xx - yy);
    return g;
}

}  // namespace gs::GS_ISA
