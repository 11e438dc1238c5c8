// SPDX-License-Identifier: Apache-2.0
#include "pipeline.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>

#include "../constants.h"
#include "parallel.h"

namespace gs {

std::vector<const char*> instruction_sets() {
    std::vector<const char*> sets;
#if defined(GS_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2"))
        sets.push_back("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        sets.push_back("avx2");
#elif defined(GS_NEON)
    sets.push_back("neon");
#endif
    sets.push_back("scalar");
    return sets;
}

const Kernels& kernels() {
    static const Kernels* chosen = [] {
        const auto sets = instruction_sets();
        std::string name = sets.front();
        if (const char* wanted = std::getenv("GS_SIMD"); wanted && *wanted) {
            if (std::find(sets.begin(), sets.end(), std::string(wanted)) == sets.end()) {
                std::string all;
                for (const char* s : sets) all += std::string(all.empty() ? "" : ", ") + s;
                throw InputError("GS_SIMD=" + std::string(wanted) + " is not available here; choose one of " + all);
            }
            name = wanted;
        }
#if defined(GS_X86)
        if (name == "avx512") return avx512::kernels();
        if (name == "avx2") return avx2::kernels();
#elif defined(GS_NEON)
        if (name == "neon") return neon::kernels();
#endif
        return scalar::kernels();
    }();
    return *chosen;
}

namespace {

class Timer {
   public:
    explicit Timer(double& total) : total_(total), start_(std::chrono::steady_clock::now()) {}
    ~Timer() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

   private:
    double& total_;
    std::chrono::steady_clock::time_point start_;
};

// Calls body(first, last) on ranges of [0, n) of `grain` elements.
template <class F>
void parallel_ranges(long n, long grain, F&& body) {
    parallel_for(int((n + grain - 1) / grain), [&](int i) { body(i * grain, std::min(n, (i + 1) * grain)); });
}

constexpr long kGrain = 1024;  // Gaussians a task; a multiple of sixteen

constexpr long kScoreRows = 16;  // a task of score_row

void resize(PlaneArgs& planes, int width, int height) {
    using gs_const::kTile;
    check_size(width, height);
    planes.width = width;
    planes.height = height;
    planes.tiles_x = (width + kTile - 1) / kTile;
    planes.tiles_y = (height + kTile - 1) / kTile;
    planes.stride = plane_stride(width);
    planes.rows = plane_rows(height);
}

void check_intersections(uint64_t count) {
    if (count > 0x7FFFFFFFu)
        throw InputError("the splats of one view touch " + std::to_string(count) +
                         " tiles of 16x16 pixels in all, less than 2^31 are possible; take fewer or smaller splats "
                         "(--max-splats) or smaller pictures (--max-size)");
}

// Of a conic (a, b, c), without the cancellation of ac - b^2 where the ellipse is long: c / det and a / det are the variances in
// x and y, and the radii, whole pixels, are `extent` standard deviations rounded up.
float determinant(const float* conic, float rx, float ry, float opacity) {
    const double a = conic[0], b = conic[1], c = conic[2];
    const double extent2 = std::clamp(2.0 * std::log(255.0 * opacity), 0.0, double(gs_const::kMaxExtent) * gs_const::kMaxExtent);
    const double radius = std::max(rx, ry), low = std::max(radius - 1.0, 1e-3), scale = (rx > ry ? c : a) * extent2;
    return float(std::clamp(a * c - b * b, scale / (radius * radius), scale / (low * low)));
}

}  // namespace

double bias_correction(float beta, int step) { return 1.0 / (1.0 - std::pow(double(beta), step)); }

void check_size(long width, long height) {
    constexpr long kTile = gs_const::kTile, most = 0xFFFF * kTile;
    const auto tiles = [](long pixels) { return (pixels + kTile - 1) / kTile; };
    if (width < 1 || height < 1 || width > most || height > most || tiles(width) * tiles(height) >= 0x7FFFFFFF)
        throw InputError("width and height must be from 1 to " + std::to_string(most) +
                         " pixels, with less than 2^31 tiles of 16x16, got " + std::to_string(width) + "x" +
                         std::to_string(height) + "; take a smaller picture (--max-size)");
}

void Pipeline::set_size(int width, int height) { resize(planes_, width, height); }

void Pipeline::project(const Params& params, long n, int sh_degree, int sh_stride, const CameraParams& camera, bool antialiased,
                       const ProjectArgs* out) {
    const Timer timer(stage_seconds[0]);
    n_ = n;
    set_size(camera.width, camera.height);
    ProjectArgs args = out ? *out : ProjectArgs{};
    args.params = params;
    args.camera = &camera;
    args.sh_degree = sh_degree;
    args.sh_stride = sh_stride;
    args.antialiased = antialiased;
    args.records = records_.get(n);
    args.depth_keys = keys_.get(n);
    large_.assign((n + kGrain - 1) / kGrain, 0);
    parallel_ranges(n, kGrain, [&](long first, long last) { large_[first / kGrain] = kernels().project(args, first, last); });
}

void Pipeline::load_splats(long n, int width, int height, const float* means2d, const float* conics, const float* depths,
                           const int32_t* radii, const float* colors, const float* opacities) {
    using namespace gs_const;
    n_ = n;
    set_size(width, height);
    Record* records = records_.get(n);
    uint32_t* keys = keys_.get(n);
    large_.assign((n + kGrain - 1) / kGrain, 1);  // no masks here: every box gets spans
    parallel_ranges(n, kGrain, [&](long first, long last) {
        for (long i = first; i < last; ++i) {
            Record& r = records[i];
            r = Record{};
            r.mx = means2d[2 * i], r.my = means2d[2 * i + 1];
            r.ha = -0.5f * kLog2E * conics[3 * i];
            r.hb = -kLog2E * conics[3 * i + 1];
            r.hc = -0.5f * kLog2E * conics[3 * i + 2];
            r.opacity = opacities[i];
            r.l = std::log2(std::max(r.opacity, 1e-30f));
            std::copy_n(colors + 3 * i, 3, r.color);
            const float rx = float(radii[2 * i]), ry = float(radii[2 * i + 1]);
            const auto tile = [](float pixel, int count) { return uint16_t(std::clamp(pixel / kTile, 0.0f, float(count))); };
            const bool visible = rx > 0 && ry > 0 && std::isfinite(r.mx) && std::isfinite(r.my);
            if (visible) {
                r.x0 = tile(std::floor((r.mx - rx) / kTile) * kTile, planes_.tiles_x);
                r.y0 = tile(std::floor((r.my - ry) / kTile) * kTile, planes_.tiles_y);
                r.w = uint16_t(tile(std::ceil((r.mx + rx) / kTile) * kTile, planes_.tiles_x) - r.x0);
                r.h = uint16_t(tile(std::ceil((r.my + ry) / kTile) * kTile, planes_.tiles_y) - r.y0);
                r.det = determinant(conics + 3 * i, rx, ry, r.opacity);
            }
            keys[i] = visible ? std::bit_cast<uint32_t>(depths[i]) : 0xFFFFFFFFu;
        }
    });
}

// A stable radix sort of the visible splats' indices by depth (positive floats order as their bits do), in as many digits of at
// most eleven bits as the range of depths needs. Equal depths keep their order of index.
void Pipeline::sort_by_depth() {
    const uint32_t* keys = keys_.data();
    const int pieces = thread_count();
    const long piece = (n_ + pieces - 1) / std::max(pieces, 1);
    struct Range {
        uint32_t lo = 0xFFFFFFFFu, hi = 0;
        long count = 0;
        char pad[48];
    };
    std::vector<Range> ranges(pieces);
    parallel_for(pieces, [&](int p) {
        Range r;
        for (long i = p * piece; i < std::min(n_, (p + 1) * piece); ++i) {
            if (keys[i] == 0xFFFFFFFFu) continue;
            r.lo = std::min(r.lo, keys[i]);
            r.hi = std::max(r.hi, keys[i]);
            ++r.count;
        }
        ranges[p] = r;
    });
    Range all;
    for (const Range& r : ranges) {
        all.lo = std::min(all.lo, r.lo);
        all.hi = std::max(all.hi, r.hi);
        all.count += r.count;
    }
    visible_ = all.count;
    uint32_t *key_a = keys_b_.get(2 * n_), *key_b = key_a + n_;
    uint32_t *id_a = order_.get(n_), *id_b = order_b_.get(n_);
    long at = 0;
    std::vector<long> starts(pieces);
    for (int p = 0; p < pieces; ++p) {
        starts[p] = at;
        at += ranges[p].count;
    }
    parallel_for(pieces, [&](int p) {
        long to = starts[p];
        for (long i = p * piece; i < std::min(n_, (p + 1) * piece); ++i) {
            if (keys[i] == 0xFFFFFFFFu) continue;
            key_a[to] = keys[i] - all.lo;
            id_a[to++] = uint32_t(i);
        }
    });
    if (visible_ < 2) return;
    const int width = std::bit_width(all.hi - all.lo);
    const int passes = (width + 10) / 11;
    const int digit = passes ? (width + passes - 1) / passes : 0;
    const uint32_t bins = 1u << digit, low = bins - 1;
    const long share = (visible_ + pieces - 1) / pieces;
    uint32_t* counts = histogram_.get(size_t(pieces) * bins);
    for (int pass = 0; pass < passes; ++pass) {
        const int shift = pass * digit;
        parallel_for(pieces, [&](int p) {
            uint32_t* own = counts + size_t(p) * bins;
            std::fill_n(own, bins, 0u);
            for (long i = p * share; i < std::min(visible_, (p + 1) * share); ++i) ++own[(key_a[i] >> shift) & low];
        });
        uint32_t sum = 0;
        for (uint32_t b = 0; b < bins; ++b)
            for (int p = 0; p < pieces; ++p) {
                uint32_t& c = counts[size_t(p) * bins + b];
                const uint32_t here = c;
                c = sum;
                sum += here;
            }
        parallel_for(pieces, [&](int p) {
            uint32_t* own = counts + size_t(p) * bins;
            for (long i = p * share; i < std::min(visible_, (p + 1) * share); ++i) {
                const uint32_t to = own[(key_a[i] >> shift) & low]++;
                key_b[to] = key_a[i];
                id_b[to] = id_a[i];
            }
        });
        std::swap(key_a, key_b);
        std::swap(id_a, id_b);
    }
    if (id_a != order_.data()) std::swap(order_, order_b_);
}

// first_slot: where a splat's gradients begin, splat-major. Returns the number of intersections.
size_t Pipeline::assign_slots() {
    uint32_t* first_slot = first_slot_.get(n_ + 1);
    const Record* records = records_.data();
    const long blocks = (n_ + kGrain - 1) / kGrain;
    std::vector<uint64_t> sums(blocks + 1, 0);
    parallel_for(int(blocks), [&](int b) {
        uint64_t sum = 0;
        for (long i = b * kGrain; i < std::min(n_, (b + 1) * kGrain); ++i) {
            first_slot[i] = uint32_t(sum);
            sum += records[i].tiles;
        }
        sums[b + 1] = sum;
    });
    for (long b = 0; b < blocks; ++b) sums[b + 1] += sums[b];
    check_intersections(sums[blocks]);
    parallel_for(int(blocks), [&](int b) {
        for (long i = b * kGrain; i < std::min(n_, (b + 1) * kGrain); ++i) first_slot[i] += uint32_t(sums[b]);
    });
    return size_t(sums[blocks]);
}

namespace {

// Calls emit(tile) for each tile that a splat touches, in row-major order.
template <class F>
inline void each_tile(const Record& r, const uint16_t* spans, int tiles_x, F&& emit) {
    uint32_t row = uint32_t(r.y0) * tiles_x + r.x0;
    if (r.mask) {
        uint64_t mask = r.mask;
        const uint64_t low = r.w == 64 ? ~0ull : (1ull << r.w) - 1;
        for (; mask; mask = r.w == 64 ? 0 : mask >> r.w, row += tiles_x)
            for (uint64_t bits = mask & low; bits; bits &= bits - 1) emit(row + uint32_t(std::countr_zero(bits)));
    } else if (r.tiles) {
        for (int y = 0; y < r.h; ++y, row += tiles_x)
            for (uint32_t x = spans[r.spans + 2 * y]; x < spans[r.spans + 2 * y + 1]; ++x) emit(row + x);
    }
}

}  // namespace

size_t Pipeline::bin() {
    const Timer timer(stage_seconds[1]);
    Record* records = records_.data();
    // Boxes too large for a mask get the spans of their rows; then every splat knows how many tiles it touches.
    struct Large {
        uint32_t id, spans;
    };
    std::vector<Large> large;
    size_t span_count = 0;
    for (long i = 0; i < n_; ++i) {
        if (!large_[i / kGrain]) {
            i += kGrain - 1;
            continue;
        }
        const Record& r = records[i];
        if (r.mask || r.w == 0 || r.h == 0) continue;
        large.push_back({uint32_t(i), uint32_t(span_count)});
        span_count += 2 * size_t(r.h);
    }
    check_intersections(span_count / 2);  // a row stands for a tile; Record::spans has 32 bits
    uint16_t* spans = spans_.get(span_count);
    parallel_ranges(long(large.size()), 64, [&](long first, long last) {
        for (long i = first; i < last; ++i) {
            Record& r = records[large[i].id];
            uint16_t* own = spans + large[i].spans;
            kernels().spans(r, own);
            r.spans = large[i].spans;
            r.tiles = 0;
            for (int y = 0; y < r.h; ++y) r.tiles += uint32_t(own[2 * y + 1] - own[2 * y]);
        }
    });
    intersections_ = assign_slots();
    sort_by_depth();

    // A counting sort of the depth order to tiles: stable, so that every list stands front to back.
    const int tile_count = planes_.tiles_x * planes_.tiles_y, pieces = thread_count();
    const long share = (visible_ + pieces - 1) / pieces;
    const uint32_t *order = order_.data(), *first_slot = first_slot_.data();
    uint32_t* counts = histogram_.get(size_t(pieces) * tile_count);
    uint32_t* offsets = offsets_.get(tile_count + 1);
    Tile* tiles = tiles_.get(intersections_);
    const int tiles_x = planes_.tiles_x;
    parallel_for(pieces, [&](int p) {
        uint32_t* own = counts + size_t(p) * tile_count;
        std::fill_n(own, tile_count, 0u);
        for (long i = p * share; i < std::min(visible_, (p + 1) * share); ++i) {
            if (i + 8 < visible_) __builtin_prefetch(&records[order[i + 8]]);
            each_tile(records[order[i]], spans, tiles_x, [&](uint32_t tile) { ++own[tile]; });
        }
    });
    uint32_t sum = 0;
    for (int t = 0; t < tile_count; ++t) {
        offsets[t] = sum;
        for (int p = 0; p < pieces; ++p) {
            uint32_t& c = counts[size_t(p) * tile_count + t];
            const uint32_t here = c;
            c = sum;
            sum += here;
        }
    }
    offsets[tile_count] = sum;
    parallel_for(pieces, [&](int p) {
        uint32_t* own = counts + size_t(p) * tile_count;
        for (long i = p * share; i < std::min(visible_, (p + 1) * share); ++i) {
            if (i + 8 < visible_) __builtin_prefetch(&records[order[i + 8]]);
            const uint32_t id = order[i];
            uint32_t slot = first_slot[id];
            each_tile(records[id], spans, tiles_x, [&](uint32_t tile) { tiles[own[tile]++] = {id, slot++}; });
        }
    });
    return intersections_;
}

void Pipeline::load_tiles(const int32_t* ids, const int32_t* offsets, size_t count) {
    const int tile_count = planes_.tiles_x * planes_.tiles_y;
    uint32_t* own = offsets_.get(tile_count + 1);
    std::copy_n(offsets, tile_count + 1, own);
    Record* records = records_.data();
    for (long i = 0; i < n_; ++i) records[i].tiles = 0;
    for (size_t k = 0; k < count; ++k) ++records[ids[k]].tiles;
    intersections_ = assign_slots();
    Tile* tiles = tiles_.get(count);
    std::vector<uint32_t> next(first_slot_.data(), first_slot_.data() + n_);
    for (size_t k = 0; k < count; ++k) tiles[k] = {uint32_t(ids[k]), next[ids[k]]++};
}

BlendArgs Pipeline::blend_args() {
    planes_.image = image_.get(3 * plane_size());
    planes_.transmittance = transmittance_.get(plane_size());
    planes_.v_image = v_image();
    BlendArgs args = {};
    args.planes = planes_;
    args.records = records_.data();
    args.tiles = tiles_.data();
    args.offsets = offsets_.data();
    args.used = used_.get(intersections_);
    return args;
}

void Pipeline::forward(const float background[3]) {
    const Timer timer(stage_seconds[2]);
    std::copy_n(background, 3, planes_.background);
    const BlendArgs shared = blend_args();
    const int tile_count = planes_.tiles_x * planes_.tiles_y;
    std::vector<uint64_t> evaluations(tile_count);
    parallel_for(tile_count, [&](int tile) {
        BlendArgs args = shared;
        kernels().forward(args, tile);
        evaluations[tile] = args.evaluations;
    });
    for (uint64_t e : evaluations) forward_evaluations += e;
}

ScoreValue Pipeline::score(int width, int height, const float* image, const uint8_t* photo, const uint8_t* mask, uint8_t* picture) {
    ScoreArgs shared = {};
    resize(shared.planes, width, height);
    const size_t plane = size_t(shared.planes.rows) * shared.planes.stride;
    shared.image = image;
    shared.photo = photo;
    shared.mask = mask;
    shared.picture = picture;
    if (photo) {
        shared.ours = scored_.get(7 * plane);
        shared.theirs = shared.ours + 3 * plane;
        shared.counts = shared.ours + 6 * plane;
    }
    std::vector<ScoreArgs> rows((height + kScoreRows - 1) / kScoreRows, shared);
    parallel_ranges(height, kScoreRows, [&](long first, long last) {
        for (long y = first; y < last; ++y) kernels().score_row(rows[first / kScoreRows], int(y));
    });
    ScoreValue value = {};
    for (const ScoreArgs& r : rows) value.squares += r.squares, value.counting += r.counting;
    if (!photo) return value;
    const int strips = (height + kStripRows - 1) / kStripRows;
    std::vector<ScoreArgs> parts(size_t(3) * strips, shared);
    parallel_for(3 * strips, [&](int i) {
        static thread_local Buffer<float> scratch;
        const int row = i / 3 * kStripRows;
        float* room = scratch.get(size_t(kLossScratchRows) * (shared.planes.stride + 32));
        kernels().score(parts[i], i % 3, row, std::min(height, row + kStripRows), room);
    });
    for (const ScoreArgs& p : parts) value.ssim += p.ssim;  // in a fixed order
    return value;
}

// How many pixels a mean is over, one at least.
double Pipeline::counting(const uint8_t* mask) const {
    if (!mask) return double(planes_.width) * planes_.height;
    std::vector<long> rows(planes_.height);
    parallel_ranges(planes_.height, kStripRows, [&](long first, long last) {
        for (long y = first; y < last; ++y) {
            const uint8_t* row = mask + size_t(y) * planes_.stride;
            long count = 0;
            for (int x = 0; x < planes_.width; ++x) count += row[x] != 0;
            rows[y] = count;
        }
    });
    return double(std::max(std::accumulate(rows.begin(), rows.end(), 0L), 1L));
}

LossValue Pipeline::loss(const uint8_t* target, float ssim_lambda, const uint8_t* mask, const uint8_t* alpha,
                         const float* background, float* image) {
    const Timer timer(stage_seconds[3]);
    const double count = 3.0 * counting(mask);
    LossArgs shared = {};
    shared.planes = planes_;
    if (image) shared.planes.image = image;
    shared.target = target;
    shared.mask = mask;
    if (alpha && std::any_of(background, background + 3, [](float x) { return x != 0.0f; })) {  // else it is over black already
        shared.alpha = alpha;
        std::copy_n(background, 3, shared.background);
    }
    shared.v_image = v_image();
    shared.ssim_weight = float(-ssim_lambda / count);
    shared.l1_weight = float((1.0 - ssim_lambda) / count);
    const int strips = (planes_.rows + kStripRows - 1) / kStripRows;
    std::vector<LossArgs> parts(size_t(3) * strips, shared);
    parallel_for(3 * strips, [&](int i) {
        static thread_local Buffer<float> scratch;  // a thread's, for one task after the other
        const int row = i / 3 * kStripRows;
        float* room = scratch.get(size_t(kLossScratchRows) * (planes_.stride + 32));
        kernels().loss(parts[i], i % 3, row, std::min(planes_.rows, row + kStripRows), room);
    });
    LossValue value = {};
    for (const LossArgs& p : parts) {  // in a fixed order: the same sum for any number of threads
        value.l1 += p.l1;
        value.ssim += p.ssim;
    }
    value.l1 /= count;
    value.ssim /= count;
    value.loss = (1.0 - ssim_lambda) * value.l1 + ssim_lambda * (1.0 - value.ssim);
    return value;
}

float* Pipeline::expose(const uint8_t* target, const Exposure& exposure) {
    const Timer timer(stage_seconds[3]);
    float* exposed = exposed_.get(3 * plane_size());
    gs::expose(planes_, target, exposure, exposed);
    return exposed;
}

void Pipeline::expose_vjp(const uint8_t* target, const Exposure& exposure, const float* background, double gradient[6]) {
    const Timer timer(stage_seconds[3]);
    gs::expose_vjp(planes_, target, exposure, background, exposed_.data(), v_image(), gradient);
}

bool Pipeline::backward(bool with_v_alpha, bool absgrad) {
    const Timer timer(stage_seconds[4]);
    BlendArgs shared = blend_args();
    shared.planes.v_alpha = with_v_alpha ? v_alpha_.data() : nullptr;
    shared.slots = slots_.get(intersections_ * kSlotFloats + 16);
    shared.absgrad = absgrad;
    std::vector<uint64_t> evaluations(planes_.tiles_x * planes_.tiles_y);
    std::atomic<bool> finite = true;
    parallel_for(planes_.tiles_x * planes_.tiles_y, [&](int tile) {
        BlendArgs args = shared;
        kernels().backward(args, tile);
        evaluations[tile] = args.evaluations;
        if (!args.finite) finite = false;
    });
    for (uint64_t e : evaluations) backward_evaluations += e;
    return finite;
}

void Pipeline::splat_gradients(float* v_means2d, float* v_conics, float* v_colors, float* v_opacities, float* v_abs) {
    UpdateArgs args = {};
    args.records = records_.data();
    args.slots = slots_.data();
    args.first_slot = first_slot_.data();
    parallel_ranges(n_, kGrain, [&](long first, long last) {
        kernels().splat_gradients(args, first, last, v_means2d, v_conics, v_colors, v_opacities, v_abs);
    });
}

void Pipeline::project_vjp(const Params& params, const Params& grads, int sh_degree, int sh_stride, const CameraParams& camera,
                           bool antialiased, const float* v_means2d, const float* v_conics, const float* v_depths,
                           const float* v_colors, const float* v_opacities) {
    UpdateArgs args = {};
    args.params = params;
    args.grads = grads;
    args.camera = &camera;
    args.sh_degree = sh_degree;
    args.sh_stride = sh_stride;
    args.antialiased = antialiased;
    args.records = records_.data();
    args.v_means2d = v_means2d;
    args.v_conics = v_conics;
    args.v_depths = v_depths;
    args.v_colors = v_colors;
    args.v_opacities = v_opacities;
    parallel_ranges(n_, kGrain, [&](long first, long last) {
        UpdateArgs own = args;
        kernels().update(own, first, last);
    });
}

namespace {

// What an update reads beside the gradients.
UpdateArgs update_args(const Params& params, long n, const Moments& moments, int sh_degree, int sh_stride,
                       const StepSettings& settings) {
    UpdateArgs args = {};
    args.params = params;
    args.m = moments.m;
    args.v = moments.v;
    args.sh_degree = sh_degree;
    args.sh_stride = sh_stride;
    args.update = true;
    const double m_correction = bias_correction(gs_const::kAdamBeta1, settings.step);
    for (int i = 0; i < 6; ++i) args.lr[i] = float(settings.lr[i] * m_correction);
    args.v_correction = float(bias_correction(gs_const::kAdamBeta2, settings.step));
    args.opacity_reg = n ? settings.opacity_reg / float(n) : 0.0f;
    args.scale_reg = n ? settings.scale_reg / (3.0f * float(n)) : 0.0f;
    args.noise_scale = settings.noise_scale;
    args.noise_seed = settings.noise_seed;
    args.noise_step = uint32_t(settings.step);
    args.stat_norm = settings.stat_norm;
    args.stat_abs = settings.stat_abs;
    args.stat_count = settings.stat_count;
    args.finite = true;
    return args;
}

// The PoseSums of each task, added up in a fixed order.
class PoseParts {
   public:
    PoseParts(long n, double* total) : total_(total), parts_(total ? (n + kGrain - 1) / kGrain : 0) {}
    double* of(long first) { return total_ ? parts_[first / kGrain].data() : nullptr; }
    void add_up() {
        if (total_) std::fill_n(total_, kPoseFloats, 0.0);
        for (const auto& part : parts_)
            for (int q = 0; q < kPoseFloats; ++q) total_[q] += part[q];
    }

   private:
    double* total_;
    std::vector<std::array<double, kPoseFloats>> parts_;
};

}  // namespace

void Pipeline::shown(UpdateArgs& args, const CameraParams& camera, bool antialiased) {
    args.camera = &camera;
    args.antialiased = antialiased;
    args.records = records_.data();
    args.slots = slots_.data();
    args.first_slot = first_slot_.data();
    args.half_width = 0.5f * float(camera.width);
    args.half_height = 0.5f * float(camera.height);
}

bool Pipeline::update(const Params& params, const Moments& moments, int sh_degree, int sh_stride, const CameraParams& camera,
                      bool antialiased, const StepSettings& settings, double* pose) {
    const Timer timer(stage_seconds[5]);
    UpdateArgs args = update_args(params, n_, moments, sh_degree, sh_stride, settings);
    shown(args, camera, antialiased);
    std::vector<char> finite((n_ + kGrain - 1) / kGrain, 1);
    PoseParts parts(n_, pose);
    parallel_ranges(n_, kGrain, [&](long first, long last) {
        UpdateArgs own = args;
        own.pose = parts.of(first);
        kernels().update(own, first, last);
        finite[first / kGrain] = own.finite;
    });
    parts.add_up();
    return std::find(finite.begin(), finite.end(), char(0)) == finite.end();
}

void Pipeline::gradients(const Params& params, int sh_degree, int sh_stride, const CameraParams& camera, bool antialiased,
                         bool sums, float* view, double* pose) {
    const Timer timer(stage_seconds[5]);
    float* const parts = view + kViewHeader;
    UpdateArgs args = {};
    args.params = params;
    args.grads = {parts + kVMean * n_,  parts + kVQuat * n_, parts + kVScale * n_,
                  parts + kVLogit * n_, parts + kVRgb * n_,  nullptr};
    args.rgb = true;
    args.sh_degree = sh_degree;
    args.sh_stride = sh_stride;
    shown(args, camera, antialiased);
    if (sums) {
        std::fill_n(parts + kVNorm * n_, 3 * n_, 0.0f);
        args.stat_norm = parts + kVNorm * n_, args.stat_abs = parts + kVAbs * n_, args.stat_count = parts + kVCount * n_;
    }
    PoseParts pose_parts(n_, pose);
    parallel_ranges(n_, kGrain, [&](long first, long last) {
        UpdateArgs own = args;
        own.pose = pose_parts.of(first);
        kernels().update(own, first, last);
    });
    pose_parts.add_up();
}

bool Pipeline::combine(const Params& params, long n, const Moments& moments, int sh_degree, int sh_stride, const float* views,
                       long row, const float* positions, const StepSettings& settings) {
    const Timer timer(stage_seconds[5]);
    CombineArgs args = {};
    args.update = update_args(params, n, moments, sh_degree, sh_stride, settings);
    args.views = views;
    args.row = row;
    args.n = n;
    args.positions = positions;
    args.count = settings.views;
    // Scaled to B views a step as Grendel-GS does (Zhao et al. 2024); the rates come scaled.
    args.beta1 = float(std::pow(double(gs_const::kAdamBeta1), settings.views));
    args.beta2 = float(std::pow(double(gs_const::kAdamBeta2), settings.views));
    args.eps2 = gs_const::kAdamEps * gs_const::kAdamEps / float(settings.views);
    std::vector<char> finite((n + kGrain - 1) / kGrain, 1);
    parallel_ranges(n, kGrain, [&](long first, long last) {
        CombineArgs own = args;
        kernels().combine(own, first, last);
        finite[first / kGrain] = own.update.finite;
    });
    return std::find(finite.begin(), finite.end(), char(0)) == finite.end();
}

size_t Pipeline::bytes() const {
    return records_.bytes() + keys_.bytes() + keys_b_.bytes() + order_.bytes() + order_b_.bytes() + offsets_.bytes() +
           first_slot_.bytes() + histogram_.bytes() + spans_.bytes() + used_.bytes() + tiles_.bytes() + image_.bytes() +
           transmittance_.bytes() + v_image_.bytes() + v_alpha_.bytes() + slots_.bytes() + scored_.bytes() + exposed_.bytes();
}

}  // namespace gs
