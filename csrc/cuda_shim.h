// SPDX-License-Identifier: Apache-2.0
// Teaches CUDA the words of Metal that csrc/kernels uses. Stands before everything else in a kernel's text.
#pragma once

typedef unsigned int uint;
typedef unsigned long long ulong;
typedef unsigned char uchar;

// Metal hands these to a kernel as arguments. Groups and grids are one-dimensional here.
#define thread_position_in_grid dim3(blockIdx.x* blockDim.x + threadIdx.x)
#define threadgroup_position_in_grid dim3(blockIdx.x)
#define thread_position_in_threadgroup dim3(threadIdx.x)
#define thread_index_in_simdgroup (threadIdx.x & 31u)
#define simdgroup_index_in_threadgroup (threadIdx.x >> 5)

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
__device__ __forceinline__ void threadgroup_barrier(mem_flags) { __syncthreads(); }
__device__ __forceinline__ void simdgroup_barrier(mem_flags) { __syncwarp(); }

template <class T>
__device__ __forceinline__ T simd_shuffle(T x, uint lane) {
    return __shfl_sync(~0u, x, lane);
}
template <class T>
__device__ __forceinline__ T simd_shuffle_xor(T x, uint mask) {
    return __shfl_xor_sync(~0u, x, mask);
}
__device__ __forceinline__ float simd_sum(float x) {
    for (uint m = 16; m; m >>= 1) x += simd_shuffle_xor(x, m);
    return x;
}
__device__ __forceinline__ uint simd_sum(uint x) { return __reduce_add_sync(~0u, x); }
__device__ __forceinline__ uint simd_max(uint x) { return __reduce_max_sync(~0u, x); }
__device__ __forceinline__ uint simd_prefix_exclusive_sum(uint x) {
    uint sum = x;
    for (uint d = 1; d < 32; d <<= 1) {
        const uint below = __shfl_up_sync(~0u, sum, d);
        if (thread_index_in_simdgroup >= d) sum += below;
    }
    return sum - x;
}
__device__ __forceinline__ bool simd_any(bool x) { return __any_sync(~0u, x); }
__device__ __forceinline__ bool simd_all(bool x) { return __all_sync(~0u, x); }
struct simd_vote {
    typedef ulong vote_t;
    vote_t bits;
    __device__ explicit operator vote_t() const { return bits; }
};
__device__ __forceinline__ simd_vote simd_ballot(bool x) { return {__ballot_sync(~0u, x)}; }

enum memory_order { memory_order_relaxed };
struct atomic_uint {
    uint value;
};
__device__ __forceinline__ uint atomic_fetch_add_explicit(atomic_uint* at, uint x, memory_order) {
    return atomicAdd(&at->value, x);
}

__device__ __forceinline__ void atomic_store_explicit(atomic_uint* at, uint x, memory_order) { at->value = x; }
__device__ __forceinline__ uint atomic_load_explicit(const atomic_uint* at, memory_order) { return at->value; }

template <class To, class From>
__device__ __forceinline__ To as_type(From x) {
    static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
    union {
        From from;
        To to;
    } both = {x};
    return both.to;
}
__device__ __forceinline__ uint popcount(uint x) { return __popc(x); }
__device__ __forceinline__ uint ctz(uint x) { return __ffs(x) - 1; }
__device__ __forceinline__ float clamp(float x, float low, float high) { return fminf(fmaxf(x, low), high); }
namespace fast {
__device__ __forceinline__ float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
}  // namespace fast
__device__ __forceinline__ float fast_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
