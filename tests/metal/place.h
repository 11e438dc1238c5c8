// SPDX-License-Identifier: Apache-2.0
// Where a thread is: each attribute of Metal that a kernel may ask for, out of the runtime's `Place`.
#pragma once

namespace gs_place {

struct Place {  // as in runtime.cpp
    uint thread_position_in_grid[4], thread_position_in_threadgroup[4], threadgroup_position_in_grid[4];
    uint threads_per_threadgroup[4], dispatch_threads_per_threadgroup[4], threads_per_grid[4], threadgroups_per_grid[4];
    uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
    uint simdgroups_per_threadgroup, threads_per_simdgroup;
};

#define GS_THREE(name)                                           \
    GS_QUIET uint3 name(const void* place) {                     \
        const uint* at = static_cast<const Place*>(place)->name; \
        return uint3(at[0], at[1], at[2]);                       \
    }
#define GS_ONE(name) \
    GS_QUIET uint name(const void* place) { return static_cast<const Place*>(place)->name; }
GS_THREE(thread_position_in_grid)
GS_THREE(thread_position_in_threadgroup)
GS_THREE(threadgroup_position_in_grid)
GS_THREE(threads_per_threadgroup)
GS_THREE(dispatch_threads_per_threadgroup)
GS_THREE(threads_per_grid)
GS_THREE(threadgroups_per_grid)
GS_ONE(thread_index_in_threadgroup)
GS_ONE(thread_index_in_simdgroup)
GS_ONE(simdgroup_index_in_threadgroup)
GS_ONE(simdgroups_per_threadgroup)
GS_ONE(threads_per_simdgroup)

GS_QUIET uint3 grid_size(const void* place) { return threads_per_grid(place); }
GS_QUIET uint3 grid_origin(const void*) { return uint3(0u); }
GS_QUIET uint thread_execution_width(const void* place) { return threads_per_simdgroup(place); }

}  // namespace gs_place

// Older clangs copy structs by these names, later ones by __tsan_memcpy and its kin; both are judged.
extern "C" {
void* __tsan_memcpy(void*, const void*, size_t);
void* __tsan_memmove(void*, const void*, size_t);
void* __tsan_memset(void*, int, size_t);
#define GS_HIDDEN __attribute__((visibility("hidden"), no_sanitize("thread"), no_builtin))
GS_HIDDEN void* memcpy(void* to, const void* from, size_t bytes) { return __tsan_memcpy(to, from, bytes); }
GS_HIDDEN void* memmove(void* to, const void* from, size_t bytes) { return __tsan_memmove(to, from, bytes); }
GS_HIDDEN void* memset(void* to, int value, size_t bytes) { return __tsan_memset(to, value, bytes); }
}
