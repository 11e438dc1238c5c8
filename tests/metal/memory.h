// SPDX-License-Identifier: Apache-2.0
// The memory of the emulated device: where a buffer begins and ends, who wrote and read each word, and in which order.
// Two accesses of different threads to a word, at least one a plain write, must have a barrier between them that orders
// that kind of memory; a word nobody wrote must not be read.
#pragma once
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace gs {

struct Thread {  // who asks
    int number = 0;         // in its group
    int simdgroup = 0;
    uint32_t group = 0;     // serial number over the whole run
    uint32_t epoch[2] = {};       // barriers passed that order [0] device, [1] threadgroup memory
    uint32_t simd_epoch[2] = {};  // the same within the SIMD group
};

struct Visit {
    uint32_t group = 0, epoch = 0, simd_epoch = 0;
    int16_t thread = 0, simdgroup = 0;  // its number + 1; 0: none was here
    bool atomic = false;
};

struct Word {
    Visit written, read[2];  // the last write; two readers since
};

struct Region {
    std::string name;
    unsigned char* begin = nullptr;
    size_t bytes = 0, granule = 4;  // a word has `granule` bytes
    bool writable = false, shared = false;  // shared: threadgroup memory
    bool filled = false;                    // holds values before the kernel runs
    std::unique_ptr<Word[], void (*)(void*)> words{nullptr, std::free};  // of writable regions
};

inline const char* conflict(const Visit& before, const Thread& now, bool shared, bool atomic) {
    if (before.thread == 0 || (shared && before.group != now.group)) return nullptr;
    if (before.atomic && atomic) return nullptr;
    if (before.group != now.group) return "another threadgroup";
    if (before.thread == now.number + 1 || before.epoch != now.epoch[shared]) return nullptr;
    if (before.simdgroup == now.simdgroup && before.simd_epoch != now.simd_epoch[shared]) return nullptr;
    return "another thread";
}

class Memory {
   public:
    // Forgets all regions and makes room for `bytes`, the sum of the footprints to come.
    void start(size_t bytes) {
        regions.clear();
        page_owner.clear();
        bytes += footprint(0);
        if (bytes > capacity) {
            if (base) munmap(base, capacity);
            capacity = bytes;
            base = static_cast<unsigned char*>(
                mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0));
        }
        add("memory before the first buffer", 0, 4, false, false, false);
    }
    // A region of whole pages and one forbidden page behind it. The reference is good until the next one is added.
    const Region& add(const char* name, size_t bytes, size_t granule, bool writable, bool shared, bool filled) {
        Region r;
        r.name = name, r.begin = base + page_owner.size() * kPage, r.bytes = bytes, r.granule = granule;
        r.writable = writable, r.shared = shared, r.filled = filled;
        // calloc: untouched memory costs nothing, and zero means that nobody was there.
        if (writable) r.words.reset(static_cast<Word*>(std::calloc(bytes / granule + 1, sizeof(Word))));
        page_owner.insert(page_owner.end(), footprint(bytes) / kPage, int(regions.size()));
        regions.push_back(std::move(r));
        return regions.back();
    }
    static size_t footprint(size_t bytes) { return ((bytes + kPage - 1) / kPage + 1) * kPage; }

    // "" if `now` may do this, else what is wrong with it. An atomic that adds both reads and writes.
    std::string judge(uintptr_t at, size_t bytes, bool read, bool write, bool atomic, const Thread& now) {
        const size_t page = (at - reinterpret_cast<uintptr_t>(base)) / kPage;
        if (at < reinterpret_cast<uintptr_t>(base) || page >= page_owner.size())
            return std::string(write ? "writes" : "reads") + " memory that belongs to no buffer";
        Region& r = regions[page_owner[page]];
        const size_t offset = at - reinterpret_cast<uintptr_t>(r.begin);
        if (offset + bytes > r.bytes) return say(r, offset, write ? "writes beyond" : "reads beyond", "");
        if (!r.writable) return write ? say(r, offset, "writes to the input", "") : "";
        for (size_t i = offset / r.granule; i <= (offset + bytes - 1) / r.granule; ++i) {
            Word& w = r.words[i];
            const bool stale = r.shared && w.written.group != now.group;
            if (read && !r.filled && (w.written.thread == 0 || stale)) return say(r, offset, "reads what nobody wrote in", "");
            if (const char* who = conflict(w.written, now, r.shared, atomic))
                return say(r, offset, write ? "writes unordered with a write in" : "reads unordered with a write in", who);
            const Visit visit = {
                now.group, now.epoch[r.shared], now.simd_epoch[r.shared], int16_t(now.number + 1), int16_t(now.simdgroup), atomic};
            if (write) {
                for (const Visit& read : w.read)
                    if (const char* who = conflict(read, now, r.shared, atomic))
                        return say(r, offset, "writes unordered with a read in", who);
                w.written = visit;
            } else if (w.read[0].thread != visit.thread || w.read[0].group != visit.group) {
                w.read[1] = w.read[0];
                w.read[0] = visit;
            } else {
                w.read[0] = visit;
            }
        }
        return "";
    }

   private:
    static constexpr size_t kPage = 4096;
    unsigned char* base = nullptr;
    size_t capacity = 0;
    std::vector<Region> regions;
    std::vector<int> page_owner;  // the region of each page

    static std::string say(const Region& r, size_t offset, const char* what, const char* who) {
        std::string text =
            std::string(what) + " " + r.name + " at byte " + std::to_string(offset) + " of " + std::to_string(r.bytes);
        return *who ? text + " by " + who : text;
    }
};

}  // namespace gs
