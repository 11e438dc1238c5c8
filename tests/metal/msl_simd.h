// SPDX-License-Identifier: Apache-2.0
// What threads do together: barriers, SIMD groups of 32, atomics. Executed, each asks the runtime, with the line of the
// text that called it: threads that meet must have come to the same line.
#pragma once

extern "C" {
struct gs_Exchange {           // what the lanes of a SIMD group brought to an operation
    alignas(16) unsigned char value[32][16];
    uint active;               // bit i: lane i exists
    uint lane;                 // the lane that asks
};
const gs_Exchange* gs_exchange(const char* what, int line, const void* value, int bytes);
void gs_barrier(int whole_group, int flags, int line);
void gs_atomic(const volatile void* at, int bytes, int reads, int writes, int line);
void* gs_threadgroup(int id, ulong bytes, int granule, const char* name);
void gs_fail(const char* what, int line);
}

#ifdef GS_EMULATE
#define GS_RUN(...) __VA_ARGS__
#else
#define GS_RUN(...)
#endif

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
METAL_FUNC mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

METAL_FUNC void threadgroup_barrier(mem_flags flags, int line = __builtin_LINE()) { gs_barrier(1, int(flags), line); }
METAL_FUNC void simdgroup_barrier(mem_flags flags, int line = __builtin_LINE()) { gs_barrier(0, int(flags), line); }

// ---- SIMD groups ----

struct simd_vote {
    typedef ulong vote_t;
    explicit METAL_FUNC simd_vote(vote_t bits) : bits(bits) {}
    explicit METAL_FUNC operator vote_t() const { return bits; }
    METAL_FUNC bool all() const { return bits == 0xffffffffu; }
    METAL_FUNC bool any() const { return bits != 0; }

   private:
    vote_t bits;
};

template <class T>
struct gs_Lanes {  // every lane's x at one operation
    const gs_Exchange* met;
    GS_QUIET gs_Lanes(const char* what, int line, T x) : met(gs_exchange(what, line, &x, sizeof(T))) {
        static_assert(sizeof(T) <= 16, "SIMD operations take scalars and vectors");
    }
    GS_QUIET bool has(uint lane) const { return lane < 32u && ((met->active >> lane) & 1u); }
    GS_QUIET T of(uint lane) const {
        T x;
        __builtin_memcpy(&x, met->value[lane & 31u], sizeof(T));
        return x;
    }
    GS_QUIET T read(uint lane, const char* what, int line) const {
        if (!has(lane)) gs_fail(what, line);
        return of(lane);
    }
    GS_QUIET uint lane() const { return met->lane; }
};

#define GS_REDUCE(name, first, combine)                 \
    template <class T>                                  \
    GS_PLAIN T name(T x, int line = __builtin_LINE()) { \
        const gs_Lanes<T> lanes(#name, line, x);        \
        T a = T(first);                                 \
        bool begun = false;                             \
        for (uint i = 0; i < 32u; ++i)                  \
            if (lanes.has(i)) {                         \
                const T b = lanes.of(i);                \
                a = begun ? T(combine) : b;             \
                begun = true;                           \
            }                                           \
        return a;                                       \
    }
GS_REDUCE(simd_sum, 0, a + b)
GS_REDUCE(simd_product, 1, a* b)
GS_REDUCE(simd_min, 0, min(a, b))
GS_REDUCE(simd_max, 0, max(a, b))
GS_REDUCE(simd_and, 0, a& b)
GS_REDUCE(simd_or, 0, a | b)
GS_REDUCE(simd_xor, 0, a ^ b)

#define GS_PREFIX(name, first, last, combine)           \
    template <class T>                                  \
    GS_PLAIN T name(T x, int line = __builtin_LINE()) { \
        const gs_Lanes<T> lanes(#name, line, x);        \
        T a = T(first);                                 \
        for (uint i = 0; i last lanes.lane(); ++i)      \
            if (lanes.has(i)) {                         \
                const T b = lanes.of(i);                \
                a = T(combine);                         \
            }                                           \
        return a;                                       \
    }
GS_PREFIX(simd_prefix_exclusive_sum, 0, <, a + b)
GS_PREFIX(simd_prefix_inclusive_sum, 0, <=, a + b)
GS_PREFIX(simd_prefix_exclusive_product, 1, <, a* b)
GS_PREFIX(simd_prefix_inclusive_product, 1, <=, a* b)

// `from`: the lane whose x this one gets; `fallback`: what a lane gets that would read beyond the group.
#define GS_SHUFFLE(name, parameter, from, fallback)                                             \
    template <class T>                                                                          \
    GS_PLAIN T name(T x, ushort parameter, int line = __builtin_LINE()) {                       \
        const gs_Lanes<T> lanes(#name, line, x);                                                \
        const uint lane = lanes.lane(), source = from;                                          \
        (void)lane;                                                                             \
        return fallback ? x : lanes.read(source, #name " from a lane that is not there", line); \
    }
GS_SHUFFLE(simd_broadcast, k, k, false)
GS_SHUFFLE(simd_shuffle, k, k, false)
GS_SHUFFLE(simd_shuffle_xor, mask, lane ^ mask, false)
GS_SHUFFLE(simd_shuffle_down, delta, lane + delta, source > 31u)
GS_SHUFFLE(simd_shuffle_up, delta, lane - delta, source > 31u)
GS_SHUFFLE(simd_shuffle_rotate_down, delta, (lane + delta) & 31u, false)
GS_SHUFFLE(simd_shuffle_rotate_up, delta, (lane - delta) & 31u, false)

template <class T>
GS_PLAIN T simd_broadcast_first(T x, int line = __builtin_LINE()) {
    return gs_Lanes<T>("simd_broadcast_first", line, x).of(0);
}
inline GS_PLAIN simd_vote simd_ballot(bool x, int line = __builtin_LINE()) {
    const gs_Lanes<bool> lanes("simd_ballot", line, x);
    ulong bits = 0;
    for (uint i = 0; i < 32u; ++i) bits |= ulong(lanes.has(i) && lanes.of(i)) << i;
    return simd_vote(bits);
}
METAL_FUNC simd_vote simd_active_threads_mask(int line = __builtin_LINE()) { return simd_ballot(true, line); }
METAL_FUNC bool simd_any(bool x, int line = __builtin_LINE()) { return ulong(simd_ballot(x, line)) != 0; }
METAL_FUNC bool simd_all(bool x, int line = __builtin_LINE()) { return ulong(simd_ballot(!x, line)) == 0; }
inline GS_PLAIN bool simd_is_first(int line = __builtin_LINE()) { return gs_Lanes<bool>("simd_is_first", line, true).lane() == 0; }

// ---- atomics ----

enum memory_order { memory_order_relaxed };
enum class thread_scope { thread_scope_thread, thread_scope_threadgroup, thread_scope_device };

template <class T>
struct atomic {
    T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <class T>
struct gs_is_atomic {
    static constexpr bool device_ok = false, threadgroup_ok = false;
};
template <>
struct gs_is_atomic<int> {
    static constexpr bool device_ok = true, threadgroup_ok = true;
};
template <>
struct gs_is_atomic<uint> : gs_is_atomic<int> {};
template <>
struct gs_is_atomic<float> {
    static constexpr bool device_ok = true, threadgroup_ok = false;  // Metal 3: atomic_float in device memory only
};

// One operation in one address space: `old` is what was there, `now` what is there afterwards.
#define GS_ATOMIC(name, space, allowed, reads, now)                                                    \
    template <class T, class V>                                                                        \
    GS_PLAIN T name(space volatile atomic<T>* p, V given, memory_order, int line = __builtin_LINE()) { \
        static_assert(gs_is_atomic<T>::allowed, "Metal has no such atomic in this address space");     \
        GS_RUN(gs_atomic((const volatile void*)p, sizeof(T), reads, 1, line);)                         \
        (void)line;                                                                                    \
        const T old = p->value, x = T(given);                                                          \
        (void)x;                                                                                       \
        p->value = now;                                                                                \
        return old;                                                                                    \
    }
#define GS_ATOMICS(space, allowed)                                                                                             \
    GS_ATOMIC(atomic_fetch_add_explicit, space, allowed, 1, T(old + x))                                                        \
    GS_ATOMIC(atomic_fetch_sub_explicit, space, allowed, 1, T(old - x))                                                        \
    GS_ATOMIC(atomic_fetch_min_explicit, space, allowed, 1, T(x < old ? x : old))                                              \
    GS_ATOMIC(atomic_fetch_max_explicit, space, allowed, 1, T(old < x ? x : old))                                              \
    GS_ATOMIC(atomic_fetch_and_explicit, space, allowed, 1, T(old& x))                                                         \
    GS_ATOMIC(atomic_fetch_or_explicit, space, allowed, 1, T(old | x))                                                         \
    GS_ATOMIC(atomic_fetch_xor_explicit, space, allowed, 1, T(old ^ x))                                                        \
    GS_ATOMIC(atomic_exchange_explicit, space, allowed, 1, x)                                                                  \
    GS_ATOMIC(gs_atomic_put, space, allowed, 0, x)                                                                             \
    template <class T, class V>                                                                                                \
    METAL_FUNC void atomic_store_explicit(space volatile atomic<T>* p, V x, memory_order order, int line = __builtin_LINE()) { \
        gs_atomic_put(p, x, order, line);                                                                                      \
    }                                                                                                                          \
    template <class T>                                                                                                         \
    GS_PLAIN T atomic_load_explicit(const space volatile atomic<T>* p, memory_order, int line = __builtin_LINE()) {            \
        GS_RUN(gs_atomic((const volatile void*)p, sizeof(T), 1, 0, line);)                                                     \
        (void)line;                                                                                                            \
        return p->value;                                                                                                       \
    }                                                                                                                          \
    template <class T>                                                                                                         \
    GS_PLAIN bool atomic_compare_exchange_weak_explicit(space volatile atomic<T>* p, thread T* expected, T x, memory_order,    \
                                                        memory_order, int line = __builtin_LINE()) {                           \
        GS_RUN(gs_atomic((const volatile void*)p, sizeof(T), 1, 1, line);)                                                     \
        (void)line;                                                                                                            \
        const T old = p->value;                                                                                                \
        const bool equal = old == *expected;                                                                                   \
        if (equal) p->value = x;                                                                                               \
        *expected = old;                                                                                                       \
        return equal;                                                                                                          \
    }
GS_ATOMICS(device, device_ok)
#ifndef GS_EMULATE
GS_ATOMICS(threadgroup, threadgroup_ok)
#endif

}  // namespace metal
