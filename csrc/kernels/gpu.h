// SPDX-License-Identifier: Apache-2.0
// What the kernels share: the layout of the arrays that pass between them, and sums over a SIMD group.
// A splat's record is eight floats, so that it is read as two float4; a culled one has radii 0. Its colour is a float4 of
// its own: nothing needs it before `forward`.
// Everything that points is indexed in the kernels' own text: an input of fewer than eight elements lies in Metal's
// constant space, so a helper that took a pointer would not compile there.
#pragma once
#if defined(__METAL_VERSION__)
inline float fast_reciprocal(float x) { return metal::fast::divide(1.0f, x); }
#endif
#include "../compat.h"
#include "../constants.h"

#include "../gaussian.h"
#include "../sh.h"
#include "../blend.h"

namespace gs {
namespace GS_ISA {
using namespace gs_const;

// sizes: int32 [16]
GS_CONSTANT int kN = 0, kWidth = 1, kHeight = 2, kTilesX = 3, kTilesY = 4, kRest = 5, kDegree = 6, kAntialiased = 7, kCapacity = 8,
                kBuckets = 9, kGroups = 10, kFlags = 11, kViews = 12,
                kParts = 13,  // kParts: numbers a Gaussian of a view's gradients
    kBefore = 14;  // Gaussians before a refinement
// settings: float [32]; rates of means, quats, log_scales, logits, sh0, shN with m's bias correction in 0..5
GS_CONSTANT int kVCorrection = 6, kOpacityReg = 7, kScaleReg = 8, kNoise = 9, kSeed = 10, kStep = 11, kBackground = 12,
                kL1Weight = 15, kSsimWeight = 16, kLambda = 17, kCount = 18,  // kCount: numbers that the loss's means are over
    kBeta1 = 19, kBeta2 = 20, kEps = 21, kShare = 22;             // of a step over several views; kShare: 1 / their number
// status: uint32 [8]; state 0: all is well, 1: more intersections than there is room for, 2: not finite
GS_CONSTANT int kState = 0, kNeeded = 1, kMostNeeded = 2, kDone = 3, kRunning = 4, kTrouble = 5;
GS_CONSTANT uint kWell = 0, kOverflow = 1, kNotFinite = 2;
// of a view's gradients first a header: its state, what it needs (two numbers), loss, l1, ssim; then the parts, each as long as its
// parameters: those of means, quats, log_scales, logits, of the colour; the sums of density control
GS_CONSTANT uint kViewHeader = 8, kViewState = 0, kViewNeeded = 1, kViewLoss = 3;
// a record's floats: mean (2), conic (3), opacity, depth
GS_CONSTANT uint kRecord = 8, kDepth = 6;
// a slot's floats: what one tile adds to a splat's gradient, as sums over pixels of d = dL/d ln(alpha), d dx, d dy, ...
GS_CONSTANT uint kSlot = 12;
GS_CONSTANT uint kBucket = 32;          // entries of a tile's list that one SIMD group takes in the backward pass: one a lane
GS_CONSTANT uint kIntersectGroup = 256;  // splats of a group in intersect
GS_CONSTANT uint kStride = 8;          // from one counter to the next: atomics on one cache line wait for each other
GS_CONSTANT uint kCountBlock = 4096;  // counts that a group sums
GS_CONSTANT uint kSortChunk = 2048;  // keys sorted in threadgroup memory: 16 kB

GS_FN CameraParams unpack_camera(float4 a, float4 b, float4 c, float4 d, float4 e, int width, int height) {
    CameraParams cam;
    cam.r[0] = a.x, cam.r[1] = a.y, cam.r[2] = a.z, cam.r[3] = a.w, cam.r[4] = b.x, cam.r[5] = b.y, cam.r[6] = b.z;
    cam.r[7] = b.w, cam.r[8] = c.x, cam.t[0] = c.y, cam.t[1] = c.z, cam.t[2] = c.w;
    cam.position[0] = d.x, cam.position[1] = d.y, cam.position[2] = d.z;
    cam.fx = d.w, cam.fy = e.x, cam.cx = e.y, cam.cy = e.z;
    cam.width = width, cam.height = height;
    return cam;
}

// How many of the group's Gaussians, from number `first` on, there are: 0 behind the last, for arrays may have room for more.
GS_FN uint rows_from(uint first, uint n) {
    return first < n ? min(128u, n - first) : 0u;
}

// What the cut at 1/255 leaves of an ellipse: a dx^2 + 2 b dx dy + c dy^2 <= reach, a little wider for rounding.
GS_FN float visible_reach(float opacity) {
    return max(2.0f * log(255.0f * opacity), 0.0f) * 1.0001f + 1e-3f;
}

// SSIM's window: taps of a Gaussian of sigma 1.5 px by their distance from the centre, over their sum.
GS_CONSTANT float kTap0 = 0.266011725f, kTap1 = 0.213005538f, kTap2 = 0.10936069f, kTap3 = 0.0360007721f, kTap4 = 0.00759875814f,
                  kTap5 = 0.00102838008f;

// A photo's number, which is over black, as it is over a background: k and alpha from 0 to 255; the result from 0 to 1.
GS_FN float laid_over(float k, float alpha, float background) {
    return (k + (255.0f - alpha) * background) * (1.0f / 255.0f);
}

// floor(255 x + 0.5) of x in [0, 1], exactly: the sum may round up to the next whole number; NaN gives 0.
GS_FN float eight_bits(float x) {
    const float clipped = x > 0.0f ? min(x, 1.0f) : 0.0f, k = floor(fma(255.0f, clipped, 0.5f));
    return fma(255.0f, clipped, 0.5f - k) < 0.0f ? k - 1.0f : k;
}

// A splat's summed slot -> the gradient of its ellipse. With e's coefficients sums of d, d dx, .. give dL/dmean2d and
// dL/dconic; dL/dopacity = sum d / opacity.
GS_FN SplatGrad<float> splat_gradient(float4 s, float4 t, float a, float b, float c, float opacity) {
    SplatGrad<float> v;
    v.mx = a * s.y + b * s.z;
    v.my = b * s.y + c * s.z;
    v.a = -0.5f * s.w;
    v.b = -t.x;
    v.c = -0.5f * t.y;
    v.opacity = s.x / max(opacity, 1e-12f);
    v.depth = 0.0f;
    return v;
}

// The gradient of a unit direction -> of the vector that it was made from.
GS_FN Vec3<float> direction_vjp(Vec3<float> direction, float inv_length, Vec3<float> v) {
    const float along = dot(v, direction);
    return {(v.x - along * direction.x) * inv_length, (v.y - along * direction.y) * inv_length,
            (v.z - along * direction.z) * inv_length};
}

// One Adam step of one number (Kingma and Ba 2015); rate holds m's bias correction, v_correction v's.
struct Moved {
    float p, m, v;
};
GS_FN Moved adam_step(float p, float m, float v, float g, float rate, float v_correction) {
    const float m1 = kAdamBeta1 * m + (1.0f - kAdamBeta1) * g;
    const float v1 = kAdamBeta2 * v + (1.0f - kAdamBeta2) * g * g;
    return {p - rate * m1 / (sqrt(v1 * v_correction) + kAdamEps), m1, v1};
}

// The same with other constants, for a step over several views.
GS_FN Moved adam_step_over(float p, float m, float v, float g, float rate, float v_correction, float beta1, float beta2,
                            float eps) {
    const float m1 = beta1 * m + (1.0f - beta1) * g;
    const float v1 = beta2 * v + (1.0f - beta2) * g * g;
    return {p - rate * m1 / (sqrt(v1 * v_correction) + eps), m1, v1};
}

// A normal sample from a counter (finaliser "lowbias32"; Box and Muller 1958).
GS_FN uint hash(uint x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}
GS_FN float normal(uint counter, uint seed, uint step) {
    const uint key = counter * 0x9E3779B1u + step * 0x85EBCA77u + seed * 0xC2B2AE3Du;
    const float u1 = (float(hash(key) >> 8) + 0.5f) * (1.0f / 16777216.0f);
    const float u2 = (float(hash(key + 0x27D4EB2Fu) >> 8) + 0.5f) * (1.0f / 16777216.0f);
    return sqrt(-2.0f * log(u1)) * cos(6.28318531f * u2);
}

GS_FN ulong simd_exchange(ulong x, uint mask) {
    const uint low = simd_shuffle_xor(uint(x & 0xFFFFFFFFu), mask), high = simd_shuffle_xor(uint(x >> 32), mask);
    return ulong(high) << 32 | ulong(low);
}

// Sorts keys V tid .. V tid + V - 1 of each of 256 threads, `width` (a power of two) of them in earnest: Batcher's bitonic
// network. Near partners lie in the same thread, the next in the same SIMD group, only far ones meet in `local`.
template <int V>
GS_FN void sort_keys(GS_THREAD ulong* key, GS_GROUP ulong* local, uint tid, uint width) {
    for (uint k = 2; k <= width; k *= 2) {
        for (uint j = k / 2; j >= 32 * V; j /= 2) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
            for (uint i = 0; i < V; ++i) local[256 * i + tid] = key[i];
            threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
            for (uint i = 0; i < V; ++i) {
                const uint e = V * tid + i;
                const ulong other = local[256 * i + (tid ^ (j / V))];
                key[i] = (key[i] < other) == (((e & j) == 0) == ((e & k) == 0)) ? key[i] : other;
            }
        }
        for (uint j = min(k / 2, uint(16 * V)); j >= V; j /= 2) {
#pragma unroll
            for (uint i = 0; i < V; ++i) {
                const uint e = V * tid + i;
                const ulong other = simd_exchange(key[i], j / V);
                key[i] = (key[i] < other) == (((e & j) == 0) == ((e & k) == 0)) ? key[i] : other;
            }
        }
#pragma unroll
        for (uint j = V / 2; j > 0; j /= 2) {
            if (j < k) {
#pragma unroll
                for (uint i = 0; i < V; ++i) {
                    if ((i & j) == 0) {
                        const bool up = ((V * tid + i) & k) == 0;
                        const ulong a = key[i], b = key[i + j];
                        key[i] = (a < b) == up ? a : b;
                        key[i + j] = (a < b) == up ? b : a;
                    }
                }
            }
        }
    }
}

// By its bits: Metal's fast arithmetic takes every number for finite.
GS_FN bool is_finite(float x) {
    return (as_type<uint>(x) & 0x7F800000u) != 0x7F800000u;
}

}  // namespace GS_ISA
}  // namespace gs
using namespace gs;
using namespace gs::GS_ISA;
using namespace gs_const;
#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
// Metal's address spaces; here, at the end, because CUDA's own `__device__` may be a macro around the first word.
#define device
#define threadgroup __shared__
#endif
