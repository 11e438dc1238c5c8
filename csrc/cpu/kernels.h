// SPDX-License-Identifier: Apache-2.0
// What passes between the pipeline (plain C++, compiled once) and the kernels (compiled once per instruction set): plain
// data and a table of functions. A kernel works on a range that is one thread's task; it never allocates or waits.
#pragma once
#include <stdint.h>

namespace gs {

struct CameraParams;

// A projected Gaussian as the blending loops read it: one cache line.
struct alignas(64) Record {
    float mx, my;          // px
    float ha, hb, hc;      // exponent in base 2: -log2(e) (a/2, b, c/2) of the conic
    float l;               // log2 of the (compensated) opacity
    float color[3];
    float opacity;
    uint16_t x0, y0, w, h;  // box of tiles; w = 0: culled
    uint32_t tiles;         // how many of the box the splat touches
    union {                 // large boxes:
        float det;          // until they have spans, the conic's determinant, not by ac - b^2
        uint32_t spans;     // where their rows' spans stand
    };
    uint64_t mask;          // small boxes (at most 64 tiles): bit r * w + c
};

struct Tile {  // an intersection: which splat, and where its gradient goes (splat-major)
    uint32_t id, slot;
};

// The parameter tree by its arrays, [N, ...] row-major, as gaussians.py names them; also its gradients and moments.
struct Params {
    float *means, *quats, *log_scales, *logits, *sh0, *shN;
};

constexpr int kSlotFloats = 12;  // alpha, x, y, xx, xy, yy, r, g, b, |x|, |y|, unused
enum Slot { kAlpha, kX, kY, kXX, kXY, kYY, kRed, kGreen, kBlue, kAbsX, kAbsY, kUnused };

struct ProjectArgs {
    Params params;
    const CameraParams* camera;
    int sh_degree, sh_stride;  // sh_stride: rows of shN, (stored degree + 1)^2 - 1
    bool antialiased;
    Record* records;
    uint32_t* depth_keys;  // depth's bits; 0xFFFFFFFF where culled
    float *out_means2d, *out_conics, *out_depths, *out_colors, *out_opacities;  // all or none
    int32_t* out_radii;
};

struct PlaneArgs {  // a view's planes, padded to whole tiles; channel-major
    int width, height, stride, rows, tiles_x, tiles_y;
    float* image;          // [3][rows][stride]
    float* transmittance;  // [rows][stride], what is left behind the last splat
    const float* v_image;  // [3][rows][stride]
    const float* v_alpha;  // [rows][stride] or null
    float background[3];
};

struct BlendArgs {
    PlaneArgs planes;
    const Record* records;
    const Tile* tiles;
    const uint32_t* offsets;  // [tiles_x * tiles_y + 1]
    uint16_t* used;           // per intersection: which of the tile's sixteen blocks it contributed to
    float* slots;             // gradients, kSlotFloats per intersection
    bool absgrad;
    uint64_t evaluations;     // blocks of 16 pixels evaluated (statistics)
    bool finite;              // out: false if a gradient of this tile was not finite
};

struct LossArgs {
    PlaneArgs planes;
    const uint8_t* target;  // [3][rows][stride]
    const uint8_t* mask;    // [rows][stride], 0 where a pixel does not count; null: all count
    const uint8_t* alpha;   // [rows][stride]: how opaque the photo, which is over black, is; null: everywhere
    float background[3];    // behind the photo then
    float* v_image;         // [3][rows][stride]
    float ssim_weight, l1_weight;  // d loss / d (sum of SSIM), d loss / d (sum of |x - y|)
    double l1, ssim;        // sums over this task's pixels
};

struct ScoreArgs {
    PlaneArgs planes;        // their sizes alone
    const float* image;      // [height][width][3]
    const uint8_t* photo;    // [height][width][3] or null: only `picture` is wanted
    const uint8_t* mask;     // [height][width], 0 where a pixel does not count; null: all count
    uint8_t* picture;        // out: [height][width][3]
    uint8_t *ours, *theirs;  // between the two kernels: [3][rows][stride]
    uint8_t* counts;         // the same: [rows][stride]
    uint64_t squares, counting;  // of this task: sum of (picture - photo)^2, pixels that count
    double ssim;                 // of this task, summed
};

struct UpdateArgs {
    Params params, m, v, grads;      // grads: written instead of an update where update is false
    const CameraParams* camera;
    int sh_degree, sh_stride;
    bool antialiased, update;
    bool rgb;                        // where update is false: v_rgb instead of sh0's gradient, and none of shN
    const Record* records;
    const float* slots;              // null: gradients of the splats come from v_* below
    const uint32_t* first_slot;
    const float *v_means2d, *v_conics, *v_depths, *v_colors, *v_opacities;
    float lr[6];                     // means, quats, log_scales, logits, sh0, shN; times the bias correction of m
    float v_correction;              // 1 / (1 - beta2^t)
    float opacity_reg, scale_reg;    // per element: weight / N, weight / (3 N)
    float noise_scale;
    uint32_t noise_seed, noise_step;
    float *stat_norm, *stat_abs, *stat_count;  // density control; null where not wanted
    float half_width, half_height;
    double* pose;                    // out: added to, null where not wanted: see PoseSums
    bool finite;                     // out: false if a gradient of this task was not finite
};

// What the gradient of a camera's pose follows from (training/poses.py): sums over the splats of (mean - camera) x v_mean without
// what the direction of view does to the colour, and the quaternions' turning; then of v_mean.
enum PoseSums { kPoseTurn = 0, kPoseShift = 3, kPoseFloats = 6 };

// Where the parts of a view's gradients begin, in floats a Gaussian: each part is as long as its parameters. The gradient of the
// colour stands for those of sh0 and shN, which follow from it and the direction. The last three are density control's.
enum Part { kVMean = 0, kVQuat = 3, kVScale = 7, kVLogit = 10, kVRgb = 11, kVNorm = 14, kVAbs = 15, kVCount = 16 };
constexpr int kViewHeader = 16;  // floats before them
constexpr int kViewFloats = 14, kViewFloatsStat = 17;

struct CombineArgs {
    UpdateArgs update;   // params, m, v, rates, regularisers, noise, sums
    const float* views;  // [count][row]: a header and the parts above
    long row, n;
    const float* positions;  // [count][3], of the cameras
    int count;
    float beta1, beta2, eps2;  // of Adam; eps squared
};

struct Kernels {
    const char* name;
    bool (*project)(const ProjectArgs&, long first, long last);  // true: some boxes are too large for a mask
    void (*spans)(const Record&, uint16_t* out);  // out[2 r], out[2 r + 1]: tiles [from, to) of row r, relative to x0
    void (*forward)(BlendArgs&, int tile);
    void (*backward)(BlendArgs&, int tile);
    void (*loss)(LossArgs&, int channel, int row0, int row1, float* scratch);
    void (*score_row)(ScoreArgs&, int row);
    void (*score)(ScoreArgs&, int channel, int row0, int row1, float* scratch);
    void (*splat_gradients)(const UpdateArgs&, long first, long last, float* v_means2d, float* v_conics, float* v_colors,
                            float* v_opacities, float* v_abs);
    void (*update)(UpdateArgs&, long first, long last);
    void (*combine)(CombineArgs&, long first, long last);
    void (*adam)(float* p, float* m, float* v, const float* g, long count, float lr, float v_correction);
};

constexpr int kStripRows = 64;  // most rows of a loss task
constexpr int kLossRows = 4;    // of these at a time
constexpr int kLossRing = 16;   // rows of each map that are kept: a power of two, and the windows on kLossRows rows see fourteen
constexpr int kLossScratchRows = 5 * kLossRing + 4 * kLossRows + 4;  // rows of (stride + 32) floats that a task needs

namespace avx512 { const Kernels* kernels(); }
namespace avx2 { const Kernels* kernels(); }
namespace neon { const Kernels* kernels(); }
namespace scalar { const Kernels* kernels(); }

}  // namespace gs
