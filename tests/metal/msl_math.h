// SPDX-License-Identifier: Apache-2.0
// The functions of Metal's standard library that work on one thread's values, for scalars and vectors.
#pragma once

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define INT_MAX __INT_MAX__
#define INT_MIN (-__INT_MAX__ - 1)
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159265358979323846f
#define M_2_PI_F 0.636619772367581343f
#define M_LN2_F 0.693147180559945309f
#define M_LOG2E_F 1.44269504088896340f
#define M_SQRT2_F 1.41421356237309505f

namespace metal {

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <class To, class From>
METAL_FUNC To as_type(From x) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
    To out;
    __builtin_memcpy(&out, &x, sizeof(out));
    return out;
}

#define GS_UNARY(name, ...)                                   \
    METAL_FUNC float name(float x) { return __VA_ARGS__; }    \
    template <int N>                                          \
    METAL_FUNC vec<float, N> name(vec<float, N> x) {          \
        for (int i = 0; i < N; ++i) x[i] = name(float(x[i])); \
        return x;                                             \
    }
#define GS_BINARY(name, ...)                                               \
    METAL_FUNC float name(float x, float y) { return __VA_ARGS__; }        \
    template <int N>                                                       \
    METAL_FUNC vec<float, N> name(vec<float, N> x, vec<float, N> y) {      \
        for (int i = 0; i < N; ++i) x[i] = name(float(x[i]), float(y[i])); \
        return x;                                                          \
    }
#define GS_MATH                                                            \
    GS_UNARY(fabs, __builtin_fabsf(x))                                     \
    GS_UNARY(floor, __builtin_floorf(x))                                   \
    GS_UNARY(ceil, __builtin_ceilf(x))                                     \
    GS_UNARY(trunc, __builtin_truncf(x))                                   \
    GS_UNARY(round, __builtin_roundf(x))                                   \
    GS_UNARY(rint, __builtin_rintf(x))                                     \
    GS_UNARY(fract, x - __builtin_floorf(x))                               \
    GS_UNARY(saturate, x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f)            \
    GS_UNARY(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == x ? x : 0.0f) \
    GS_UNARY(sqrt, __builtin_sqrtf(x))                                     \
    GS_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))                             \
    GS_UNARY(exp, __builtin_expf(x))                                       \
    GS_UNARY(exp2, __builtin_exp2f(x))                                     \
    GS_UNARY(exp10, __builtin_powf(10.0f, x))                              \
    GS_UNARY(log, __builtin_logf(x))                                       \
    GS_UNARY(log2, __builtin_log2f(x))                                     \
    GS_UNARY(log10, __builtin_log10f(x))                                   \
    GS_UNARY(sin, __builtin_sinf(x))                                       \
    GS_UNARY(cos, __builtin_cosf(x))                                       \
    GS_UNARY(tan, __builtin_tanf(x))                                       \
    GS_UNARY(asin, __builtin_asinf(x))                                     \
    GS_UNARY(acos, __builtin_acosf(x))                                     \
    GS_UNARY(atan, __builtin_atanf(x))                                     \
    GS_UNARY(sinh, __builtin_sinhf(x))                                     \
    GS_UNARY(cosh, __builtin_coshf(x))                                     \
    GS_UNARY(tanh, __builtin_tanhf(x))                                     \
    GS_BINARY(atan2, __builtin_atan2f(x, y))                               \
    GS_BINARY(pow, __builtin_powf(x, y))                                   \
    GS_BINARY(powr, __builtin_powf(x, y))                                  \
    GS_BINARY(fmod, __builtin_fmodf(x, y))                                 \
    GS_BINARY(fmin, __builtin_fminf(x, y))                                 \
    GS_BINARY(fmax, __builtin_fmaxf(x, y))                                 \
    GS_BINARY(copysign, __builtin_copysignf(x, y))                         \
    GS_BINARY(divide, x / y)                                               \
    GS_BINARY(step, y < x ? 0.0f : 1.0f)
GS_MATH
namespace precise {
GS_MATH
}
namespace fast {
GS_MATH
}

// min, max, clamp: of two values of the same type, as Metal's overloads; of floats a NaN loses.
#define GS_ORDERED(T)                                    \
    METAL_FUNC T min(T a, T b) { return b < a ? b : a; } \
    METAL_FUNC T max(T a, T b) { return a < b ? b : a; } \
    METAL_FUNC T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
GS_ORDERED(short)
GS_ORDERED(ushort)
GS_ORDERED(int)
GS_ORDERED(uint)
GS_ORDERED(long)
GS_ORDERED(ulong)
METAL_FUNC float min(float a, float b) { return __builtin_fminf(a, b); }
METAL_FUNC float max(float a, float b) { return __builtin_fmaxf(a, b); }
METAL_FUNC float clamp(float x, float lo, float hi) { return min(max(x, lo), hi); }
template <class T, int N>
METAL_FUNC vec<T, N> min(vec<T, N> a, vec<T, N> b) {
    for (int i = 0; i < N; ++i) a[i] = min(T(a[i]), T(b[i]));
    return a;
}
template <class T, int N>
METAL_FUNC vec<T, N> max(vec<T, N> a, vec<T, N> b) {
    for (int i = 0; i < N; ++i) a[i] = max(T(a[i]), T(b[i]));
    return a;
}
template <class T, int N>
METAL_FUNC vec<T, N> clamp(vec<T, N> x, vec<T, N> lo, vec<T, N> hi) {
    return min(max(x, lo), hi);
}
METAL_FUNC int abs(int x) { return x < 0 ? -x : x; }
METAL_FUNC float abs(float x) { return __builtin_fabsf(x); }
template <int N>
METAL_FUNC vec<float, N> abs(vec<float, N> x) {
    return fabs(x);
}

METAL_FUNC float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <int N>
METAL_FUNC vec<float, N> fma(vec<float, N> a, vec<float, N> b, vec<float, N> c) {
    for (int i = 0; i < N; ++i) a[i] = fma(float(a[i]), float(b[i]), float(c[i]));
    return a;
}
template <class T>
METAL_FUNC T mix(T a, T b, T share) {
    return a + (b - a) * share;
}
template <class T>
METAL_FUNC T select(T a, T b, bool second) {
    return second ? b : a;
}
METAL_FUNC bool isnan(float x) { return __builtin_isnan(x); }
METAL_FUNC bool isinf(float x) { return __builtin_isinf(x); }
METAL_FUNC bool isfinite(float x) { return __builtin_isfinite(x); }

template <class T, int N>
METAL_FUNC T dot(vec<T, N> a, vec<T, N> b) {
    T sum = a[0] * b[0];
    for (int i = 1; i < N; ++i) sum += a[i] * b[i];
    return sum;
}
template <int N>
METAL_FUNC float length_squared(vec<float, N> a) {
    return dot(a, a);
}
template <int N>
METAL_FUNC float length(vec<float, N> a) {
    return sqrt(dot(a, a));
}
template <int N>
METAL_FUNC vec<float, N> normalize(vec<float, N> a) {
    return a * rsqrt(dot(a, a));
}
METAL_FUNC float3 cross(float3 a, float3 b) { return a.yzx * b.zxy - a.zxy * b.yzx; }
template <int N>
METAL_FUNC bool any(vec<int, N> a) {
    for (int i = 0; i < N; ++i)
        if (a[i]) return true;
    return false;
}
template <int N>
METAL_FUNC bool all(vec<int, N> a) {
    for (int i = 0; i < N; ++i)
        if (!a[i]) return false;
    return true;
}

METAL_FUNC uint popcount(uint x) { return uint(__builtin_popcount(x)); }
METAL_FUNC ulong popcount(ulong x) { return ulong(__builtin_popcountl(x)); }
METAL_FUNC uint clz(uint x) { return x ? uint(__builtin_clz(x)) : 32u; }
METAL_FUNC int clz(int x) { return int(clz(uint(x))); }
METAL_FUNC ulong clz(ulong x) { return x ? ulong(__builtin_clzl(x)) : 64ul; }
METAL_FUNC uint ctz(uint x) { return x ? uint(__builtin_ctz(x)) : 32u; }
METAL_FUNC ulong ctz(ulong x) { return x ? ulong(__builtin_ctzl(x)) : 64ul; }
METAL_FUNC uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
METAL_FUNC uint mulhi(uint a, uint b) { return uint((ulong(a) * b) >> 32); }
METAL_FUNC uint extract_bits(uint x, uint at, uint count) {
    return count == 0u ? 0u : (x >> at) & (count == 32u ? ~0u : (1u << count) - 1u);
}

template <class T>
struct numeric_limits;
template <>
struct numeric_limits<float> {
    static constexpr METAL_FUNC float max() { return __FLT_MAX__; }
    static constexpr METAL_FUNC float min() { return __FLT_MIN__; }
    static constexpr METAL_FUNC float lowest() { return -__FLT_MAX__; }
    static constexpr METAL_FUNC float epsilon() { return __FLT_EPSILON__; }
    static constexpr METAL_FUNC float infinity() { return __builtin_inff(); }
    static constexpr METAL_FUNC float quiet_NaN() { return __builtin_nanf(""); }
};
template <>
struct numeric_limits<int> {
    static constexpr METAL_FUNC int max() { return __INT_MAX__; }
    static constexpr METAL_FUNC int min() { return -__INT_MAX__ - 1; }
};
template <>
struct numeric_limits<uint> {
    static constexpr METAL_FUNC uint max() { return 4294967295u; }
    static constexpr METAL_FUNC uint min() { return 0u; }
};

template <class, class>
struct is_same {
    static constexpr constant bool value = false;
};
template <class T>
struct is_same<T, T> {
    static constexpr constant bool value = true;
};

}  // namespace metal
