// SPDX-License-Identifier: Apache-2.0
#include "rows.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "parallel.h"

namespace gs {

namespace {

constexpr long kShare = 2048, kAhead = 16;  // rows of a task; rows that are fetched before they are needed

template <class Body>
void for_shares(const std::vector<Rows>& arrays, long count, Body body) {
    const long shares = (count + kShare - 1) / kShare;
    parallel_for(int(shares * long(arrays.size())), [&](int task) {
        const long first = task % shares * kShare;
        body(arrays[task / shares], first, std::min(count, first + kShare));
    });
}

}  // namespace

void copy_rows(const std::vector<Rows>& arrays, const int32_t* to, const int32_t* from, long count) {
    for_shares(arrays, count, [&](const Rows& a, long first, long last) {
        for (long i = first; i < last; ++i) {
            if (i + kAhead < last) {
                const float *source = a.data + a.width * from[i + kAhead], *target = a.data + a.width * to[i + kAhead];
                for (long k = 0; k < a.width; k += 16) __builtin_prefetch(source + k), __builtin_prefetch(target + k, 1);
            }
            std::memcpy(a.data + a.width * to[i], a.data + a.width * from[i], sizeof(float) * a.width);
        }
    });
}

void clear_rows(const std::vector<Rows>& arrays, const int32_t* rows, long count) {
    for_shares(arrays, count, [&](const Rows& a, long first, long last) {
        for (long i = first; i < last; ++i) {
            if (i + kAhead < last) {
                const float* target = a.data + a.width * rows[i + kAhead];
                for (long k = 0; k < a.width; k += 16) __builtin_prefetch(target + k, 1);
            }
            std::memset(a.data + a.width * rows[i], 0, sizeof(float) * a.width);
        }
    });
}

void give_back(const Rows& array, long first) {
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = (uintptr_t(array.data + array.width * first) + page - 1) / page * page;
    const uintptr_t end = uintptr_t(array.data + array.width * array.count) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace gs
