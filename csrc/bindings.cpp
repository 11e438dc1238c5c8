// SPDX-License-Identifier: Apache-2.0
// Arrays in, arrays out, no mathematics. Every array is NumPy's (a view of MLX's memory, see backends/cpp.py), C-contiguous,
// of the exact type: nothing is converted or copied here. Outputs are filled in place.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <string>

#include "cpu/parallel.h"
#include "cpu/pipeline.h"
#include "cpu/resample.h"
#include "cpu/rows.h"

namespace nb = nanobind;
using namespace gs;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

std::string shape_of(size_t ndim, const int64_t* shape) {
    std::string s = "(";
    for (size_t i = 0; i < ndim; ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
    return s + ")";
}

// Raises ValueError unless the array has `size` elements.
template <class A>
auto data(const A& array, size_t size, const char* name) {
    if (array.size() != size)
        throw nb::value_error((std::string(name) + " must hold " + std::to_string(size) + " elements, got shape " +
                               shape_of(array.ndim(), array.shape_ptr()))
                                  .c_str());
    return array.data();
}
template <class A>
auto data(const std::optional<A>& array, size_t size, const char* name) -> decltype(array->data()) {
    return array ? data(*array, size, name) : nullptr;
}

struct Tree {
    Params params;
    long n;
    int sh_stride;
};

// The six arrays of a parameter tree. Inputs are cast from const where nothing writes them.
template <class Array>
Tree tree(const nb::sequence& leaves, const char* name) {
    static const char* names[6] = {"means", "quats", "log_scales", "logit_opacities", "sh0", "shN"};
    if (nb::len(leaves) != 6) throw nb::value_error((std::string(name) + " must be the six arrays of Gaussians").c_str());
    Array arrays[6];
    for (int i = 0; i < 6; ++i)
        if (!nb::try_cast(leaves[i], arrays[i], false))
            throw nb::type_error((std::string(name) + "." + names[i] + " must be a C-contiguous float32 NumPy array").c_str());
    const size_t n = arrays[3].size();
    if (arrays[5].ndim() != 3) throw nb::value_error((std::string(name) + ".shN must be [N, K-1, 3]").c_str());
    const size_t stride = arrays[5].shape(1), columns[6] = {3, 4, 3, 1, 3, 3 * stride};
    if (stride != 0 && stride != 3 && stride != 8 && stride != 15)
        throw nb::value_error((std::string(name) + ".shN must have 0, 3, 8 or 15 rows, got " + std::to_string(stride)).c_str());
    float* p[6];
    for (int i = 0; i < 6; ++i)
        p[i] = const_cast<float*>(data(arrays[i], n * columns[i], (std::string(name) + "." + names[i]).c_str()));
    return {{p[0], p[1], p[2], p[3], p[4], p[5]}, long(n), int(stride)};
}

void place(CameraParams& c, const float* m) {
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) c.r[3 * i + j] = m[4 * i + j];
        c.t[i] = m[4 * i + 3];
    }
    for (int j = 0; j < 3; ++j) c.position[j] = -(c.r[j] * c.t[0] + c.r[3 + j] * c.t[1] + c.r[6 + j] * c.t[2]);
}

CameraParams camera_from(const In<float>& viewmat, const In<float>& K, long width, long height) {
    const float *m = data(viewmat, 16, "viewmat"), *k = data(K, 9, "K");
    check_size(width, height);
    CameraParams c;
    place(c, m);
    c.fx = k[0], c.fy = k[4], c.cx = k[2], c.cy = k[5];
    c.width = int(width), c.height = int(height);
    return c;
}

int checked_degree(int degree, int stride) {
    if (degree < 0 || degree > 3 || (degree + 1) * (degree + 1) - 1 > stride)
        throw nb::value_error(
            ("sh_degree " + std::to_string(degree) + " needs more rows than shN's " + std::to_string(stride)).c_str());
    return degree;
}

// Planes [C][rows][stride] <-> an image [H, W, C].
void interleave(const Pipeline& p, const float* planes, int channels, float* image) {
    const PlaneArgs& a = p.planes();
    parallel_for(a.height, [&](int y) {
        for (int c = 0; c < channels; ++c) {
            const float* row = planes + size_t(c) * p.plane_size() + size_t(y) * a.stride;
            for (int x = 0; x < a.width; ++x) image[(size_t(y) * a.width + x) * channels + c] = row[x];
        }
    });
}
void deinterleave(const Pipeline& p, const float* image, int channels, float* planes) {
    const PlaneArgs& a = p.planes();
    parallel_for(a.rows, [&](int y) {
        for (int c = 0; c < channels; ++c) {
            float* row = planes + size_t(c) * p.plane_size() + size_t(y) * a.stride;
            for (int x = 0; x < a.stride; ++x)
                row[x] = x < a.width && y < a.height ? image[(size_t(y) * a.width + x) * channels + c] : 0.0f;
        }
    });
}

void project(Pipeline& p, nb::sequence params, In<float> viewmat, In<float> K, long width, long height, int sh_degree,
             bool antialiased, Out<float> means2d, Out<float> conics, Out<float> depths, Out<int32_t> radii, Out<float> colors,
             Out<float> opacities) {
    const Tree t = tree<In<float>>(params, "gaussians");
    const CameraParams camera = camera_from(viewmat, K, width, height);
    checked_degree(sh_degree, t.sh_stride);
    const size_t n = t.n;
    ProjectArgs out = {};
    out.out_means2d = data(means2d, 2 * n, "means2d");
    out.out_conics = data(conics, 3 * n, "conics");
    out.out_depths = data(depths, n, "depths");
    out.out_radii = data(radii, 2 * n, "radii");
    out.out_colors = data(colors, 3 * n, "colors");
    out.out_opacities = data(opacities, n, "opacities");
    nb::gil_scoped_release release;
    p.project(t.params, t.n, sh_degree, t.sh_stride, camera, antialiased, &out);
}

void project_vjp(Pipeline& p, nb::sequence params, In<float> viewmat, In<float> K, long width, long height, int sh_degree,
                 bool antialiased, In<float> v_means2d, In<float> v_conics, In<float> v_depths, In<float> v_colors,
                 In<float> v_opacities, nb::sequence grads) {
    const Tree t = tree<In<float>>(params, "gaussians"), g = tree<Out<float>>(grads, "grads");
    const CameraParams camera = camera_from(viewmat, K, width, height);
    checked_degree(sh_degree, t.sh_stride);
    const size_t n = t.n;
    if (g.n != t.n || g.sh_stride != t.sh_stride) throw nb::value_error("grads must have the shapes of the parameters");
    const float *m = data(v_means2d, 2 * n, "v_means2d"), *c = data(v_conics, 3 * n, "v_conics"),
                *d = data(v_depths, n, "v_depths");
    const float *rgb = data(v_colors, 3 * n, "v_colors"), *o = data(v_opacities, n, "v_opacities");
    nb::gil_scoped_release release;
    p.project(t.params, t.n, sh_degree, t.sh_stride, camera, antialiased);
    p.project_vjp(t.params, g.params, sh_degree, t.sh_stride, camera, antialiased, m, c, d, rgb, o);
}

void load_splats(Pipeline& p, long width, long height, In<float> means2d, In<float> conics, In<float> depths, In<int32_t> radii,
                 In<float> colors, In<float> opacities) {
    const size_t n = opacities.size();
    const float *m = data(means2d, 2 * n, "means2d"), *c = data(conics, 3 * n, "conics"), *d = data(depths, n, "depths");
    const int32_t* r = data(radii, 2 * n, "radii");
    const float* rgb = data(colors, 3 * n, "colors");
    const float* o = opacities.data();
    check_size(width, height);
    nb::gil_scoped_release release;
    p.load_splats(long(n), int(width), int(height), m, c, d, r, rgb, o);
}

size_t bin(Pipeline& p) {
    nb::gil_scoped_release release;
    return p.bin();
}

size_t tile_count(const Pipeline& p) { return size_t(p.planes().tiles_x) * p.planes().tiles_y; }

void store_tiles(Pipeline& p, Out<int32_t> ids, Out<int32_t> offsets) {
    int32_t *i = data(ids, p.intersections(), "ids"), *o = data(offsets, tile_count(p) + 1, "offsets");
    for (size_t k = 0; k < p.intersections(); ++k) i[k] = int32_t(p.tiles()[k].id);
    for (size_t k = 0; k <= tile_count(p); ++k) o[k] = int32_t(p.offsets()[k]);
}

void load_tiles(Pipeline& p, In<int32_t> ids, In<int32_t> offsets, size_t n) {
    const int32_t* o = data(offsets, tile_count(p) + 1, "offsets");
    if (n != size_t(p.n())) throw nb::value_error("tiles must be those of the splats that were loaded");
    const size_t count = ids.size();
    for (size_t k = 0; k < tile_count(p); ++k)
        if (o[k] < 0 || o[k + 1] < o[k]) throw nb::value_error("tiles.offsets must rise from 0");
    if (size_t(o[tile_count(p)]) != count) throw nb::value_error("tiles.offsets must end at the number of tiles.ids");
    for (size_t k = 0; k < count; ++k)
        if (ids.data()[k] < 0 || size_t(ids.data()[k]) >= n) throw nb::value_error("tiles.ids must lie in [0, N)");
    nb::gil_scoped_release release;
    p.load_tiles(ids.data(), o, count);
}

void forward(Pipeline& p, In<float> background, Out<float> image, Out<float> alpha) {
    const float* bg = data(background, 3, "background");
    const size_t pixels = size_t(p.width()) * p.height();
    float *i = data(image, 3 * pixels, "image"), *a = data(alpha, pixels, "alpha");
    nb::gil_scoped_release release;
    p.forward(bg);
    interleave(p, p.planes().image, 3, i);
    interleave(p, p.planes().transmittance, 1, a);
    for (size_t k = 0; k < pixels; ++k) a[k] = 1.0f - a[k];
}

// After forward() of the same splats.
void backward(Pipeline& p, In<float> v_image, std::optional<In<float>> v_alpha, Out<float> v_means2d, Out<float> v_conics,
              Out<float> v_colors, Out<float> v_opacities, std::optional<Out<float>> v_abs) {
    const size_t pixels = size_t(p.width()) * p.height(), n = v_opacities.size();
    if (n != size_t(p.n())) throw nb::value_error("the gradients must have as many rows as the splats that were rendered");
    const float *vi = data(v_image, 3 * pixels, "v_image"), *va = data(v_alpha, pixels, "v_alpha");
    float *m = data(v_means2d, 2 * n, "v_means2d"), *c = data(v_conics, 3 * n, "v_conics");
    float *rgb = data(v_colors, 3 * n, "v_colors"), *abs = data(v_abs, 2 * n, "v_abs");
    nb::gil_scoped_release release;
    deinterleave(p, vi, 3, p.v_image());
    if (va) deinterleave(p, va, 1, p.v_alpha());
    p.backward(va != nullptr, abs != nullptr);
    p.splat_gradients(m, c, rgb, v_opacities.data(), abs);
}

nb::tuple loss(Pipeline& p, In<float> image, In<uint8_t> target, std::optional<In<uint8_t>> mask, float ssim_lambda,
               Out<float> v_image) {
    if (image.ndim() != 3 || image.shape(2) != 3) throw nb::value_error("image must be [H, W, 3]");
    const int height = int(image.shape(0)), width = int(image.shape(1));
    LossValue value;
    p.set_image(width, height);
    const uint8_t *t = data(target, 3 * p.plane_size(), "target"), *counts = data(mask, p.plane_size(), "mask");
    float* v = data(v_image, image.size(), "v_image");
    {
        nb::gil_scoped_release release;
        deinterleave(p, image.data(), 3, p.planes().image);
        value = p.loss(t, ssim_lambda, counts);
        interleave(p, p.v_image(), 3, v);
    }
    return nb::make_tuple(value.loss, value.l1, value.ssim);
}

// (squares, ssim, counting): see Pipeline::score.
nb::tuple score(Pipeline& p, In<float> image, std::optional<In<uint8_t>> photo, std::optional<In<uint8_t>> mask,
                Out<uint8_t> picture) {
    if (image.ndim() != 3 || image.shape(2) != 3) throw nb::value_error("image must be [H, W, 3]");
    check_size(long(image.shape(1)), long(image.shape(0)));
    const int height = int(image.shape(0)), width = int(image.shape(1));
    const uint8_t *t = data(photo, image.size(), "photo"), *counts = data(mask, image.size() / 3, "mask");
    uint8_t* out = data(picture, image.size(), "picture");
    ScoreValue value;
    {
        nb::gil_scoped_release release;
        value = p.score(width, height, image.data(), t, counts, out);
    }
    return nb::make_tuple(value.squares, value.ssim, value.counting);
}

// What a view brings to a step: its camera, and its photo, mask and alpha as planes (see plane_shape).
struct Shot {
    CameraParams camera;
    In<uint8_t> target;
    std::optional<In<uint8_t>> mask, alpha;

    Shot(In<float> viewmat, In<float> K, long width, long height, In<uint8_t> photo, std::optional<In<uint8_t>> counts,
         std::optional<In<uint8_t>> opacity)
        : camera(camera_from(viewmat, K, width, height)), target(photo), mask(counts), alpha(opacity) {
        const size_t padded = size_t(plane_stride(camera.width)) * plane_rows(camera.height);
        data(target, 3 * padded, "target");
        data(mask, padded, "mask");
        data(alpha, padded, "alpha");
    }

    // From now on the camera stands elsewhere.
    void look(In<float> viewmat) { place(camera, data(viewmat, 16, "viewmat")); }
};

// One step as training/plan.py's StepPlan says it.
struct StepPlan {
    int number = 1, views = 1, sh_degree = 0;
    std::array<float, 6> rates = {};
    float ssim_lambda = 0.0f, opacity_weight = 0.0f, scale_weight = 0.0f, noise = 0.0f;
    std::array<float, 3> background = {};
    uint32_t seed = 0;
    bool antialiased = false, absgrad = false;
    std::optional<std::array<float, 6>> exposure;  // of the photo: gain, then offset, a channel each
    bool pose = false;                             // whether the gradient of the camera's pose is wanted
};

using Sums = std::optional<std::tuple<Out<float>, Out<float>, Out<float>>>;

StepSettings settings_of(const StepPlan& plan, const Sums& sums, long n) {
    StepSettings s = {};
    std::copy(plan.rates.begin(), plan.rates.end(), s.lr);
    s.step = plan.number;
    s.views = plan.views;
    s.opacity_reg = plan.opacity_weight, s.scale_reg = plan.scale_weight;
    s.noise_scale = plan.noise, s.noise_seed = plan.seed;
    s.absgrad = plan.absgrad;
    if (sums) {
        s.stat_norm = data(std::get<0>(*sums), n, "sums.means2d_norm");
        s.stat_abs = data(std::get<1>(*sums), n, "sums.absgrad_norm");
        s.stat_count = data(std::get<2>(*sums), n, "sums.count");
    }
    return s;
}

// The loss of a view and the gradient of its picture; false where one is not finite. v_exposure: filled where plan.exposure is.
bool to_splats(Pipeline& p, const Tree& t, const Shot& shot, const StepPlan& plan, LossValue& value,
               std::array<double, 6>& v_exposure) {
    p.project(t.params, t.n, plan.sh_degree, t.sh_stride, shot.camera, plan.antialiased);
    p.bin();
    const uint8_t *photo = shot.target.data(), *mask = shot.mask ? shot.mask->data() : nullptr;
    const uint8_t* alpha = shot.alpha ? shot.alpha->data() : nullptr;
    const float* background = plan.background.data();
    Exposure exposure = {};
    if (plan.exposure) {
        std::copy_n(plan.exposure->begin(), 3, exposure.gain);
        std::copy_n(plan.exposure->begin() + 3, 3, exposure.offset);
    }
    const bool splats_alone = plan.exposure && alpha;
    float ground[3] = {background[0], background[1], background[2]};
    if (splats_alone) behind(exposure, background, ground);
    p.forward(ground);
    value = p.loss(photo, plan.ssim_lambda, mask, alpha, background, plan.exposure ? p.expose(photo, exposure) : nullptr);
    if (!std::isfinite(value.loss)) return false;
    if (plan.exposure) p.expose_vjp(photo, exposure, splats_alone ? background : nullptr, v_exposure.data());
    return p.backward(false, plan.absgrad);
}

struct Trees {
    Tree params, m, v;
};
Trees trees(const nb::sequence& params, const nb::sequence& m, const nb::sequence& v, const StepPlan& plan) {
    const Trees t = {tree<Out<float>>(params, "gaussians"), tree<Out<float>>(m, "m"), tree<Out<float>>(v, "v")};
    if (t.m.n != t.params.n || t.v.n != t.params.n || t.m.sh_stride != t.params.sh_stride || t.v.sh_stride != t.params.sh_stride)
        throw nb::value_error("moments must have the shapes of the parameters");
    checked_degree(plan.sh_degree, t.params.sh_stride);
    return t;
}

// The whole step in place: (loss, l1, ssim, updated, v_exposure, pose). A loss that is not finite updates nothing. v_exposure: of
// log gain, then offset, where the plan has an exposure. pose: PoseSums, where wanted.
nb::tuple train_step(Pipeline& p, nb::sequence params, nb::sequence m, nb::sequence v, const Shot& shot, const StepPlan& plan,
                     Sums sums) {
    const Trees t = trees(params, m, v, plan);
    const StepSettings s = settings_of(plan, sums, t.params.n);
    LossValue value;
    bool updated = false;
    std::array<double, 6> v_exposure = {};
    std::array<double, kPoseFloats> pose = {};
    {
        nb::gil_scoped_release release;
        if (to_splats(p, t.params, shot, plan, value, v_exposure))
            updated = p.update(t.params.params, {t.m.params, t.v.params}, plan.sh_degree, t.params.sh_stride, shot.camera,
                               plan.antialiased, s, plan.pose ? pose.data() : nullptr);
    }
    return nb::make_tuple(value.loss, value.l1, value.ssim, updated, plan.exposure ? nb::cast(v_exposure) : nb::none(),
                          plan.pose ? nb::cast(pose) : nb::none());
}

// The gradients of one view into `view` [16 + 14 N], or [16 + 17 N] with those of density control; the header is the caller's.
// (loss, l1, ssim, whether they are there, v_exposure and pose as train_step's).
nb::tuple view_gradients(Pipeline& p, nb::sequence params, const Shot& shot, const StepPlan& plan, Out<float> view) {
    const Tree t = tree<Out<float>>(params, "gaussians");
    checked_degree(plan.sh_degree, t.sh_stride);
    const size_t few = kViewHeader + kViewFloats * size_t(t.n), more = kViewHeader + kViewFloatsStat * size_t(t.n);
    const bool sums = t.n > 0 && view.size() == more;
    float* out = data(view, sums ? more : few, "view");
    LossValue value;
    bool whole = false;
    std::array<double, 6> v_exposure = {};
    std::array<double, kPoseFloats> pose = {};
    {
        nb::gil_scoped_release release;
        whole = to_splats(p, t, shot, plan, value, v_exposure);
        if (whole)
            p.gradients(t.params, plan.sh_degree, t.sh_stride, shot.camera, plan.antialiased, sums, out,
                        plan.pose ? pose.data() : nullptr);
    }
    return nb::make_tuple(value.loss, value.l1, value.ssim, whole, plan.exposure ? nb::cast(v_exposure) : nb::none(),
                          plan.pose ? nb::cast(pose) : nb::none());
}

// One step on the gradients of plan.views views, [views, 16 + 14 N or 17 N]; positions [views, 3] of their cameras. False: not
// finite.
bool combine(Pipeline& p, nb::sequence params, nb::sequence m, nb::sequence v, In<float> views, In<float> positions,
             const StepPlan& plan, Sums sums) {
    const Trees t = trees(params, m, v, plan);
    const StepSettings s = settings_of(plan, sums, t.params.n);
    if (plan.views < 1) throw nb::value_error("a step has one view at least");
    const size_t row = kViewHeader + (sums ? kViewFloatsStat : kViewFloats) * size_t(t.params.n);
    const float *rows = data(views, row * size_t(plan.views), "views"), *at = data(positions, 3 * size_t(plan.views), "positions");
    nb::gil_scoped_release release;
    return p.combine(t.params.params, t.params.n, {t.m.params, t.v.params}, plan.sh_degree, t.params.sh_stride, rows, long(row), at,
                     s);
}

void adam(Out<float> p, Out<float> m, Out<float> v, In<float> g, float lr, int step) {
    const size_t n = p.size();
    data(m, n, "m"), data(v, n, "v"), data(g, n, "g");
    const float rate = float(lr * bias_correction(gs_const::kAdamBeta1, step));
    const float correction = float(bias_correction(gs_const::kAdamBeta2, step));
    nb::gil_scoped_release release;
    constexpr size_t kShare = 1 << 16;
    parallel_for(int((n + kShare - 1) / kShare), [&](int i) {
        const size_t at = i * kShare, count = std::min(kShare, n - at);
        kernels().adam(p.data() + at, m.data() + at, v.data() + at, g.data() + at, long(count), rate, correction);
    });
}

// Arrays [n, ...] of the state's leaves; those without a number in a row are left out.
std::vector<Rows> rows_of(const nb::sequence& leaves) {
    std::vector<Rows> arrays;
    for (nb::handle leaf : leaves) {
        const auto array = nb::cast<Out<float>>(leaf, false);
        const long count = array.ndim() ? long(array.shape(0)) : 0;
        if (count && array.size()) arrays.push_back({array.data(), count, long(array.size()) / count});
    }
    return arrays;
}

const int32_t* within(const std::vector<Rows>& arrays, const In<int32_t>& rows, const char* name) {
    long count = std::numeric_limits<int32_t>::max();
    for (const Rows& array : arrays) count = std::min(count, array.count);
    for (size_t i = 0; i < rows.size(); ++i)
        if (rows.data()[i] < 0 || rows.data()[i] >= count)
            throw nb::index_error(
                (std::string(name) + " holds " + std::to_string(rows.data()[i]) + ", there are " + std::to_string(count) + " rows")
                    .c_str());
    return rows.data();
}

void copy_leaf_rows(const nb::sequence& leaves, In<int32_t> to, In<int32_t> from) {
    const std::vector<Rows> arrays = rows_of(leaves);
    const int32_t *targets = within(arrays, to, "to"), *sources = within(arrays, from, "from");
    const long count = long(data(from, to.size(), "from") ? to.size() : 0);
    nb::gil_scoped_release release;
    gs::copy_rows(arrays, targets, sources, count);
}

void clear_leaf_rows(const nb::sequence& leaves, In<int32_t> rows) {
    const std::vector<Rows> arrays = rows_of(leaves);
    const int32_t* cleared = within(arrays, rows, "rows");
    nb::gil_scoped_release release;
    gs::clear_rows(arrays, cleared, long(rows.size()));
}

void give_back_rows(Out<float> array, long first) {
    const long count = array.ndim() ? long(array.shape(0)) : 0;
    if (count) gs::give_back({array.data(), count, long(array.size()) / count}, std::clamp(first, 0L, count));
}

void resample_photo(In<uint8_t> photo, In<double> x, In<double> y, bool wraps, Out<uint8_t> out) {
    if (photo.ndim() != 3 || photo.size() == 0 || photo.shape(2) > 4)
        throw nb::value_error(("photo must be [H, W, 1 to 4], got shape " + shape_of(photo.ndim(), photo.shape_ptr())).c_str());
    const Picture picture{photo.data(), long(photo.shape(1)), long(photo.shape(0)), long(photo.shape(2)), wraps};
    const double* down = data(y, x.size(), "y");
    uint8_t* to = data(out, x.size() * photo.shape(2), "out");
    nb::gil_scoped_release release;
    gs::resample(picture, x.data(), down, long(x.size()), to);
}

nb::dict statistics(Pipeline& p, bool reset) {
    static const char* stages[6] = {"project", "tiles", "forward", "loss", "backward", "update"};
    nb::dict d;
    for (int i = 0; i < 6; ++i) d[stages[i]] = p.stage_seconds[i];
    d["evaluations"] = p.forward_evaluations;
    d["backward_evaluations"] = p.backward_evaluations;
    d["intersections"] = p.intersections();
    d["workspace_bytes"] = p.bytes();
    if (reset) {
        std::fill_n(p.stage_seconds, 6, 0.0);
        p.forward_evaluations = p.backward_evaluations = 0;
    }
    return d;
}

// Defines a method whose arrays are taken as they are or not at all: a converted copy of an output would be filled and lost.
template <class T>
struct Argument {
    static constexpr auto make() { return nb::arg(); }
};
template <class... A>
struct Argument<nb::ndarray<A...>> {
    static constexpr auto make() { return nb::arg().noconvert(); }
};
template <class... A>
struct Argument<std::optional<nb::ndarray<A...>>> {
    static constexpr auto make() { return nb::arg().noconvert().none(); }
};
template <class R, class... A>
void define(nb::class_<Pipeline>& type, const char* name, R (*function)(Pipeline&, A...)) {
    type.def(name, function, Argument<A>::make()...);
}

}  // namespace

NB_MODULE(_csrc, m) {
    m.doc() = "The stages of gsplat_train on CPU threads with SIMD. Arrays are NumPy's; see gsplat_train/backends/cpp.py.";
    nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
        try {
            std::rethrow_exception(thrown);
        } catch (const InputError& error) {
            PyErr_SetString(nb::module_::import_("gsplat_train.errors").attr("UserError").ptr(), error.what());
        }
    });
    m.def("simd", [] { return std::string(kernels().name); }, "The instruction set in use.");
    m.def(
        "instruction_sets",
        [] {
            nb::list names;
            for (const char* s : instruction_sets()) names.append(s);
            return names;
        },
        "The instruction sets that can be chosen here with GS_SIMD, best first.");
    m.def(
        "plane_shape", [](int width, int height) { return nb::make_tuple(plane_rows(height), plane_stride(width)); },
        "(rows, stride) of a photo's planes as loss and train_step take it.");
    m.def("copy_rows", &copy_leaf_rows, nb::arg("leaves"), nb::arg("to").noconvert(), nb::arg("source").noconvert(),
          "Row to[i] of every array [n, ...] becomes its row source[i]; no row is named in both.");
    m.def("clear_rows", &clear_leaf_rows, nb::arg("leaves"), nb::arg("rows").noconvert(), "The rows of every array become zero.");
    m.def("give_back", &give_back_rows, nb::arg("array").noconvert(), nb::arg("first"),
          "The memory behind row `first` goes back to the system until somebody writes there.");
    m.def("resample", &resample_photo, nb::arg("photo").noconvert(), nb::arg("x").noconvert(), nb::arg("y").noconvert(),
          nb::arg("wraps"), nb::arg("out").noconvert(),
          "A photo [H, W, C] at the places (x, y) [n], into out [n, C]: bicubic, edges clamped; see datasets/undistort.py.");
    m.def("threads", &thread_count);
    m.def("set_threads", &set_thread_count);
    m.def("adam", &adam, nb::arg("p").noconvert(), nb::arg("m").noconvert(), nb::arg("v").noconvert(), nb::arg("g").noconvert(),
          nb::arg("lr"), nb::arg("step"));
    nb::class_<Shot>(m, "Shot", "A view's camera and photo, as train_step takes them.")
        .def(nb::init<In<float>, In<float>, long, long, In<uint8_t>, std::optional<In<uint8_t>>, std::optional<In<uint8_t>>>(),
             nb::arg("viewmat").noconvert(), nb::arg("K").noconvert(), nb::arg("width"), nb::arg("height"),
             nb::arg("target").noconvert(), nb::arg("mask").noconvert().none(), nb::arg("alpha").noconvert().none() = nb::none())
        .def("look", &Shot::look, nb::arg("viewmat").noconvert());
    nb::class_<StepPlan>(m, "StepPlan", "What a step does; the fields are those of gsplat_train.training.plan.StepPlan.")
        .def(nb::init<>())
        .def_rw("number", &StepPlan::number)
        .def_rw("views", &StepPlan::views)
        .def_rw("sh_degree", &StepPlan::sh_degree)
        .def_rw("rates", &StepPlan::rates)
        .def_rw("ssim_lambda", &StepPlan::ssim_lambda)
        .def_rw("opacity_weight", &StepPlan::opacity_weight)
        .def_rw("scale_weight", &StepPlan::scale_weight)
        .def_rw("noise", &StepPlan::noise)
        .def_rw("background", &StepPlan::background)
        .def_rw("seed", &StepPlan::seed)
        .def_rw("antialiased", &StepPlan::antialiased)
        .def_rw("absgrad", &StepPlan::absgrad)
        .def_rw("exposure", &StepPlan::exposure)
        .def_rw("pose", &StepPlan::pose);
    nb::class_<Pipeline> pipeline(m, "Pipeline");
    pipeline.def(nb::init<>()).def("bin", &bin).def("statistics", &statistics, nb::arg("reset") = false);
    define(pipeline, "project", &project);
    define(pipeline, "project_vjp", &project_vjp);
    define(pipeline, "load_splats", &load_splats);
    define(pipeline, "store_tiles", &store_tiles);
    define(pipeline, "load_tiles", &load_tiles);
    define(pipeline, "forward", &forward);
    define(pipeline, "backward", &backward);
    define(pipeline, "loss", &loss);
    define(pipeline, "score", &score);
    pipeline.def("train_step", &train_step, nb::arg("gaussians"), nb::arg("m"), nb::arg("v"), nb::arg("shot"), nb::arg("plan"),
                 nb::arg("sums").none());
    pipeline.def("view_gradients", &view_gradients, nb::arg("gaussians"), nb::arg("shot"), nb::arg("plan"),
                 nb::arg("view").noconvert());
    pipeline.def("combine", &combine, nb::arg("gaussians"), nb::arg("m"), nb::arg("v"), nb::arg("views").noconvert(),
                 nb::arg("positions").noconvert(), nb::arg("plan"), nb::arg("sums").none());
}
