// SPDX-License-Identifier: Apache-2.0
// The stages of a step over whole arrays, in the order they run: project, tiles, forward, loss, backward, update.
// A Pipeline owns the buffers that pass between them and keeps them from one step to the next.
#pragma once
#include <cstdint>
#include <cstddef>
#include <memory>
#include <vector>

#include "../camera.h"
#include "../constants.h"
#include "exposure.h"
#include "input_error.h"
#include "kernels.h"

namespace gs {

// Floats from one row of a view's planes to the next: whole tiles, and a vector more where rows would else lie a multiple of a
// kilobyte apart and fight for the same few lines of the first-level cache.
constexpr int plane_stride(int width) {
    const int stride = (width + gs_const::kTile - 1) / gs_const::kTile * gs_const::kTile;
    return stride % 256 == 0 ? stride + 16 : stride;
}
constexpr int plane_rows(int height) { return (height + gs_const::kTile - 1) / gs_const::kTile * gs_const::kTile; }

// InputError where a picture has no pixel, or more tiles on a side than a Record's box or in all than an int can count.
void check_size(long width, long height);

const Kernels& kernels();                    // of the best instruction set here, or of GS_SIMD
std::vector<const char*> instruction_sets();  // compiled in and able to run here

// Memory that is not cleared when it grows.
template <class T>
class Buffer {
   public:
    T* get(size_t n) {
        if (n > size_) {
            const size_t grown = n + n / 8;
            data_.reset();
            size_ = 0;  // should the next line throw
            data_.reset(static_cast<T*>(::operator new[](grown * sizeof(T), std::align_val_t(64))));
            size_ = grown;
        }
        return data_.get();
    }
    T* data() const { return data_.get(); }
    size_t bytes() const { return size_ * sizeof(T); }

   private:
    struct Free {
        void operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
    };
    std::unique_ptr<T[], Free> data_;
    size_t size_ = 0;
};

double bias_correction(float beta, int step);  // of Adam's moments after `step` steps, from 1

struct Moments {
    Params m, v;
};

struct StepSettings {
    float lr[6];  // means, quats, log_scales, logits, sh0, shN
    int step;     // this step's number, from 1
    float opacity_reg, scale_reg, noise_scale;
    uint32_t noise_seed;
    bool absgrad;
    float *stat_norm, *stat_abs, *stat_count;  // null where not wanted
    int views;                                 // that the step is over
};

struct LossValue {
    double loss, l1, ssim;
};

struct ScoreValue {
    uint64_t squares, counting;  // sum of squared differences in 8 bits over three channels; pixels that count
    double ssim;                 // the sum over these pixels and channels
};

class Pipeline {
   public:
    // Stage 1. `out` arrays may be null (all together).
    void project(const Params& params, long n, int sh_degree, int sh_stride, const CameraParams& camera, bool antialiased,
                 const ProjectArgs* out = nullptr);
    // Instead of stage 1: records from projected arrays.
    void load_splats(long n, int width, int height, const float* means2d, const float* conics, const float* depths,
                     const int32_t* radii, const float* colors, const float* opacities);
    // Stage 2: tile lists, front to back. Returns the number of intersections.
    size_t bin();
    // Instead of stage 2: given lists.
    void load_tiles(const int32_t* ids, const int32_t* offsets, size_t count);
    // Stage 3.
    void forward(const float background[3]);
    // For stage 4 alone: an image's planes to be filled by the caller.
    void set_image(int width, int height) {
        set_size(width, height);
        planes_.image = image_.get(3 * plane_size());
    }
    // Stage 4; target and mask are planar, padded as the planes are. mask (null: all pixels count) is 0 where a pixel does not
    // count: there both pictures are 0, it is in no mean and its gradient is 0. alpha (null: opaque everywhere; 255 in the
    // padding) says how opaque the target, which is over black, is: it is laid over `background`.
    // image: what expose() returned, where the photo has an exposure of its own (exposure.h); then expose_vjp() follows.
    LossValue loss(const uint8_t* target, float ssim_lambda, const uint8_t* mask = nullptr, const uint8_t* alpha = nullptr,
                   const float* background = nullptr, float* image = nullptr);
    float* expose(const uint8_t* target, const Exposure& exposure);
    void expose_vjp(const uint8_t* target, const Exposure& exposure, const float* background, double gradient[6]);
    // For evaluation, beside the stages: an image [height][width][3] in 8 bits (to `picture`), and its sums beside a photo's 8
    // bits over the pixels where `mask` (or null) is not 0. Without a photo only `picture` is made.
    ScoreValue score(int width, int height, const float* image, const uint8_t* photo, const uint8_t* mask, uint8_t* picture);
    // Stage 5, from v_image(). False: a gradient was not finite.
    bool backward(bool with_v_alpha, bool absgrad);
    // Stage 6: gradients of the splats (for autograd) ...
    void splat_gradients(float* v_means2d, float* v_conics, float* v_colors, float* v_opacities, float* v_abs);
    // ... or of the parameters, from the splats' ...
    void project_vjp(const Params& params, const Params& grads, int sh_degree, int sh_stride, const CameraParams& camera,
                     bool antialiased, const float* v_means2d, const float* v_conics, const float* v_depths, const float* v_colors,
                     const float* v_opacities);
    // ... or all of it and Adam at once. False: a gradient was not finite; its Gaussians were left alone.
    // pose: null, or the PoseSums.
    bool update(const Params& params, const Moments& moments, int sh_degree, int sh_stride, const CameraParams& camera,
                bool antialiased, const StepSettings& settings, double* pose = nullptr);

    // Or the two halves apart: the gradients of one view (see kernels.h, `Part`) after its header ...
    void gradients(const Params& params, int sh_degree, int sh_stride, const CameraParams& camera, bool antialiased, bool sums,
                   float* view, double* pose = nullptr);
    // ... and one step of Adam on the mean of `settings.views` of them, added in their order. False: it was not finite.
    bool combine(const Params& params, long n, const Moments& moments, int sh_degree, int sh_stride, const float* views, long row,
                 const float* positions, const StepSettings& settings);

    long n() const { return n_; }
    int width() const { return planes_.width; }
    int height() const { return planes_.height; }
    const PlaneArgs& planes() const { return planes_; }
    float* v_image() { return v_image_.get(3 * plane_size()); }
    float* v_alpha() { return v_alpha_.get(plane_size()); }
    size_t plane_size() const { return size_t(planes_.rows) * planes_.stride; }
    size_t intersections() const { return intersections_; }
    const Tile* tiles() const { return tiles_.data(); }
    const uint32_t* offsets() const { return offsets_.data(); }
    const Record* records() const { return records_.data(); }
    size_t bytes() const;

    double stage_seconds[6] = {};  // project, tiles, forward, loss, backward, update: summed over calls
    uint64_t forward_evaluations = 0, backward_evaluations = 0;  // blocks of sixteen pixels: summed over calls

   private:
    void set_size(int width, int height);
    void sort_by_depth();
    size_t assign_slots();
    BlendArgs blend_args();
    // What the update and the gradients read of the view that was rendered.
    void shown(UpdateArgs& args, const CameraParams& camera, bool antialiased);
    double counting(const uint8_t* mask) const;

    long n_ = 0;
    PlaneArgs planes_ = {};
    size_t intersections_ = 0;
    long visible_ = 0;
    std::vector<char> large_;  // per task of stage 1: some boxes need spans
    Buffer<Record> records_;
    Buffer<uint32_t> keys_, keys_b_, order_, order_b_, offsets_, first_slot_, histogram_;
    Buffer<uint16_t> spans_, used_;
    Buffer<uint8_t> scored_;
    Buffer<Tile> tiles_;
    Buffer<float> image_, transmittance_, v_image_, v_alpha_, slots_, exposed_;
};

}  // namespace gs
