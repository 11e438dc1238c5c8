// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>
#if defined(__APPLE__)
#include <dispatch/dispatch.h>
#include <sys/sysctl.h>
#else
#include <sched.h>
#endif

namespace gs {
namespace {

int processors() {
    if (const char* text = std::getenv("GS_THREADS")) {
        const int n = std::atoi(text);
        if (n > 0) return n;
    }
#if defined(__APPLE__)
    int cores = 0;  // performance cores; the others are too slow to share a stage's tasks with
    size_t size = sizeof cores;
    if (sysctlbyname("hw.perflevel0.logicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) return cores;
    return int(std::thread::hardware_concurrency());
#else
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    return int(std::thread::hardware_concurrency());
#endif
}

std::atomic<int>& threads() {
    static std::atomic<int> count{processors()};
    return count;
}

// While it lives, this thread takes denormal numbers for zero: moments of Gaussians that no view sees decay into them, and each
// costs a hundred cycles.
class FlushDenormals {
   public:
#if defined(__x86_64__)
    FlushDenormals() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }  // FTZ and DAZ
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(before_); }

   private:
    unsigned before_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

   private:
    unsigned long long before_;
#endif
};

#if !defined(__APPLE__)
// A persistent pool. A worker that finds nothing to do looks for some microseconds (a step has a dozen stages, the next one
// comes soon), then sleeps in the kernel, so that another process on the machine gets the core.
class Pool {
   public:
    explicit Pool(int workers) {
        for (int i = 0; i < workers; ++i) team_.emplace_back([this] { work(); });
    }
    ~Pool() {
        quit_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        for (auto& t : team_) t.join();
    }
    int workers() const { return int(team_.size()); }

    void run(int tasks, const std::function<void(int)>& body) {
        body_ = &body;
        tasks_ = tasks;
        next_ = 0;
        open_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        take();
        // All tasks are handed out. Who has not come by now is not waited for: on a busy machine a worker may be asleep.
        open_ = false;
        for (int spins = 0; int active = active_;) {
            if (++spins < kSpins) pause();
            else active_.wait(active);
        }
    }

   private:
    static constexpr int kSpins = 2000;  // about 30 microseconds
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        asm volatile("yield");
#endif
    }
    void take() {
        const FlushDenormals flush;
        for (int i; (i = next_.fetch_add(1)) < tasks_;) (*body_)(i);
    }
    void work() {
        unsigned seen = 0;
        for (;;) {
            for (int spins = 0; spins < kSpins && generation_ == seen; ++spins) pause();
            generation_.wait(seen);
            seen = generation_;
            if (quit_) return;
            // Announce, then look whether the job is still open; run() closes it, then looks for the announced. One of the
            // two sees the other, so no worker touches a job that has returned.
            ++active_;
            if (open_) take();
            if (--active_ == 0) active_.notify_all();
        }
    }

    std::vector<std::thread> team_;
    const std::function<void(int)>* body_ = nullptr;
    int tasks_ = 0;
    std::atomic<int> next_{0}, active_{0};
    std::atomic<unsigned> generation_{0};
    std::atomic<bool> open_{false}, quit_{false};
};
#endif

}  // namespace

int thread_count() { return threads(); }
void set_thread_count(int count) { threads() = count < 1 ? 1 : count; }

void parallel_for(int tasks, const std::function<void(int)>& body) {
    const int n = thread_count();
    if (n == 1 || tasks <= 1) {
        const FlushDenormals flush;
        for (int i = 0; i < tasks; ++i) body(i);
        return;
    }
#if defined(__APPLE__)
    // n strands of Grand Central Dispatch draw tasks from one counter, so that GS_THREADS holds here too.
    std::atomic<int> next{0};
    std::atomic<int>* counter = &next;
    const std::function<void(int)>* work = &body;
    dispatch_apply(size_t(n), dispatch_get_global_queue(QOS_CLASS_USER_INTERACTIVE, 0), ^(size_t) {
      const FlushDenormals flush;
      for (int i; (i = counter->fetch_add(1, std::memory_order_relaxed)) < tasks;) (*work)(i);
    });
#else
    // The pool outlives every caller on purpose: joining threads while the interpreter is being torn down can hang.
    static std::mutex gate;
    static Pool* pool = nullptr;
    const std::lock_guard<std::mutex> lock(gate);
    if (pool == nullptr || pool->workers() != n - 1) {
        delete pool;
        pool = new Pool(n - 1);
    }
    pool->run(tasks, body);
#endif
}

}  // namespace gs
