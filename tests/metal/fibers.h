// SPDX-License-Identifier: Apache-2.0
// The threads of a threadgroup as fibers: each runs until it must wait for others. A run ends at the first thing that goes
// wrong, with a message of which thread it was and of the last line where it waited.
#pragma once
#include <csetjmp>
#include <ucontext.h>

#include "memory.h"

namespace gs {

constexpr int kMaxThreads = 1024, kLanes = 32;
constexpr size_t kStack = 256 * 1024;

struct Place {  // what a kernel may ask of its position; as in place.h
    uint32_t thread_position_in_grid[4], thread_position_in_threadgroup[4], threadgroup_position_in_grid[4];
    uint32_t threads_per_threadgroup[4], dispatch_threads_per_threadgroup[4], threads_per_grid[4], threadgroups_per_grid[4];
    uint32_t thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
    uint32_t simdgroups_per_threadgroup, threads_per_simdgroup;
};

struct Exchange {  // as gs_Exchange in msl_simd.h
    alignas(16) unsigned char value[kLanes][16];
    uint32_t active, lane;
};

enum State { kReady, kExchange, kSimdBarrier, kBarrier, kDone };

struct Fiber {
    Thread who;
    Place place;
    State state = kDone;
    const char* what = "";  // it waits in, or waited in last
    int line = 0, flags = 0;
    alignas(16) unsigned char value[16];
    Exchange met[2];  // two, because a lane may read the last one while another brings its value to the next
    int turn = 0;
    bool begun = false;
    ucontext_t context;
    jmp_buf resume;
};

class Machine {
   public:
    std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
    Fiber* running = nullptr;
    std::string message;
    jmp_buf way_out;

    // `main` never returns; it calls the kernel and then yield(kDone), again and again.
    void prepare(void (*main)()) {
        if (!stacks)
            stacks = static_cast<unsigned char*>(
                mmap(nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0));
        for (Fiber& f : fibers) f.begun = false;
        fiber_main = main;
        message.clear();
    }

    bool on_stack(const void* at) const { return at >= stacks && at < stacks + kStack * kMaxThreads; }

    [[noreturn]] void fail(const std::string& what, int line) {
        message = what;
        if (running) {
            const uint32_t* g = running->place.threadgroup_position_in_grid;
            message = "thread " + std::to_string(running->who.number) + " of group (" + std::to_string(g[0]) + ", " +
                      std::to_string(g[1]) + ", " + std::to_string(g[2]) + ") " + what;
        }
        if (line) message += ", line " + std::to_string(line);
        else if (running && running->line) message += ", after the meeting at line " + std::to_string(running->line);
        running = nullptr;
        longjmp(way_out, 1);
    }

    void yield(State state) {
        Fiber* self = running;
        self->state = state;
        if (_setjmp(self->resume) == 0) _longjmp(scheduler, 1);
    }

    // Runs the first `threads` fibers to their end; backwards: the last thread and the last SIMD group first.
    void run_group(int threads, bool backwards) {
        const int simdgroups = (threads + kLanes - 1) / kLanes;
        do {
            for (int k = 0; k < simdgroups; ++k) run_simdgroup(backwards ? simdgroups - 1 - k : k, threads, backwards);
            if (!together(0, threads)) return;
            pass(0, threads, true);
        } while (true);
    }

   private:
    unsigned char* stacks = nullptr;
    void (*fiber_main)() = nullptr;
    jmp_buf scheduler;

    void resume(Fiber& f) {
        running = &f;
        if (_setjmp(scheduler) == 0) {
            if (f.begun) _longjmp(f.resume, 1);
            f.begun = true;
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = stacks + size_t(&f - fibers.data()) * kStack;
            f.context.uc_stack.ss_size = kStack;
            f.context.uc_link = nullptr;
            makecontext(&f.context, fiber_main, 0);
            setcontext(&f.context);
        }
        running = nullptr;
    }

    void run_simdgroup(int simdgroup, int threads, bool backwards) {
        const int begin = simdgroup * kLanes, end = begin + kLanes < threads ? begin + kLanes : threads;
        for (;;) {
            for (int k = 0; k < end - begin; ++k) {
                Fiber& f = fibers[size_t(backwards ? end - 1 - k : begin + k)];
                if (f.state == kReady) resume(f);
            }
            if (!together(begin, end) || fibers[size_t(begin)].state == kBarrier) return;
            if (fibers[size_t(begin)].state == kExchange) meet(begin, end);
            else pass(begin, end, false);
        }
    }

    // True: all of [begin, end) wait in the same thing at the same line. False: all have returned.
    bool together(int begin, int end) {
        const Fiber& first = fibers[size_t(begin)];
        for (int i = begin; i < end; ++i) {
            const Fiber& f = fibers[size_t(i)];
            const bool same = f.state == kDone || (f.line == first.line && !strcmp(f.what, first.what));
            if (f.state != first.state || !same)
                fail(describe(first) + ", but " + describe(f) + ": not all come to the same place", 0);
        }
        return first.state != kDone;
    }

    static std::string describe(const Fiber& f) {
        const std::string waits = std::string(" waits in ") + f.what + " at line " + std::to_string(f.line);
        return "thread " + std::to_string(f.who.number) + (f.state == kDone ? " has returned" : waits);
    }

    void meet(int begin, int end) {  // the lanes of a SIMD group give each other their values
        Exchange all;
        all.active = end - begin == kLanes ? ~0u : (1u << (end - begin)) - 1u;
        for (int i = begin; i < end; ++i) memcpy(all.value[i - begin], fibers[size_t(i)].value, 16);
        for (int i = begin; i < end; ++i) {
            Fiber& f = fibers[size_t(i)];
            f.turn ^= 1;
            f.met[f.turn] = all;
            f.met[f.turn].lane = uint32_t(i - begin);
            f.state = kReady;
        }
    }

    void pass(int begin, int end, bool whole) {  // a barrier: memory of the kinds in its flags is in order now
        for (int i = begin; i < end; ++i) {
            Fiber& f = fibers[size_t(i)];
            for (int shared = 0; shared < 2; ++shared)
                if (f.flags & (shared ? 2 : 1)) ++(whole ? f.who.epoch : f.who.simd_epoch)[shared];
            f.state = kReady;
        }
    }
};

}  // namespace gs
