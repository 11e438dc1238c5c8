// SPDX-License-Identifier: Apache-2.0
// Metal's words for clang, so that a kernel's text is C++. No header of C or C++ is behind it, as in Metal.
// Checked (GS_EMULATE not defined): the address spaces are clang's, and mixing them up is an error.
// Executed (GS_EMULATE): one address space, and every access calls the runtime through clang's -fsanitize=thread.
#pragma once

#define __METAL__ 1
#define __METAL_VERSION__ 310
#ifdef GS_EMULATE
#define device
#define constant
#define threadgroup
#else
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#endif
#define thread
#define METAL_FUNC inline __attribute__((always_inline))
// What these touch is no access of the kernel's.
#define GS_PLAIN __attribute__((noinline, no_sanitize("thread")))
#define GS_QUIET inline __attribute__((no_sanitize("thread")))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;
typedef long ptrdiff_t;
#if defined(__FLT16_MANT_DIG__) && __clang_major__ >= 15
typedef _Float16 half;
#else
typedef __fp16 half;
#endif
typedef half float16_t;

#define GS_VECTORS(T)                                   \
    typedef T T##2 __attribute__((ext_vector_type(2))); \
    typedef T T##3 __attribute__((ext_vector_type(3))); \
    typedef T T##4 __attribute__((ext_vector_type(4)));
GS_VECTORS(char)
GS_VECTORS(uchar)
GS_VECTORS(short)
GS_VECTORS(ushort)
GS_VECTORS(int)
GS_VECTORS(uint)
GS_VECTORS(long)
GS_VECTORS(ulong)
GS_VECTORS(half)
GS_VECTORS(float)

namespace gs_msl {

template <class T>
struct Shape {
    typedef T scalar;
    static constexpr int size = 1;
};
template <class T, int N>
struct Shape<T __attribute__((ext_vector_type(N)))> {
    typedef T scalar;
    static constexpr int size = N;
};

template <bool, class T>
struct If {};
template <class T>
struct If<true, T> {
    typedef T type;
};

constexpr int sum() { return 0; }
template <class... A>
constexpr int sum(int first, A... rest) {
    return first + sum(rest...);
}

template <class V, class A, int N>
struct Put {
    METAL_FUNC static void in(thread V& v, thread int& at, A a) {
        for (int i = 0; i < N; ++i) v[at++] = static_cast<typename Shape<V>::scalar>(a[i]);
    }
};
template <class V, class A>
struct Put<V, A, 1> {
    METAL_FUNC static void in(thread V& v, thread int& at, A a) { v[at++] = static_cast<typename Shape<V>::scalar>(a); }
};

// float4(a, b, c, d), float4(f), float4(xy, z, w), float4(int4): what Metal writes as constructors.
template <class V, class... A>
METAL_FUNC V make(A... a) {
    constexpr int given = sum(Shape<A>::size...);
    static_assert(given == 1 || given == Shape<V>::size, "a vector is built from one value or from as many as it has");
    V v = V();
    int at = 0;
    const int all[] = {(Put<V, A, Shape<A>::size>::in(v, at, a), 0)...};
    (void)all;
    for (; given == 1 && at < Shape<V>::size; ++at) v[at] = v[0];
    return v;
}

}  // namespace gs_msl

#define float2(...) gs_msl::make<float2>(__VA_ARGS__)
#define float3(...) gs_msl::make<float3>(__VA_ARGS__)
#define float4(...) gs_msl::make<float4>(__VA_ARGS__)
#define half2(...) gs_msl::make<half2>(__VA_ARGS__)
#define half3(...) gs_msl::make<half3>(__VA_ARGS__)
#define half4(...) gs_msl::make<half4>(__VA_ARGS__)
#define int2(...) gs_msl::make<int2>(__VA_ARGS__)
#define int3(...) gs_msl::make<int3>(__VA_ARGS__)
#define int4(...) gs_msl::make<int4>(__VA_ARGS__)
#define uint2(...) gs_msl::make<uint2>(__VA_ARGS__)
#define uint3(...) gs_msl::make<uint3>(__VA_ARGS__)
#define uint4(...) gs_msl::make<uint4>(__VA_ARGS__)
#define ushort2(...) gs_msl::make<ushort2>(__VA_ARGS__)
#define ushort4(...) gs_msl::make<ushort4>(__VA_ARGS__)
#define uchar4(...) gs_msl::make<uchar4>(__VA_ARGS__)

#include "msl_math.h"
#include "msl_simd.h"

using namespace metal;  // as MLX's own preamble does

// Names that MLX's preamble has already taken in the global namespace.
template <class T>
struct Limits;
template <int, class, bool>
struct LoopedElemToLoc;
template <bool, class, class>
struct ConditionalType;
template <class>
struct WorkPerThread;
struct complex64_t;
template <class T, class U>
inline T ceildiv(T n, U m) {
    return (n + m - 1) / m;
}
template <class U, class T>
inline U cast_to(T x) {
    return static_cast<U>(x);
}
inline float log1p(float x) { return __builtin_log1pf(x); }
inline float hypot(float x, float y) { return __builtin_hypotf(x, y); }
