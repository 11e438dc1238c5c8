// SPDX-License-Identifier: Apache-2.0
// One vocabulary for the mathematics. The headers gaussian.h, sh.h and blend.h hold pure functions by value, written
// once for a lane type F; the CPU instantiates them with sixteen lanes (cpu/simd.h), the GPU's kernels with float.
// GS_THREAD is Metal's address space of what belongs to one thread, GS_CONSTANT how it declares a constant.
#pragma once
#if defined(__METAL_VERSION__)
#define GS_ISA gpu
#define GS_FN inline
#define GS_THREAD thread
#define GS_GROUP threadgroup
#define GS_CONSTANT constant constexpr
#elif defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define GS_ISA gpu
#define GS_FN __device__ __forceinline__
#define GS_THREAD
#define GS_GROUP
#define GS_CONSTANT __device__ constexpr
#else
#define GS_FN inline __attribute__((always_inline))
#define GS_THREAD
#define GS_CONSTANT constexpr
#endif
#include "camera.h"

namespace gs {
namespace GS_ISA {

template <class F>
struct Vec3 {
    F x, y, z;
};
template <class F>
GS_FN F dot(Vec3<F> a, Vec3<F> b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class F>
GS_FN Vec3<F> scale(Vec3<F> a, F s) {
    return {a.x * s, a.y * s, a.z * s};
}

#if defined(__METAL_VERSION__) || defined(__CUDACC_RTC__) || defined(__CUDACC__)
// What cpu/simd.h defines for sixteen lanes, for one.
GS_FN float select(bool condition, float yes, float no) {
    return condition ? yes : no;
}
GS_FN float keep(bool condition, float value) { return condition ? value : 0.0f; }
GS_FN float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
GS_FN float reciprocal(float x) { return fast_reciprocal(x); }
#endif

}  // namespace GS_ISA
}  // namespace gs
