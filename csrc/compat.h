// SPDX-License-Identifier: Apache-2.0
// One vocabulary for the mathematics. The headers gaussian.h, sh.h and blend.h hold pure functions by value, written
// once for a lane type F; the CPU instantiates them with sixteen lanes (cpu/simd.h).
#pragma once
#include "camera.h"

#define GS_FN inline __attribute__((always_inline))

namespace gs::GS_ISA {

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

}  // namespace gs::GS_ISA
