// SPDX-License-Identifier: Apache-2.0
// parallel_for: tasks 0 .. n - 1 on all threads, handed out one by one; returns when all are done.
#pragma once
#include <functional>

namespace gs {

int thread_count();                // GS_THREADS, else the processors that this process may use, or its share of their time
void set_thread_count(int count);  // 1 or more
void parallel_for(int tasks, const std::function<void(int)>& body);

}  // namespace gs
