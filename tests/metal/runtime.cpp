// SPDX-License-Identifier: Apache-2.0
// Runs a kernel as a GPU would, threadgroup by threadgroup. The kernel's library calls the functions below at each access
// to memory (clang's -fsanitize=thread puts the calls there) and wherever threads meet (msl_simd.h).
#include <dlfcn.h>

#include "fibers.h"

namespace {

using Entry = void (*)(void**, const void*);

gs::Machine machine;
gs::Memory memory;
Entry entry;
std::vector<void*> arguments;
std::vector<std::pair<int, void*>> threadgroup_arrays;
size_t threadgroup_bytes = 0;
constexpr size_t kThreadgroupLimit = 32768;  // of an Apple GPU
constexpr size_t kThreadgroupArrays = 64;

void fiber_main() {
    for (;;) {
        entry(arguments.data(), &machine.running->place);
        machine.yield(gs::kDone);
    }
}

// Whether `at` lies in the kernel's library, as its constants do.
bool constant_of_the_kernel(const void* at) {
    Dl_info kernel, found;
    return dladdr(reinterpret_cast<void*>(entry), &kernel) && dladdr(at, &found) && found.dli_fbase == kernel.dli_fbase;
}

void judge(const void* at, size_t bytes, bool read, bool write, bool atomic, int line) {
    if (machine.on_stack(at) || !machine.running) return;
    const std::string wrong = memory.judge(reinterpret_cast<uintptr_t>(at), bytes, read, write, atomic, machine.running->who);
    if (!wrong.empty() && (write || !constant_of_the_kernel(at))) machine.fail(wrong, line);
}

// Thread `i` of the group at `at`, which has `size` threads.
void set_place(gs::Fiber& f, int i, const uint32_t* at, const uint32_t* size, const uint32_t* threads, const uint32_t* grid,
               const uint32_t* groups) {
    const uint32_t n = uint32_t(i), in[3] = {n % size[0], n / size[0] % size[1], n / size[0] / size[1]};
    gs::Place& p = f.place;
    for (int d = 0; d < 3; ++d) {
        p.thread_position_in_grid[d] = at[d] * threads[d] + in[d];
        p.thread_position_in_threadgroup[d] = in[d];
        p.threadgroup_position_in_grid[d] = at[d];
        p.threads_per_threadgroup[d] = size[d];
        p.dispatch_threads_per_threadgroup[d] = threads[d];
        p.threads_per_grid[d] = grid[d];
        p.threadgroups_per_grid[d] = groups[d];
    }
    p.thread_index_in_threadgroup = n;
    p.thread_index_in_simdgroup = n % gs::kLanes;
    p.simdgroup_index_in_threadgroup = n / gs::kLanes;
    p.simdgroups_per_threadgroup = (size[0] * size[1] * size[2] + gs::kLanes - 1) / gs::kLanes;
    p.threads_per_simdgroup = gs::kLanes;
}

void run_grid(const uint32_t* grid, const uint32_t* threads, bool backwards) {
    uint32_t groups[3];
    for (int d = 0; d < 3; ++d) groups[d] = threads[d] ? (grid[d] + threads[d] - 1) / threads[d] : 0;
    const uint32_t all = groups[0] * groups[1] * groups[2];
    for (uint32_t k = 0; k < all; ++k) {
        const uint32_t index = backwards ? all - 1 - k : k;
        const uint32_t at[3] = {index % groups[0], index / groups[0] % groups[1], index / groups[0] / groups[1]};
        uint32_t size[3];  // the group at the edge of the grid is smaller
        for (int d = 0; d < 3; ++d) {
            const uint32_t left = grid[d] - at[d] * threads[d];
            size[d] = left < threads[d] ? left : threads[d];
        }
        const int n = int(size[0] * size[1] * size[2]);
        for (int i = 0; i < n; ++i) {
            gs::Fiber& f = machine.fibers[size_t(i)];
            f.who = gs::Thread();
            f.who.number = i, f.who.simdgroup = i / gs::kLanes, f.who.group = k + 1;
            f.state = gs::kReady, f.what = "", f.line = 0;
            set_place(f, i, at, size, threads, grid, groups);
        }
        machine.run_group(n, backwards);
    }
}

}  // namespace

extern "C" {

// ---- what msl_simd.h calls ----

const void* gs_exchange(const char* what, int line, const void* value, int bytes) {
    gs::Fiber& f = *machine.running;
    f.what = what, f.line = line;
    memcpy(f.value, value, size_t(bytes));
    machine.yield(gs::kExchange);
    return &f.met[f.turn];
}

void gs_barrier(int whole, int flags, int line) {
    gs::Fiber& f = *machine.running;
    f.what = whole ? "threadgroup_barrier" : "simdgroup_barrier", f.line = line, f.flags = flags;
    machine.yield(whole ? gs::kBarrier : gs::kSimdBarrier);
}

void gs_atomic(const volatile void* at, int bytes, int reads, int writes, int line) {
    // What a mere load finds depends on the order of threads, unless a barrier settles it: to judge it is a plain one.
    judge(const_cast<const void*>(at), size_t(bytes), reads, writes, writes, line);
}

void* gs_threadgroup(int id, unsigned long bytes, int granule, const char* name) {
    for (const auto& [known, at] : threadgroup_arrays)
        if (known == id) return at;
    threadgroup_bytes += bytes;
    if (threadgroup_bytes > kThreadgroupLimit || threadgroup_arrays.size() == kThreadgroupArrays)
        machine.fail("needs " + std::to_string(threadgroup_bytes) + " bytes of threadgroup memory, Metal has 32768", 0);
    const gs::Region& r = memory.add(name, bytes, size_t(granule), true, true, false);
    memset(r.begin, 0xff, bytes);
    threadgroup_arrays.emplace_back(id, r.begin);
    return r.begin;
}

void gs_fail(const char* what, int line) { machine.fail(what, line); }

// ---- what clang's -fsanitize=thread and -fsanitize=undefined call ----

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define GS_ACCESS(bytes)                                                                     \
    void __tsan_read##bytes(void* at) { judge(at, bytes, true, false, false, 0); }           \
    void __tsan_write##bytes(void* at) { judge(at, bytes, false, true, false, 0); }          \
    void __tsan_unaligned_read##bytes(void* at) { judge(at, bytes, true, false, false, 0); } \
    void __tsan_unaligned_write##bytes(void* at) { judge(at, bytes, false, true, false, 0); }
GS_ACCESS(1)
GS_ACCESS(2)
GS_ACCESS(4)
GS_ACCESS(8)
GS_ACCESS(16)
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    if (bytes) judge(from, bytes, true, false, false, 0), judge(to, bytes, false, true, false, 0);
    return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    if (bytes) judge(from, bytes, true, false, false, 0), judge(to, bytes, false, true, false, 0);
    return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
    if (bytes) judge(to, bytes, false, true, false, 0);
    return memset(to, value, bytes);
}
struct Location {  // what all of these are given first
    const char* file;
    uint32_t line, column;
};
#define GS_UNDEFINED(name, text) \
    void __ubsan_handle_##name(const Location* at) { machine.fail(text, int(at->line)); }
GS_UNDEFINED(out_of_bounds, "indexes an array beyond its end")
GS_UNDEFINED(divrem_overflow, "divides an integer by zero")
GS_UNDEFINED(shift_out_of_bounds, "shifts by more bits than there are")
GS_UNDEFINED(float_cast_overflow, "makes an integer of a float that does not fit")
GS_UNDEFINED(load_invalid_value, "reads a bool that is neither true nor false")

// ---- what launcher.py calls ----

struct Buffer {
    const char* name;
    void* data;
    unsigned long bytes, granule;
    int writable, filled;
};

// 0, or 1 with what went wrong in `reason`. `backwards`: the last thread and group first.
int gs_run(Entry kernel, const Buffer* buffers, int count, const uint32_t* grid, const uint32_t* threads, int backwards,
           char* reason, int reason_bytes) {
    entry = kernel;
    machine.prepare(fiber_main);
    threadgroup_arrays.clear();
    threadgroup_bytes = 0;
    arguments.clear();
    size_t total = kThreadgroupArrays * gs::Memory::footprint(1) + 2 * kThreadgroupLimit;
    for (int i = 0; i < count; ++i) total += gs::Memory::footprint(buffers[i].bytes);
    memory.start(total);
    for (int i = 0; i < count; ++i) {
        const Buffer& b = buffers[i];
        const gs::Region& r = memory.add(b.name, b.bytes, b.granule, b.writable, false, b.filled);
        memcpy(r.begin, b.data, b.bytes);
        arguments.push_back(r.begin);
    }
    if (threads[0] * threads[1] * threads[2] > uint32_t(gs::kMaxThreads)) machine.message = "has more than 1024 threads in a group";
    else if (_setjmp(machine.way_out) == 0) run_grid(grid, threads, backwards);
    for (int i = 0; i < count; ++i)
        if (buffers[i].writable) memcpy(buffers[i].data, arguments[size_t(i)], buffers[i].bytes);
    snprintf(reason, size_t(reason_bytes), "%s", machine.message.c_str());
    return machine.message.empty() ? 0 : 1;
}

}  // extern "C"
