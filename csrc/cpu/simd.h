// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes of float or int32 on any instruction set: one 512-bit register, two of 256 bits or four of 128.
// The only file with intrinsics. No standard header with inline code may come in here: each instruction set is
// compiled into a namespace of its own, and the linker must not keep the AVX-512 copy of a shared inline function.
#pragma once
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef GS_ISA
#error "define GS_ISA (avx512, avx2, neon or scalar) before including simd.h"
#endif
#define GS_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define GS_PARTS 1
#elif defined(__AVX2__)
#define GS_PARTS 2
#else
#define GS_PARTS 4
#endif

namespace gs::GS_ISA {

constexpr int kLanes = 16;
constexpr int kParts = GS_PARTS;
constexpr int kWidth = kLanes / kParts;
typedef float vf __attribute__((vector_size(4 * kLanes / GS_PARTS)));
typedef int32_t vi __attribute__((vector_size(4 * kLanes / GS_PARTS)));
typedef uint32_t vu __attribute__((vector_size(4 * kLanes / GS_PARTS)));

#define GS_EACH _Pragma("GCC unroll 4") for (int p = 0; p < kParts; ++p)

// All lanes alike. By intrinsics: `vf{} + s` would add a zero first, for -0's sake.
#if defined(__AVX512F__)
GS_INLINE vf broadcast(float s) { return (vf)_mm512_set1_ps(s); }
GS_INLINE vu broadcast(uint32_t s) { return (vu)_mm512_set1_epi32(int(s)); }
#elif defined(__AVX2__)
GS_INLINE vf broadcast(float s) { return (vf)_mm256_set1_ps(s); }
GS_INLINE vu broadcast(uint32_t s) { return (vu)_mm256_set1_epi32(int(s)); }
#elif defined(__x86_64__)
GS_INLINE vf broadcast(float s) { return (vf)_mm_set1_ps(s); }
GS_INLINE vu broadcast(uint32_t s) { return (vu)_mm_set1_epi32(int(s)); }
#else
GS_INLINE vf broadcast(float s) { return (vf)vdupq_n_f32(s); }
GS_INLINE vu broadcast(uint32_t s) { return (vu)vdupq_n_u32(s); }
#endif

struct U16 {
    vu v[kParts];
    U16() = default;
    GS_INLINE U16(uint32_t s) {
        GS_EACH v[p] = broadcast(s);
    }
};
struct F16 {
    vf v[kParts];
    F16() = default;
    GS_INLINE F16(float s) {
        GS_EACH v[p] = broadcast(s);
    }
};

// ---- lane masks -----------------------------------------------------------------------------------------------
#if GS_PARTS == 1
struct M16 {
    __mmask16 m;
};
GS_INLINE M16 operator&(M16 a, M16 b) { return {__mmask16(a.m & b.m)}; }
GS_INLINE M16 operator|(M16 a, M16 b) { return {__mmask16(a.m | b.m)}; }
GS_INLINE M16 operator~(M16 a) { return {__mmask16(~a.m)}; }
GS_INLINE uint32_t bits(M16 a) { return a.m; }
GS_INLINE M16 operator<(F16 a, F16 b) { return {_mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_LT_OQ)}; }
GS_INLINE M16 operator<=(F16 a, F16 b) { return {_mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_LE_OQ)}; }
GS_INLINE M16 and_less(M16 k, F16 a, F16 b) { return {_mm512_mask_cmp_ps_mask(k.m, (__m512)a.v[0], (__m512)b.v[0], _CMP_LT_OQ)}; }
GS_INLINE F16 select(M16 k, F16 a, F16 b) {
    F16 r;
    r.v[0] = (vf)_mm512_mask_blend_ps(k.m, (__m512)b.v[0], (__m512)a.v[0]);
    return r;
}
GS_INLINE F16 keep(M16 k, F16 a) {
    F16 r;
    r.v[0] = (vf)_mm512_maskz_mov_ps(k.m, (__m512)a.v[0]);
    return r;
}
GS_INLINE M16 mask_from_bits(uint32_t b) { return {__mmask16(b)}; }
#else
struct M16 {
    vi m[kParts];
};
#define GS_MASK_OP(expr)   \
    M16 r;                 \
    GS_EACH r.m[p] = expr; \
    return r;
GS_INLINE M16 operator&(M16 a, M16 b) { GS_MASK_OP(a.m[p] & b.m[p]) }
GS_INLINE M16 operator|(M16 a, M16 b) { GS_MASK_OP(a.m[p] | b.m[p]) }
GS_INLINE M16 operator~(M16 a) { GS_MASK_OP(~a.m[p]) }
GS_INLINE M16 operator<(F16 a, F16 b) { GS_MASK_OP((vi)(a.v[p] < b.v[p])) }
GS_INLINE M16 operator<=(F16 a, F16 b) { GS_MASK_OP((vi)(a.v[p] <= b.v[p])) }
GS_INLINE M16 and_less(M16 k, F16 a, F16 b) { return k & (a < b); }
GS_INLINE F16 select(M16 k, F16 a, F16 b) {
    F16 r;
    GS_EACH r.v[p] = (vf)(((vi)a.v[p] & k.m[p]) | ((vi)b.v[p] & ~k.m[p]));
    return r;
}
GS_INLINE F16 keep(M16 k, F16 a) {
    F16 r;
    GS_EACH r.v[p] = (vf)((vi)a.v[p] & k.m[p]);
    return r;
}
GS_INLINE uint32_t bits(M16 a) {
    uint32_t r = 0;
#if GS_PARTS == 2
    GS_EACH r |= uint32_t(_mm256_movemask_ps((__m256)a.m[p])) << (8 * p);
#elif defined(__x86_64__)
    GS_EACH r |= uint32_t(_mm_movemask_ps((__m128)a.m[p])) << (4 * p);
#else
    const uint32x4_t weight = {1, 2, 4, 8};
    GS_EACH r |= vaddvq_u32(vandq_u32((uint32x4_t)a.m[p], weight)) << (4 * p);
#endif
    return r;
}
GS_INLINE M16 mask_from_bits(uint32_t b) {
    M16 r;
    GS_EACH
        for (int i = 0; i < kWidth; ++i) r.m[p][i] = (b >> (p * kWidth + i)) & 1 ? -1 : 0;
    return r;
}
#endif
GS_INLINE M16 operator>(F16 a, F16 b) { return b < a; }
GS_INLINE M16 operator>=(F16 a, F16 b) { return b <= a; }
GS_INLINE bool any(M16 a) { return bits(a) != 0; }
GS_INLINE M16 all_lanes() { return mask_from_bits(0xFFFFu); }
GS_INLINE M16 first_lanes(int n) { return mask_from_bits(n >= 16 ? 0xFFFFu : n <= 0 ? 0u : (1u << n) - 1u); }

// ---- arithmetic: a * b + c is contracted to one FMA by -ffp-contract=fast --------------------------------------
#define GS_BINARY(T, op)                   \
    GS_INLINE T operator op(T a, T b) {    \
        T r;                               \
        GS_EACH r.v[p] = a.v[p] op b.v[p]; \
        return r;                          \
    }
GS_BINARY(F16, +)
GS_BINARY(F16, -)
GS_BINARY(F16, *)
GS_BINARY(F16, /)
GS_BINARY(U16, +)
GS_BINARY(U16, -)
GS_BINARY(U16, *)
GS_BINARY(U16, ^)
GS_BINARY(U16, &)
GS_BINARY(U16, |)
// c - a * b in one rounding where the machine can: written out where two loops must agree to the last bit.
GS_INLINE F16 fused_nma(F16 a, F16 b, F16 c) {
    F16 r;
#if defined(__AVX512F__)
    r.v[0] = (vf)_mm512_fnmadd_ps((__m512)a.v[0], (__m512)b.v[0], (__m512)c.v[0]);
#elif defined(__FMA__)
    GS_EACH r.v[p] = (vf)_mm256_fnmadd_ps((__m256)a.v[p], (__m256)b.v[p], (__m256)c.v[p]);
#elif defined(__aarch64__)
    GS_EACH r.v[p] = (vf)vfmsq_f32((float32x4_t)c.v[p], (float32x4_t)a.v[p], (float32x4_t)b.v[p]);
#else
    GS_EACH r.v[p] = c.v[p] - a.v[p] * b.v[p];
#endif
    return r;
}
// A product that stays one: where it is needed itself, contracting it with what follows would multiply again, and the adders
// would idle.
GS_INLINE F16 product(F16 a, F16 b) {
    F16 r = a * b;
#if defined(__aarch64__)
    GS_EACH asm("" : "+w"(r.v[p]));
#else
    GS_EACH asm("" : "+v"(r.v[p]));
#endif
    return r;
}
GS_INLINE F16 operator-(F16 a) {
    F16 r;
    GS_EACH r.v[p] = -a.v[p];
    return r;
}
GS_INLINE F16& operator+=(F16& a, F16 b) { return a = a + b; }
GS_INLINE F16& operator-=(F16& a, F16 b) { return a = a - b; }
GS_INLINE F16& operator*=(F16& a, F16 b) { return a = a * b; }
GS_INLINE U16 operator<<(U16 a, int s) {
    U16 r;
    GS_EACH r.v[p] = a.v[p] << s;
    return r;
}
GS_INLINE U16 operator>>(U16 a, int s) {
    U16 r;
    GS_EACH r.v[p] = a.v[p] >> s;
    return r;
}
GS_INLINE F16 as_float(U16 a) {
    F16 r;
    GS_EACH r.v[p] = (vf)a.v[p];
    return r;
}
GS_INLINE U16 as_uint(F16 a) {
    U16 r;
    GS_EACH r.v[p] = (vu)a.v[p];
    return r;
}
GS_INLINE F16 to_float(U16 a) {
    F16 r;
    GS_EACH r.v[p] = __builtin_convertvector((vi)a.v[p], vf);
    return r;
}

#if defined(__AVX512F__)
#define GS_X86(name) _mm512_##name##_ps
#define GS_REG __m512
#elif defined(__AVX2__)
#define GS_X86(name) _mm256_##name##_ps
#define GS_REG __m256
#elif defined(__x86_64__)
#define GS_X86(name) _mm_##name##_ps
#define GS_REG __m128
#endif
// min, max return the second operand where the first is NaN.
#if defined(__x86_64__)
GS_INLINE F16 min(F16 a, F16 b) {
    F16 r;
    GS_EACH r.v[p] = (vf)GS_X86(min)((GS_REG)a.v[p], (GS_REG)b.v[p]);
    return r;
}
GS_INLINE F16 max(F16 a, F16 b) {
    F16 r;
    GS_EACH r.v[p] = (vf)GS_X86(max)((GS_REG)a.v[p], (GS_REG)b.v[p]);
    return r;
}
GS_INLINE F16 sqrt(F16 a) {
    F16 r;
    GS_EACH r.v[p] = (vf)GS_X86(sqrt)((GS_REG)a.v[p]);
    return r;
}
#else
GS_INLINE F16 min(F16 a, F16 b) { return select(a < b, a, b); }
GS_INLINE F16 max(F16 a, F16 b) { return select(a > b, a, b); }
GS_INLINE F16 sqrt(F16 a) {
    F16 r;
    GS_EACH r.v[p] = (vf)vsqrtq_f32((float32x4_t)a.v[p]);
    return r;
}
#endif
#if defined(__AVX512F__)
GS_INLINE F16 floor(F16 a) {
    F16 r;
    r.v[0] = (vf)_mm512_roundscale_ps((__m512)a.v[0], 1);
    return r;
}
#elif defined(__AVX2__)
GS_INLINE F16 floor(F16 a) {
    F16 r;
    GS_EACH r.v[p] = (vf)_mm256_floor_ps((__m256)a.v[p]);
    return r;
}
#else
// Beyond 2^23 a float has no fraction; the conversion to int32 holds below 2^31.
GS_INLINE F16 floor(F16 a) {
    F16 r;
    GS_EACH {
        const vf t = __builtin_convertvector(__builtin_convertvector(a.v[p], vi), vf);
        const vf down = t - (vf)((vi)(t > a.v[p]) & (vi)(vf{} + 1.0f));
        const vi small = (a.v[p] < 8388608.0f) & (a.v[p] > -8388608.0f);
        r.v[p] = (vf)(((vi)down & small) | ((vi)a.v[p] & ~small));
    }
    return r;
}
#endif
GS_INLINE F16 ceil(F16 a) { return -floor(-a); }
GS_INLINE F16 clamp(F16 x, F16 lo, F16 hi) { return min(max(x, lo), hi); }
GS_INLINE F16 abs(F16 a) { return as_float(as_uint(a) & U16(0x7FFFFFFFu)); }

// 1/x to about 1e-7: the machine's estimate and Newton steps, a third of a division's time.
GS_INLINE F16 reciprocal(F16 x) {
    F16 r;
#if defined(__AVX512F__)
    r.v[0] = (vf)_mm512_rcp14_ps((__m512)x.v[0]);
    return r * (F16(2.0f) - x * r);
#elif defined(__x86_64__)
    GS_EACH r.v[p] = (vf)GS_X86(rcp)((GS_REG)x.v[p]);
    return r * (F16(2.0f) - x * r);
#else
    GS_EACH r.v[p] = (vf)vrecpeq_f32((float32x4_t)x.v[p]);
    r = r * (F16(2.0f) - x * r);
    return r * (F16(2.0f) - x * r);
#endif
}

// 1/sqrt(x) to about 1e-7, likewise; x > 0 and normal.
GS_INLINE F16 reciprocal_sqrt(F16 x) {
    const F16 half = x * F16(0.5f);
    F16 r;
#if defined(__AVX512F__)
    r.v[0] = (vf)_mm512_rsqrt14_ps((__m512)x.v[0]);
#elif defined(__x86_64__)
    GS_EACH r.v[p] = (vf)GS_X86(rsqrt)((GS_REG)x.v[p]);
#else
    GS_EACH r.v[p] = (vf)vrsqrteq_f32((float32x4_t)x.v[p]);
    r = r * (F16(1.5f) - half * r * r);
#endif
    return r * (F16(1.5f) - half * r * r);
}

// ---- memory -----------------------------------------------------------------------------------------------------
GS_INLINE F16 load(const float* q) {
    F16 r;
    GS_EACH __builtin_memcpy(&r.v[p], q + p * kWidth, sizeof(vf));
    return r;
}
GS_INLINE void store(float* q, F16 a) {
    GS_EACH __builtin_memcpy(q + p * kWidth, &a.v[p], sizeof(vf));
}
#if defined(__AVX512F__)
GS_INLINE F16 load_first(const float* q, int n) {
    if (n >= 16) return load(q);
    F16 r;
    r.v[0] = (vf)_mm512_maskz_loadu_ps(first_lanes(n).m, q);
    return r;
}
GS_INLINE void store_first(float* q, F16 a, int n) {
    if (n >= 16) return store(q, a);
    _mm512_mask_storeu_ps(q, first_lanes(n).m, (__m512)a.v[0]);
}
#else
GS_INLINE F16 load_first(const float* q, int n) {
    if (n >= 16) return load(q);
    float t[16] = {};
    for (int i = 0; i < n; ++i) t[i] = q[i];
    return load(t);
}
GS_INLINE void store_first(float* q, F16 a, int n) {
    if (n >= 16) return store(q, a);
    float t[16];
    store(t, a);
    for (int i = 0; i < n; ++i) q[i] = t[i];
}
#endif
GS_INLINE F16 load_u8(const uint8_t* q) {
    F16 r;
#if defined(__AVX512F__)
    __m128i b;
    __builtin_memcpy(&b, q, 16);
    r.v[0] = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b));
#else
    GS_EACH
        for (int i = 0; i < kWidth; ++i) r.v[p][i] = float(q[p * kWidth + i]);
#endif
    return r;
}
// Four rows of four floats, `stride` floats apart: a block of pixels.
GS_INLINE F16 load_block(const float* q, int stride) {
    F16 r;
#if defined(__AVX512F__)
    const __m256 lo = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(q)), _mm_loadu_ps(q + stride), 1);
    const __m256 hi = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(q + 2 * stride)), _mm_loadu_ps(q + 3 * stride), 1);
    r.v[0] = (vf)_mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1);
#elif defined(__AVX2__)
    for (int p = 0; p < 2; ++p)
        r.v[p] = (vf)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(q + 2 * p * stride)),
                                          _mm_loadu_ps(q + (2 * p + 1) * stride), 1);
#else
    GS_EACH __builtin_memcpy(&r.v[p], q + p * stride, 16);
#endif
    return r;
}
GS_INLINE void store_block(float* q, int stride, F16 a) {
#if defined(__AVX512F__)
    const __m512 x = (__m512)a.v[0];
    _mm_storeu_ps(q, _mm512_castps512_ps128(x));
    _mm_storeu_ps(q + stride, _mm512_extractf32x4_ps(x, 1));
    _mm_storeu_ps(q + 2 * stride, _mm512_extractf32x4_ps(x, 2));
    _mm_storeu_ps(q + 3 * stride, _mm512_extractf32x4_ps(x, 3));
#elif defined(__AVX2__)
    for (int p = 0; p < 2; ++p) {
        _mm_storeu_ps(q + 2 * p * stride, _mm256_castps256_ps128((__m256)a.v[p]));
        _mm_storeu_ps(q + (2 * p + 1) * stride, _mm256_extractf128_ps((__m256)a.v[p], 1));
    }
#else
    GS_EACH __builtin_memcpy(q + p * stride, &a.v[p], 16);
#endif
}

// The sixteen floats that begin k before (k < 0) or after the aligned vector at q, k within -16 .. 16. Shifting two aligned
// vectors in registers costs half of a load across two cache lines.
template <int k>
GS_INLINE F16 shifted(F16 before, F16 here, F16 after, const float* q) {
#if defined(__AVX512F__)
    F16 r;
    if (k < 0) r.v[0] = (vf)_mm512_castsi512_ps(_mm512_alignr_epi32((__m512i)here.v[0], (__m512i)before.v[0], (16 + k) & 15));
    else r.v[0] = (vf)_mm512_castsi512_ps(_mm512_alignr_epi32((__m512i)after.v[0], (__m512i)here.v[0], k & 15));
    (void)q;
    return r;
#else
    (void)before, (void)here, (void)after;
    return load(q + k);
#endif
}

GS_INLINE float sum(F16 a) {
    float t[16];
    store(t, a);
    float s = 0;
    for (int i = 0; i < 16; ++i) s += t[i];
    return s;
}

// Lane q of the result is the sum over the lanes of a[q]; lanes 12 to 15 are zero. Pairs are interleaved and added, so that
// twelve sums take 36 instructions and not twelve horizontal sums.
GS_INLINE F16 sum_each(const F16 a[12]) {
    F16 r;
#if defined(__AVX512F__)
    __m512 four[4], pair[2];
    for (int i = 0; i < 3; ++i) {
        const __m512 x0 = (__m512)a[4 * i].v[0], x1 = (__m512)a[4 * i + 1].v[0];
        const __m512 x2 = (__m512)a[4 * i + 2].v[0], x3 = (__m512)a[4 * i + 3].v[0];
        const __m512d lo = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x0, x1), _mm512_unpackhi_ps(x0, x1)));
        const __m512d hi = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x2, x3), _mm512_unpackhi_ps(x2, x3)));
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(lo, hi)), _mm512_castpd_ps(_mm512_unpackhi_pd(lo, hi)));
    }
    four[3] = _mm512_setzero_ps();
    for (int i = 0; i < 2; ++i)
        pair[i] = _mm512_add_ps(_mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0x88),
                                _mm512_shuffle_f32x4(four[2 * i], four[2 * i + 1], 0xDD));
    r.v[0] = (vf)_mm512_add_ps(_mm512_shuffle_f32x4(pair[0], pair[1], 0x88), _mm512_shuffle_f32x4(pair[0], pair[1], 0xDD));
#else
    float t[16] = {};
    for (int q = 0; q < 12; ++q) {
        vf s = a[q].v[0];
        for (int p = 1; p < kParts; ++p) s += a[q].v[p];
        for (int i = 0; i < kWidth; ++i) t[q] += s[i];
    }
    r = load(t);
#endif
    return r;
}

// r[i] lane j  <->  r[j] lane i
GS_INLINE void transpose(F16 r[16]) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    for (int i = 0; i < 8; ++i) {
        a[2 * i] = _mm512_unpacklo_ps((__m512)r[2 * i].v[0], (__m512)r[2 * i + 1].v[0]);
        a[2 * i + 1] = _mm512_unpackhi_ps((__m512)r[2 * i].v[0], (__m512)r[2 * i + 1].v[0]);
    }
    for (int i = 0; i < 4; ++i) {
        b[4 * i] = _mm512_shuffle_ps(a[4 * i], a[4 * i + 2], 0x44);
        b[4 * i + 1] = _mm512_shuffle_ps(a[4 * i], a[4 * i + 2], 0xEE);
        b[4 * i + 2] = _mm512_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0x44);
        b[4 * i + 3] = _mm512_shuffle_ps(a[4 * i + 1], a[4 * i + 3], 0xEE);
    }
    for (int i = 0; i < 4; ++i) {
        a[i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0x88);
        a[4 + i] = _mm512_shuffle_f32x4(b[i], b[4 + i], 0xDD);
        a[8 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0x88);
        a[12 + i] = _mm512_shuffle_f32x4(b[8 + i], b[12 + i], 0xDD);
    }
    for (int i = 0; i < 8; ++i) {
        r[i].v[0] = (vf)_mm512_shuffle_f32x4(a[i], a[8 + i], 0x88);
        r[8 + i].v[0] = (vf)_mm512_shuffle_f32x4(a[i], a[8 + i], 0xDD);
    }
#else
    float t[16][16], u[16][16];
    for (int i = 0; i < 16; ++i) store(t[i], r[i]);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) u[j][i] = t[i][j];
    for (int i = 0; i < 16; ++i) r[i] = load(u[i]);
#endif
}

// Sixteen rows of kCount floats, as they lie in memory, <-> one vector a column.
template <int kCount>
struct ColumnOrder {
    int32_t gather[kCount][16] = {}, scatter[kCount][16] = {};
    uint16_t later[kCount] = {}, late_scatter[kCount] = {};
    constexpr ColumnOrder() {
        for (int j = 0; j < kCount; ++j)
            for (int i = 0; i < 16; ++i) {
                const int flat = i * kCount + j, at = 16 * j + i;
                gather[j][i] = flat % 32;                        // of vectors 0 and 1, or of 2 and 3
                if (flat >= 32) later[j] |= uint16_t(1u << i);
                scatter[j][i] = at / kCount + 16 * (at % kCount % 2);
                if (at % kCount >= 2) late_scatter[j] |= uint16_t(1u << i);
            }
    }
};
#if defined(__AVX512F__)
template <int kCount>
GS_INLINE F16 pick(const F16 in[kCount], const int32_t index[16], uint16_t later) {
    const __m512i at = _mm512_loadu_si512(index);
    const __m512 last = (__m512)in[kCount - 1].v[0];
    F16 r;
    r.v[0] = (vf)_mm512_permutex2var_ps((__m512)in[0].v[0], at, (__m512)in[1].v[0]);
    if (kCount > 2)
        r.v[0] =
            (vf)_mm512_mask_blend_ps(later, (__m512)r.v[0], _mm512_permutex2var_ps((__m512)in[kCount > 2 ? 2 : 0].v[0], at, last));
    return r;
}
template <int kCount>
GS_INLINE void rows_to_columns(const F16 in[kCount], F16 out[kCount]) {
    static constexpr ColumnOrder<kCount> order;
    for (int j = 0; j < kCount; ++j) out[j] = pick<kCount>(in, order.gather[j], order.later[j]);
}
template <int kCount>
GS_INLINE void columns_to_rows(const F16 in[kCount], F16 out[kCount]) {
    static constexpr ColumnOrder<kCount> order;
    for (int j = 0; j < kCount; ++j) out[j] = pick<kCount>(in, order.scatter[j], order.late_scatter[j]);
}
#else
template <int kCount>
GS_INLINE void rows_to_columns(const F16 in[kCount], F16 out[kCount]) {
    float rows[16 * kCount], columns[kCount][16];
    for (int j = 0; j < kCount; ++j) store(rows + 16 * j, in[j]);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < kCount; ++j) columns[j][i] = rows[i * kCount + j];
    for (int j = 0; j < kCount; ++j) out[j] = load(columns[j]);
}
template <int kCount>
GS_INLINE void columns_to_rows(const F16 in[kCount], F16 out[kCount]) {
    float rows[16 * kCount], columns[kCount][16];
    for (int j = 0; j < kCount; ++j) store(columns[j], in[j]);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < kCount; ++j) rows[i * kCount + j] = columns[j][i];
    for (int j = 0; j < kCount; ++j) out[j] = load(rows + 16 * j);
}
#endif

// Appends base + i for each set bit i of `mask` (at most 16) to `out`; may write up to 16 entries; returns the new end.
GS_INLINE uint16_t* append_indices(uint16_t* out, uint32_t base, uint32_t mask) {
#if defined(__AVX512VBMI2__) && defined(__AVX512VL__)
    const __m256i iota = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i packed = _mm256_maskz_compress_epi16(__mmask16(mask), iota);  // the form to memory is microcoded
    _mm256_storeu_si256((__m256i*)out, _mm256_add_epi16(packed, _mm256_set1_epi16(short(base))));
    return out + __builtin_popcount(mask);
#else
    while (mask) {
        *out++ = uint16_t(base + __builtin_ctz(mask));
        mask &= mask - 1;
    }
    return out;
#endif
}

// ---- elementary functions ------------------------------------------------------------------------------------------
// 2^x for |x| < 126: 2^round(x) through the exponent's bits, 2^f by a polynomial on [-1/2, 1/2] (least relative error).
GS_INLINE F16 exp2_split(F16 x, U16& exponent) {
    const F16 magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer that stands in the low bits
    const F16 shifted = x + magic;
    exponent = as_uint(shifted) << 23;
    return x - (shifted - magic);
}
GS_INLINE F16 exp2_accurate(F16 x) {  // relative error 1e-7
    U16 exponent;
    const F16 f = exp2_split(x, exponent);
    F16 q = 1.53375768e-4f;
    q = q * f + F16(1.33998604e-3f);
    q = q * f + F16(9.61851953e-3f);
    q = q * f + F16(5.55032900e-2f);
    q = q * f + F16(2.40226466e-1f);
    q = q * f + F16(6.93147206e-1f);
    q = q * f + F16(1.0f);
    return as_float(as_uint(q) + exponent);
}
// 2^x where k holds, zero elsewhere; relative error 3e-6, and 7e-7 just below x = 0: 1 - alpha is wanted, too. For the blending
// loops: |x| < 126 where k holds.
GS_INLINE F16 exp2_where(M16 k, F16 x) {
#if defined(__AVX512DQ__)  // one instruction for the fraction above floor(x), one for the factor 2^floor(x)
    F16 f, r;
    f.v[0] = (vf)_mm512_reduce_ps((__m512)x.v[0], 1);
    F16 q = 0.0136637898f;
    q = q * f + F16(0.0517919974f);
    q = q * f + F16(0.241554757f);
    q = q * f + F16(0.692986474f);
    q = q * f + F16(1.00000298f);
    r.v[0] = (vf)_mm512_maskz_scalef_ps(k.m, (__m512)q.v[0], (__m512)x.v[0]);
    return r;
#else
    U16 exponent;
    const F16 f = exp2_split(x, exponent);
    F16 q = 9.57010199e-3f;
    q = q * f + F16(5.59178606e-2f);
    q = q * f + F16(2.40247448e-1f);
    q = q * f + F16(6.93121815e-1f);
    q = q * f + F16(9.99999261e-1f);
    return keep(k, as_float(as_uint(q) + exponent));
#endif
}
GS_INLINE F16 exp(F16 x) { return exp2_accurate(clamp(x * F16(1.44269504f), F16(-125.0f), F16(125.0f))); }
GS_INLINE F16 sigmoid(F16 x) { return F16(1.0f) / (F16(1.0f) + exp(-x)); }
// log2(x) for normal x > 0: exponent plus an odd series in (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)); error 1e-7.
GS_INLINE F16 log2(F16 x) {
    const U16 u = as_uint(x) - U16(0x3F3504F3u);
    F16 e;
    GS_EACH e.v[p] = __builtin_convertvector((vi)u.v[p] >> 23, vf);
    const F16 m = as_float((u & U16(0x007FFFFFu)) + U16(0x3F3504F3u));
    const F16 s = (m - F16(1.0f)) / (m + F16(1.0f));
    const F16 z = s * s;
    F16 q = 0.4121986f;  // 2 / (ln 2 * 7), 2 / (ln 2 * 5), ...; a little larger: it stands for the tail
    q = q * z + F16(0.57707802f);
    q = q * z + F16(0.96179669f);
    q = q * z + F16(2.88539008f);
    return e + s * q;
}
GS_INLINE F16 log(F16 x) { return log2(x) * F16(0.69314718f); }
// cos(2 pi u) for u in [0, 1): folded to [-1/4, 1/4] turns, then a polynomial in the square.
GS_INLINE F16 cos_turns(F16 u) {
    const F16 t = abs(u - F16(0.5f));       // cos(2 pi u) = -cos(2 pi t), t in [0, 1/2]
    const F16 y = F16(0.25f) - t;           // -cos(2 pi t) = -sin(2 pi y)
    const F16 a = y * F16(6.28318531f), z = a * a;
    F16 q = 2.6083159e-6f;
    q = q * z + F16(-1.9810690e-4f);
    q = q * z + F16(8.3330778e-3f);
    q = q * z + F16(-1.6666657e-1f);
    return -(a + a * z * q);
}

}  // namespace gs::GS_ISA
