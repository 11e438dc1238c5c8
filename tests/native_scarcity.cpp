// SPDX-License-Identifier: Apache-2.0
// Preloaded into Python: from `scarce(k)` on, the k-th allocation that the module _csrc makes fails, and with `lasting` all
// after it. Allocations of all others (Python, NumPy, MLX) are never touched.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {
std::atomic<long> left{-1}, seen{0};
std::atomic<bool> lasting{false};

bool mine(void* caller) {
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname && std::strstr(info.dli_fname, "_csrc");
}

bool refused(void* caller) {
    if (left < 0 || !mine(caller)) return false;
    ++seen;
    const long now = left.fetch_sub(1);
    if (now > 1) return false;
    if (now == 1) return true;
    left = 0;
    return lasting;
}

void* given(std::size_t size, std::size_t alignment) {
    return alignment <= 16 ? std::malloc(size ? size : 1)
                           : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* wanted(std::size_t size, std::size_t alignment, void* caller) {
    void* p = refused(caller) ? nullptr : given(size, alignment);
    if (!p) throw std::bad_alloc();
    return p;
}
}  // namespace

extern "C" void scarce(long k, bool all) {
    seen = 0;
    lasting = all;
    left = k;
}
extern "C" long allocations() { return seen; }

void* operator new(std::size_t size) { return wanted(size, 16, __builtin_return_address(0)); }
void* operator new[](std::size_t size) { return wanted(size, 16, __builtin_return_address(0)); }
void* operator new(std::size_t size, std::align_val_t a) { return wanted(size, std::size_t(a), __builtin_return_address(0)); }
void* operator new[](std::size_t size, std::align_val_t a) { return wanted(size, std::size_t(a), __builtin_return_address(0)); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return refused(__builtin_return_address(0)) ? nullptr : given(size, 16);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return refused(__builtin_return_address(0)) ? nullptr : given(size, 16);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
