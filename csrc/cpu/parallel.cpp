// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <atomic>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "input_error.h"
#if defined(__APPLE__)
#include <dispatch/dispatch.h>
#include <sys/sysctl.h>
#else
#include <pthread.h>
#include <sched.h>
#include <time.h>
#endif

namespace gs {
namespace {

constexpr int kMostThreads = 1024;

int processors() {
    if (const char* text = std::getenv("GS_THREADS")) {
        const int n = std::atoi(text);
        if (n > 0) return std::min(n, kMostThreads);
    }
#if defined(__APPLE__)
    int cores = 0;  // performance cores; the others are too slow to share a stage's tasks with
    size_t size = sizeof cores;
    if (sysctlbyname("hw.perflevel0.logicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) return cores;
    return int(std::thread::hardware_concurrency());
#else
    cpu_set_t set;
    int cores = int(std::thread::hardware_concurrency());
    if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
    // A container may have less time than processors; threads beyond that would be stopped in the middle of a stage.
    double quota = 0, period = 0;
    std::ifstream limit("/sys/fs/cgroup/cpu.max");  // microseconds, or "max" for no limit
    if (limit >> quota >> period && quota > 0 && period > 0) cores = std::min(cores, int(std::ceil(quota / period)));
    return std::max(cores, 1);
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

// Tasks that any number of threads draw from one counter. The first exception ends the job and is the caller's.
class Job {
   public:
    Job(int tasks, const std::function<void(int)>& body) : tasks_(tasks), body_(body) {}
    void draw() {
        const FlushDenormals flush;
        for (int i; (i = next_.fetch_add(1)) < tasks_;) {
            try {
                body_(i);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(gate_);
                if (!error_) error_ = std::current_exception();
                next_ = tasks_;
            }
        }
    }
    void finish() {
        if (error_) std::rethrow_exception(error_);
    }

   private:
    const int tasks_;
    const std::function<void(int)>& body_;
    std::atomic<int> next_{0};
    std::mutex gate_;
    std::exception_ptr error_;
};

#if !defined(__APPLE__)
// A persistent pool. A worker that finds nothing to do looks for some microseconds (a step has a dozen stages, the next one
// comes soon), then sleeps in the kernel, so that another process on the machine gets the core.
class Pool {
   public:
    explicit Pool(int workers) : cpus_(workers + 1), busy_(workers + 1) {
        cpus_[0] = -1;
        team_.reserve(workers);
        for (int i = 1; i <= workers; ++i) {
            cpus_[i] = -1;
            try {
                team_.emplace_back([this, i] { work(i); });
            } catch (const std::system_error&) {
                stop();
                throw InputError("the system allows no more than " + std::to_string(i) + " of " + std::to_string(workers + 1) +
                                 " threads; set GS_THREADS to fewer, or raise the limit on processes (ulimit -u)");
            }
        }
    }
    ~Pool() { stop(); }
    int workers() const { return int(team_.size()); }

    void run(Job& job) {
        job_ = &job;
        cpus_[0] = sched_getcpu();
        open_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        job.draw();
        // All tasks are handed out. Who has not come by now is not waited for: on a busy machine a worker may be asleep.
        open_ = false;
        for (int spins = 0; spins < kSpins && active_; ++spins) pause();
        if (active_) lend_core();
        while (const int active = active_) active_.wait(active);
    }

   private:
    void stop() {
        quit_ = true;
        generation_.fetch_add(1);
        generation_.notify_all();
        for (auto& t : team_) t.join();
    }
    static constexpr int kSpins = 2000;  // about 30 microseconds
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        asm volatile("yield");
#endif
    }
    // Another process may hold a worker's processor for milliseconds while the worker is in the middle of a task: such a worker,
    // whose clock stands still, gets this thread's processor until it is done.
    void lend_core() {
        const int here = sched_getcpu();
        for (int i = 1; i < int(cpus_.size()); ++i) {
            if (!busy_[i] || cpus_[i] == here) continue;
            const pthread_t worker = team_[i - 1].native_handle();
            clockid_t clock;
            timespec before = {}, after = {};
            if (pthread_getcpuclockid(worker, &clock)) continue;
            clock_gettime(clock, &before);
            for (int spins = 0; spins < kSpins / 4 && busy_[i]; ++spins) pause();
            clock_gettime(clock, &after);
            if (!busy_[i] || before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec) continue;
            cpu_set_t allowed, only;
            CPU_ZERO(&only);
            CPU_SET(here, &only);
            if (pthread_getaffinity_np(worker, sizeof allowed, &allowed)) continue;
            pthread_setaffinity_np(worker, sizeof only, &only);
            while (busy_[i]) sched_yield();
            pthread_setaffinity_np(worker, sizeof allowed, &allowed);
        }
    }
    // The scheduler may leave two of the team on one processor for tenths of a second, while another process keeps a processor
    // of ours busy: it counts threads, and 2 + 1 is as even as 1 + 2. Who finds a colleague on its processor moves to one without.
    void spread(int me) {
        const int here = cpus_[me] = sched_getcpu();
        cpu_set_t allowed, free;
        bool shared = false;
        for (int i = 0; i < int(cpus_.size()); ++i) shared = shared || (i != me && cpus_[i] == here);
        if (!shared || pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed)) return;
        free = allowed;
        for (const std::atomic<int>& cpu : cpus_)
            if (cpu >= 0) CPU_CLR(cpu, &free);
        if (CPU_COUNT(&free) == 0 || pthread_setaffinity_np(pthread_self(), sizeof free, &free)) return;
        cpus_[me] = sched_getcpu();
        pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
    }
    void work(int me) {
        unsigned seen = 0;
        for (;;) {
            for (int spins = 0; spins < kSpins && generation_ == seen; ++spins) pause();
            generation_.wait(seen);
            seen = generation_;
            if (quit_) return;
            // Announce, then look whether the job is still open; run() closes it, then looks for the announced. One of the
            // two sees the other, so no worker touches a job that has returned.
            ++active_;
            if (open_) {
                spread(me);
                busy_[me] = true;
                job_->draw();
                busy_[me] = false;
            }
            if (--active_ == 0) active_.notify_all();
        }
    }

    std::vector<std::thread> team_;
    std::vector<std::atomic<int>> cpus_;  // on which processor the caller and each worker last began a job; -1: none yet
    std::vector<std::atomic<bool>> busy_;  // in a task
    Job* job_ = nullptr;
    std::atomic<int> active_{0};
    std::atomic<unsigned> generation_{0};
    std::atomic<bool> open_{false}, quit_{false};
};
#endif

}  // namespace

int thread_count() { return threads(); }
void set_thread_count(int count) { threads() = std::clamp(count, 1, kMostThreads); }

void parallel_for(int tasks, const std::function<void(int)>& body) {
    const int n = thread_count();
    Job job(tasks, body);
    if (n == 1 || tasks <= 1) {
        job.draw();
    } else {
#if defined(__APPLE__)
        // n strands of Grand Central Dispatch draw tasks from one job, so that GS_THREADS holds here too.
        Job* shared = &job;
        dispatch_apply(size_t(n), dispatch_get_global_queue(QOS_CLASS_USER_INTERACTIVE, 0), ^(size_t) { shared->draw(); });
#else
        // The pool outlives every caller on purpose: joining threads while the interpreter is being torn down can hang.
        static std::mutex gate;
        static Pool* pool = nullptr;
        const std::lock_guard<std::mutex> lock(gate);
        if (pool == nullptr || pool->workers() != n - 1) {
            delete pool;
            pool = nullptr;
            pool = new Pool(n - 1);
        }
        pool->run(job);
#endif
    }
    job.finish();
}

}  // namespace gs
