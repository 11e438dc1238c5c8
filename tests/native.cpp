// SPDX-License-Identifier: Apache-2.0
// The native code without Python, for sanitizers and emulated processors: a short training and the hard scenes of
// test_cpp_module.py, on 1, 2 and 3 threads.
//
//     native_test --list         says which instruction sets it can run
//     native_test OUT            writes what it computed to OUT
//     native_test OUT REFERENCE  and compares it with what another instruction set wrote (GS_SIMD chooses)
//
// Exit code 0: the loss fell, nothing was NaN, every number of threads gave the same bytes, the files agree.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../csrc/cpu/parallel.h"
#include "../csrc/cpu/pipeline.h"

namespace {

using gs::CameraParams;
using Floats = std::vector<float>;

constexpr int kRows = 15;  // of shN: degree 3
constexpr int kColumns[6] = {3, 4, 3, 1, 3, 3 * kRows};
constexpr float kBlack[3] = {0, 0, 0};
constexpr float kColour[3] = {0.9f, 0.3f, 0.6f};

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "native_test: %s\n", what);
        std::exit(1);
    }
}

struct Model {
    Floats leaf[6];
    explicit Model(long n) {
        for (int i = 0; i < 6; ++i) leaf[i].assign(size_t(n) * kColumns[i], 0.0f);
    }
    gs::Params params() { return {leaf[0].data(), leaf[1].data(), leaf[2].data(), leaf[3].data(), leaf[4].data(), leaf[5].data()}; }
};

// Gaussians around (0, 0, depth), `spread` wide.
Model random_model(long n, float spread, float depth, float log_scale, float logit) {
    std::mt19937 bits(7);  // the generator is defined exactly, the distributions of the library are not
    const auto uniform = [&] { return float(bits() >> 8) / float(1 << 23) - 1.0f; };
    Model model(n);
    for (int i = 0; i < 6; ++i)
        for (float& x : model.leaf[i]) x = uniform() * (i == 5 ? 0.1f : 1.0f);
    for (long i = 0; i < n; ++i) {
        for (int c = 0; c < 3; ++c) {
            float& mean = model.leaf[0][3 * i + c];
            mean = spread * mean + (c == 2 ? depth : 0.0f);
            model.leaf[2][3 * i + c] = log_scale + 0.3f * model.leaf[2][3 * i + c];
        }
        model.leaf[3][i] = logit + model.leaf[3][i];
    }
    return model;
}

// Lines nearly level along the lower border of a picture, most of them just outside.
Model lines(long n) {
    Model model = random_model(n, 0.3f, 3.0f, -8.0f, -3.0f);
    for (long i = 0; i < n; ++i) {
        float *mean = &model.leaf[0][3 * i], *quat = &model.leaf[1][4 * i];
        mean[1] = 3.0f * (0.009f + 0.01f * mean[1]), mean[2] = 3.0f;
        quat[0] = 1, quat[1] = quat[2] = 0, quat[3] *= 0.02f;
        model.leaf[2][3 * i] = 0.0f;
    }
    return model;
}

CameraParams camera(int width, int height) {
    CameraParams c = {};
    c.r[0] = c.r[4] = c.r[8] = 1;
    c.fx = c.fy = float(width);
    c.cx = 0.5f * width, c.cy = 0.5f * height;
    c.width = width, c.height = height;
    return c;
}

// A photo in planes, padded to whole tiles: waves.
std::vector<uint8_t> photo(int width, int height) {
    const int stride = gs::plane_stride(width), rows = gs::plane_rows(height);
    std::vector<uint8_t> planes(size_t(3) * rows * stride);
    for (int c = 0; c < 3; ++c)
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x) planes[(size_t(c) * rows + y) * stride + x] = uint8_t(((x * (c + 2)) ^ (y * 3)) & 0xFF);
    return planes;
}

// Trains; returns the losses, then all parameters, then the statistics.
Floats train(Model model, int width, int height, int steps) {
    const long n = long(model.leaf[3].size());
    const CameraParams view = camera(width, height);
    const std::vector<uint8_t> target = photo(width, height);
    Model m(n), v(n);
    Floats norm(n), absolute(n), count(n), result;
    gs::Pipeline pipeline;
    for (int step = 1; step <= steps; ++step) {
        pipeline.project(model.params(), n, 3, kRows, view, false);
        pipeline.bin();
        pipeline.forward(kBlack);
        result.push_back(float(pipeline.loss(target.data(), 0.2f).loss));
        pipeline.backward(false, true);
        gs::StepSettings s = {};
        std::fill_n(s.lr, 6, 5e-3f);
        s.step = step;
        s.opacity_reg = s.scale_reg = 0.01f;
        s.noise_scale = 1.0f, s.noise_seed = 3;
        s.absgrad = true;
        s.stat_norm = norm.data(), s.stat_abs = absolute.data(), s.stat_count = count.data();
        require(pipeline.update(model.params(), {m.params(), v.params()}, 3, kRows, view, false, s), "a gradient was not finite");
    }
    for (const Floats* part :
         {&model.leaf[0], &model.leaf[1], &model.leaf[2], &model.leaf[3], &model.leaf[4], &model.leaf[5], &norm, &absolute, &count})
        result.insert(result.end(), part->begin(), part->end());
    return result;
}

// The picture and the gradients of its first step, for comparing instruction sets: no chaos has grown yet.
Floats first_step(Model model, int width, int height) {
    const long n = long(model.leaf[3].size());
    const CameraParams view = camera(width, height);
    const std::vector<uint8_t> target = photo(width, height);
    Floats v_means2d(2 * n), v_conics(3 * n), v_colors(3 * n), v_opacities(n), v_depths(n);
    gs::Pipeline pipeline;
    pipeline.project(model.params(), n, 3, kRows, view, false);
    pipeline.bin();
    pipeline.forward(kBlack);
    Floats result(pipeline.planes().image, pipeline.planes().image + 3 * pipeline.plane_size());
    std::vector<uint8_t> mask(pipeline.plane_size());
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) mask[size_t(y) * pipeline.planes().stride + x] = (x / 7 + y / 5) % 2;
    Floats image(size_t(3) * width * height);
    std::vector<uint8_t> shot(image.size()), counts(size_t(width) * height), picture(image.size());
    for (size_t i = 0; i < image.size(); ++i) image[i] = float(i % 259) / 250.0f - 0.02f, shot[i] = uint8_t(i * 7);
    for (size_t i = 0; i < counts.size(); ++i) counts[i] = i / 11 % 2;
    pipeline.score(width, height, image.data(), nullptr, nullptr, picture.data());
    const gs::ScoreValue score = pipeline.score(width, height, image.data(), shot.data(), counts.data(), picture.data());
    result.push_back(float(score.squares) / (255.0f * 255.0f * float(score.counting)));
    result.push_back(float(score.ssim) / float(score.counting));
    pipeline.loss(target.data(), 0.2f, mask.data());
    for (size_t i = 0; i < 3 * pipeline.plane_size(); ++i) {
        const float v = pipeline.v_image()[i] * float(width * height);
        require(v == 0.0f || mask[i % pipeline.plane_size()], "a pixel that does not count has a gradient");
        result.push_back(v);
    }
    std::vector<uint8_t> alpha(pipeline.plane_size(), 255);  // in the padding too
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) alpha[size_t(y) * pipeline.planes().stride + x] = uint8_t(x * 5 + y * 3);
    pipeline.forward(kColour);
    for (const uint8_t* counting : {static_cast<const uint8_t*>(nullptr), static_cast<const uint8_t*>(mask.data())})
        result.push_back(float(pipeline.loss(target.data(), 0.2f, counting, alpha.data(), kColour).loss));
    pipeline.forward(kBlack);
    pipeline.loss(target.data(), 0.2f);
    pipeline.backward(false, false);
    pipeline.splat_gradients(v_means2d.data(), v_conics.data(), v_colors.data(), v_opacities.data(), nullptr);
    Model gradients(n);
    pipeline.project_vjp(model.params(), gradients.params(), 3, kRows, view, false, v_means2d.data(), v_conics.data(),
                         v_depths.data(), v_colors.data(), v_opacities.data());
    for (const Floats& part : gradients.leaf) result.insert(result.end(), part.begin(), part.end());
    return result;
}

Floats all() {
    const Model ordinary = random_model(700, 1.0f, 3.0f, -3.0f, 0.0f);
    Floats trained = train(ordinary, 72, 50, 8);
    require(trained[7] < 0.95f * trained[0], "the loss did not fall");
    Floats result = first_step(ordinary, 72, 50);
    for (const float x : result) require(std::isfinite(x), "the first step is not finite");
    const struct {
        long n;
        float spread, depth, log_scale, logit;
    } hard[] = {
        {3000, 0.01f, 3.0f, -5.0f, 8.0f},  // opaque, all on one tile
        {1, 0.0f, 3.0f, 2.0f, 0.0f},       // one that covers the image
        {40, 0.5f, -3.0f, -3.0f, 0.0f},    // behind the camera
        {0, 0.0f, 0.0f, 0.0f, 0.0f},      {1, 0.1f, 3.0f, -3.0f, 0.0f}, {2, 0.1f, 3.0f, -3.0f, 0.0f},
    };
    for (const auto& h : hard) {
        const Floats part = train(random_model(h.n, h.spread, h.depth, h.log_scale, h.logit), 50, 34, 3);
        for (const float x : part) require(std::isfinite(x), "a hard scene is not finite");
        trained.insert(trained.end(), part.begin(), part.end());
    }
    train(lines(2000), 1024, 16, 1);  // boxes of 64 tiles in a row: as many as a mask has bits
    Floats both = {float(result.size())};
    both.insert(both.end(), result.begin(), result.end());
    both.insert(both.end(), trained.begin(), trained.end());
    return both;
}

Floats read(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    require(file != nullptr, "cannot read the reference");
    Floats values;
    for (float x; std::fread(&x, sizeof x, 1, file) == 1;) values.push_back(x);
    std::fclose(file);
    return values;
}

}  // namespace

int main(int count, char** arguments) {
    require(count == 2 || count == 3, "usage: native_test --list | OUT [REFERENCE]");
    if (!std::strcmp(arguments[1], "--list")) {
        for (const char* name : gs::instruction_sets()) std::printf("%s ", name);
        return 0;
    }
    Floats result;
    for (int threads = 1; threads <= 3; ++threads) {
        gs::set_thread_count(threads);
        Floats again = all();
        require(threads == 1 || (again.size() == result.size() && !std::memcmp(again.data(), result.data(), 4 * again.size())),
                "another number of threads gave other bytes");
        result = std::move(again);
    }
    std::FILE* file = std::fopen(arguments[1], "wb");
    require(file && std::fwrite(result.data(), sizeof(float), result.size(), file) == result.size(), "cannot write OUT");
    std::fclose(file);
    if (count == 3) {
        const Floats reference = read(arguments[2]);
        require(reference.size() == result.size(), "the reference has another size");
        double error = 0, norm = 0;
        for (size_t i = 1; i <= size_t(result[0]); ++i) {
            error += std::pow(double(result[i]) - reference[i], 2);
            norm += std::pow(double(reference[i]), 2);
        }
        const double relative = std::sqrt(error / norm);
        std::printf("%s: relative difference of picture and gradients %.2g\n", gs::kernels().name, relative);
        require(relative < 2e-5, "instruction sets differ by more than 2e-5");  // float32 sums in another order
        return 0;
    }
    std::printf("%s: ok\n", gs::kernels().name);
    return 0;
}
