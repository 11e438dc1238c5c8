// SPDX-License-Identifier: Apache-2.0
// A 3D Gaussian seen by a camera: projection (EWA splatting, Zwicker et al. 2002; 3DGS, Kerbl et al. 2023, eq. 5) and
// its vector-Jacobian product.
// Notation: p = R mean + t; u = x/z, v = y/z, clamped; M = R Rq diag(s); rows of V = J M give cov2d = V V^T.
#pragma once
#include "compat.h"
#include "constants.h"

namespace gs::GS_ISA {

template <class F>
struct Gaussian {
    Vec3<F> mean;
    F qw, qx, qy, qz;  // not normalised
    Vec3<F> log_scale;
    F logit;
};

template <class F>
struct Splat {  // a projected Gaussian
    F mx, my;         // px
    F a, b, c;        // conic: the inverse of cov2d + 0.3 I
    F cov_a, cov_c;   // the diagonal of cov2d + 0.3 I
    F depth;
    F opacity;        // compensated in antialiased mode
};

template <class F>
struct SplatGrad {
    F mx, my, a, b, c, opacity, depth;
};

// What the forward pass computes on its way and the backward pass needs again.
template <class F>
struct Projection {
    Vec3<F> p;
    F rz, u, v;
    F u_free, v_free;  // 1 where x/z (y/z) is not clamped, else 0
    F inv_norm, w, x, y, z;
    F q[9];      // rotation of the normalised quaternion
    F m[9];      // M
    F s[3];
    F v0[3], v1[3];
    F a, b, c, det, det_blur, comp;
    F base_opacity, transparency;  // sigmoid(logit), sigmoid(-logit): 1 - opacity would lose digits near 1
};

template <class F>
GS_FN Projection<F> project_parts(const GS_THREAD Gaussian<F>& g, const GS_THREAD CameraParams& cam, bool antialiased) {
    using namespace gs_const;
    Projection<F> k;
    k.p.x = F(cam.r[0]) * g.mean.x + F(cam.r[1]) * g.mean.y + F(cam.r[2]) * g.mean.z + F(cam.t[0]);
    k.p.y = F(cam.r[3]) * g.mean.x + F(cam.r[4]) * g.mean.y + F(cam.r[5]) * g.mean.z + F(cam.t[1]);
    k.p.z = F(cam.r[6]) * g.mean.x + F(cam.r[7]) * g.mean.y + F(cam.r[8]) * g.mean.z + F(cam.t[2]);
    // Behind the near plane the Gaussian is culled: any finite 1/z will do there.
    k.rz = F(1.0f) / max(k.p.z, F(kNearPlane));
    const float tan_x = 0.5f * cam.width / cam.fx, tan_y = 0.5f * cam.height / cam.fy;
    const F u_lo = -cam.cx / cam.fx - kJacobianMargin * tan_x;
    const F u_hi = (cam.width - cam.cx) / cam.fx + kJacobianMargin * tan_x;
    const F v_lo = -cam.cy / cam.fy - kJacobianMargin * tan_y;
    const F v_hi = (cam.height - cam.cy) / cam.fy + kJacobianMargin * tan_y;
    const F u = k.p.x * k.rz, v = k.p.y * k.rz;
    k.u = clamp(u, u_lo, u_hi);
    k.v = clamp(v, v_lo, v_hi);
    k.u_free = select((u >= u_lo) & (u <= u_hi), F(1.0f), F(0.0f));
    k.v_free = select((v >= v_lo) & (v <= v_hi), F(1.0f), F(0.0f));

    // The floor keeps a zero quaternion finite; it then stands for no rotation of a flat Gaussian and gets no gradient.
    const F norm2 = max(g.qw * g.qw + g.qx * g.qx + g.qy * g.qy + g.qz * g.qz, F(1e-24f));
    k.inv_norm = F(1.0f) / sqrt(norm2);
    k.w = g.qw * k.inv_norm, k.x = g.qx * k.inv_norm, k.y = g.qy * k.inv_norm, k.z = g.qz * k.inv_norm;
    const F one = 1.0f, two = 2.0f;
    k.q[0] = one - two * (k.y * k.y + k.z * k.z);
    k.q[1] = two * (k.x * k.y - k.w * k.z);
    k.q[2] = two * (k.x * k.z + k.w * k.y);
    k.q[3] = two * (k.x * k.y + k.w * k.z);
    k.q[4] = one - two * (k.x * k.x + k.z * k.z);
    k.q[5] = two * (k.y * k.z - k.w * k.x);
    k.q[6] = two * (k.x * k.z - k.w * k.y);
    k.q[7] = two * (k.y * k.z + k.w * k.x);
    k.q[8] = one - two * (k.x * k.x + k.y * k.y);
    k.s[0] = exp(g.log_scale.x), k.s[1] = exp(g.log_scale.y), k.s[2] = exp(g.log_scale.z);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
            k.m[3 * i + j] =
                (F(cam.r[3 * i]) * k.q[j] + F(cam.r[3 * i + 1]) * k.q[3 + j] + F(cam.r[3 * i + 2]) * k.q[6 + j]) * k.s[j];
    const F fx = F(cam.fx) * k.rz, fy = F(cam.fy) * k.rz;
    for (int j = 0; j < 3; ++j) {
        k.v0[j] = fx * (k.m[j] - k.u * k.m[6 + j]);
        k.v1[j] = fy * (k.m[3 + j] - k.v * k.m[6 + j]);
    }
    k.a = k.v0[0] * k.v0[0] + k.v0[1] * k.v0[1] + k.v0[2] * k.v0[2];
    k.b = k.v0[0] * k.v1[0] + k.v0[1] * k.v1[1] + k.v0[2] * k.v1[2];
    k.c = k.v1[0] * k.v1[0] + k.v1[1] * k.v1[1] + k.v1[2] * k.v1[2];
    // det(V V^T) = |v0 x v1|^2: no cancellation, never negative.
    const F c0 = k.v0[1] * k.v1[2] - k.v0[2] * k.v1[1];
    const F c1 = k.v0[2] * k.v1[0] - k.v0[0] * k.v1[2];
    const F c2 = k.v0[0] * k.v1[1] - k.v0[1] * k.v1[0];
    k.det = c0 * c0 + c1 * c1 + c2 * c2;
    k.det_blur = k.det + F(kLowPass) * (k.a + k.c) + F(kLowPass * kLowPass);
    const F decay = exp(-g.logit);
    k.base_opacity = F(1.0f) / (F(1.0f) + decay);
    k.transparency = decay * k.base_opacity;
    k.comp = antialiased ? sqrt(k.det / k.det_blur) : one;
    return k;
}

template <class F>
GS_FN Splat<F> project(const GS_THREAD Projection<F>& k, const GS_THREAD CameraParams& cam) {
    const F low_pass = gs_const::kLowPass;
    Splat<F> s;
    s.mx = F(cam.fx) * k.p.x * k.rz + F(cam.cx);
    s.my = F(cam.fy) * k.p.y * k.rz + F(cam.cy);
    s.cov_a = k.a + low_pass;
    s.cov_c = k.c + low_pass;
    const F inv_det = F(1.0f) / k.det_blur;
    s.a = s.cov_c * inv_det;
    s.b = -k.b * inv_det;
    s.c = s.cov_a * inv_det;
    s.depth = k.p.z;
    s.opacity = k.base_opacity * k.comp;
    return s;
}

template <class F>
GS_FN Gaussian<F> project_vjp(const GS_THREAD Projection<F>& k, const GS_THREAD Splat<F>& s, SplatGrad<F> d,
                               const GS_THREAD CameraParams& cam, bool antialiased) {
    const F one_half = 0.5f, two = 2.0f;
    Gaussian<F> g;
    // conic = inverse(cov): v_cov = -conic v_conic conic, with v_b shared by the two off-diagonal entries.
    const F hb = one_half * d.b;
    const F t00 = s.a * d.a + s.b * hb, t01 = s.a * hb + s.b * d.c;
    const F t10 = s.b * d.a + s.c * hb, t11 = s.b * hb + s.c * d.c;
    F va = -(t00 * s.a + t01 * s.b);
    F vb = -two * (t00 * s.b + t01 * s.c);
    F vc = -(t10 * s.b + t11 * s.c);
    const F v_base = d.opacity * k.comp;
    if (antialiased) {
        // comp^2 = det / det_blur; its gradient vanishes with comp.
        const F v_comp = d.opacity * k.base_opacity;
        const F v_ratio = select(k.comp > F(0.0f), one_half * v_comp / max(k.comp, F(1e-12f)), F(0.0f));
        const F inv = F(1.0f) / k.det_blur;
        const F v_det = v_ratio * inv, v_blur = -v_ratio * k.comp * k.comp * inv;
        va += v_det * k.c + v_blur * s.cov_c;
        vc += v_det * k.a + v_blur * s.cov_a;
        vb -= two * k.b * (v_det + v_blur);
    }
    g.logit = v_base * k.base_opacity * k.transparency;

    const F fx = F(cam.fx) * k.rz, fy = F(cam.fy) * k.rz;
    F v_m[9], v_u = 0.0f, v_v = 0.0f, scaled = 0.0f;  // scaled = rz * dL/drz through J
    for (int j = 0; j < 3; ++j) {
        const F w0 = two * va * k.v0[j] + vb * k.v1[j];
        const F w1 = two * vc * k.v1[j] + vb * k.v0[j];
        v_m[j] = fx * w0;
        v_m[3 + j] = fy * w1;
        v_m[6 + j] = -(k.u * v_m[j] + k.v * v_m[3 + j]);
        v_u -= v_m[j] * k.m[6 + j];
        v_v -= v_m[3 + j] * k.m[6 + j];
        scaled += w0 * k.v0[j] + w1 * k.v1[j];
    }
    v_u *= k.u_free;
    v_v *= k.v_free;
    Vec3<F> v_p;
    v_p.x = (v_u + d.mx * F(cam.fx)) * k.rz;
    v_p.y = (v_v + d.my * F(cam.fy)) * k.rz;
    v_p.z = d.depth - k.rz * (scaled + v_p.x * k.p.x + v_p.y * k.p.y);
    g.mean.x = F(cam.r[0]) * v_p.x + F(cam.r[3]) * v_p.y + F(cam.r[6]) * v_p.z;
    g.mean.y = F(cam.r[1]) * v_p.x + F(cam.r[4]) * v_p.y + F(cam.r[7]) * v_p.z;
    g.mean.z = F(cam.r[2]) * v_p.x + F(cam.r[5]) * v_p.y + F(cam.r[8]) * v_p.z;

    F v_s[3], v_q[9];
    for (int j = 0; j < 3; ++j) {
        v_s[j] = v_m[j] * k.m[j] + v_m[3 + j] * k.m[3 + j] + v_m[6 + j] * k.m[6 + j];
        for (int i = 0; i < 3; ++i)
            v_q[3 * i + j] = (F(cam.r[i]) * v_m[j] + F(cam.r[3 + i]) * v_m[3 + j] + F(cam.r[6 + i]) * v_m[6 + j]) * k.s[j];
    }
    g.log_scale = {v_s[0], v_s[1], v_s[2]};
    const F w = two * (k.x * (v_q[7] - v_q[5]) + k.y * (v_q[2] - v_q[6]) + k.z * (v_q[3] - v_q[1]));
    const F x = two * (k.y * (v_q[1] + v_q[3]) + k.z * (v_q[2] + v_q[6]) + k.w * (v_q[7] - v_q[5]) - two * k.x * (v_q[4] + v_q[8]));
    const F y = two * (k.x * (v_q[1] + v_q[3]) + k.z * (v_q[5] + v_q[7]) + k.w * (v_q[2] - v_q[6]) - two * k.y * (v_q[0] + v_q[8]));
    const F z = two * (k.x * (v_q[2] + v_q[6]) + k.y * (v_q[5] + v_q[7]) + k.w * (v_q[3] - v_q[1]) - two * k.z * (v_q[0] + v_q[4]));
    const F along = w * k.w + x * k.x + y * k.y + z * k.z;
    g.qw = (w - along * k.w) * k.inv_norm;
    g.qx = (x - along * k.x) * k.inv_norm;
    g.qy = (y - along * k.y) * k.inv_norm;
    g.qz = (z - along * k.z) * k.inv_norm;
    return g;
}

}  // namespace gs::GS_ISA
