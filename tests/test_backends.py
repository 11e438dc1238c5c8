# SPDX-License-Identifier: Apache-2.0
"""Every backend, stage by stage and as a whole, against the oracle; odd input; how backends are found."""

import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import reference
from compare import TOLERANCES, assert_finite, assert_image, relative
from conftest import load_backend
from scenes import camera, needles, scene, to_mlx

from gsplat_train import backends
from gsplat_train.backends import Projected
from gsplat_train.errors import BackendUnavailable, UserError
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.renderer import render

SIZES = [(40, 28), (16, 16), (17, 33), (1, 1), (65, 30)]


def mixed(view, degree=3):
    """What occurs: splats inside, across and beyond the border, behind the camera, long ones, faint ones."""
    gaussians = scene(view, 80, seed=1, degree=degree, spread=1.7, size=4)
    behind = view.viewmat[:3, :3].T @ [0, 0, -4]
    gaussians["means"][:10] = np.float32(gaussians["means"][:10] + behind)
    gaussians["log_scales"][10:20, 0] += 1.5
    gaussians["logit_opacities"][20:30] = np.float32(np.linspace(-6, -5, 10))
    return gaussians


def to_projected(splats):
    """The oracle's splats as the stages take them."""
    splats = splats | {"radii": splats["radii"] * splats["visible"][:, None]}
    types = {name: mx.int32 if name == "radii" else mx.float32 for name in Projected._fields}
    return Projected(**{name: mx.array(splats[name]).astype(kind) for name, kind in types.items()})


# ---- stages ----


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [3, 1])
def test_project(backend, antialiased, degree):
    view = camera()
    gaussians = mixed(view)
    expected = reference.project(gaussians, view, degree, antialiased)
    visible = expected["visible"]
    assert 30 < visible.sum() < 70
    found = backend.project(
        to_mlx(gaussians),
        view.viewmat,
        view.K,
        view.width,
        view.height,
        sh_degree=degree,
        antialiased=antialiased,
    )
    radii = np.asarray(found.radii)
    np.testing.assert_array_equal((radii > 0).all(axis=1), visible)
    assert not radii[~visible].any()
    assert np.abs(radii - expected["radii"])[visible].max() <= 1  # of a rounded-up float32
    for name in ("means2d", "conics", "depths", "colors", "opacities"):
        error = relative(np.asarray(getattr(found, name))[visible], expected[name][visible])
        assert error < TOLERANCES["stage"], name


def test_near_plane(backend):
    view = camera()
    gaussians = scene(view, 2)
    gaussians["means"] = view.position + np.array([[0.00995], [0.01005]]) * view.camtoworld[:3, 2]
    gaussians["log_scales"][:] = -9
    found = backend.project(to_mlx(gaussians), view.viewmat, view.K, 40, 28, sh_degree=3, antialiased=False)
    np.testing.assert_array_equal((np.asarray(found.radii) > 0).all(axis=1), [False, True])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_isect_tiles(backend, width, height):
    view = camera(width, height)
    splats = reference.project(mixed(view), view, 3)
    splats["depths"] = np.round(splats["depths"], 1)  # many equal ones
    tiles = backend.isect_tiles(to_projected(splats), width, height)
    ids, offsets = np.asarray(tiles.ids), np.asarray(tiles.offsets)
    columns, rows = -(-width // 16), -(-height // 16)
    assert ids.dtype == offsets.dtype == np.int32
    assert offsets.shape == (columns * rows + 1,) and offsets[0] == 0 and offsets[-1] == len(ids)

    lists = [list(ids[offsets[t] : offsets[t + 1]]) for t in range(columns * rows)]
    for members in lists:
        in_order = sorted(set(members), key=lambda i: (np.float32(splats["depths"][i]), i))
        assert members == in_order, "by depth, equal depths by index, each once"
    for i in range(len(splats["depths"])):
        alpha = (
            reference.alphas(splats, i, width, height) if splats["visible"][i] else np.zeros((height, width))
        )
        low, high = splats["means2d"][i] - splats["radii"][i], splats["means2d"][i] + splats["radii"][i]
        for t, members in enumerate(lists):
            y, x = divmod(t, columns)
            corner = 16 * np.array([x, y])
            if (alpha[16 * y : 16 * y + 16, 16 * x : 16 * x + 16] > 1.0001 / 255).any():
                assert i in members, "a splat that is seen in a tile must be there"
            if (high < corner).any() or (low > corner + 16).any() or not splats["visible"][i]:
                assert i not in members, "outside of its box no splat is seen"


def test_tile_lists_are_tight(backend):
    view = camera(128, 128, focal=100)
    gaussians = scene(view, 30, seed=2, size=3)
    gaussians["log_scales"][:, 0] += 2  # long and thin, at an angle: boxes are far too wide
    splats = reference.project(gaussians, view, 3)
    seen = 0
    for i in range(30):
        alpha = reference.alphas(splats, i, 128, 128)
        seen += (alpha.reshape(8, 16, 8, 16).max(axis=(1, 3)) >= 1 / 255).sum()
    listed = len(np.asarray(backend.isect_tiles(to_projected(splats), 128, 128).ids))
    assert seen <= listed <= 1.1 * seen


def tiles_seen(gaussians, view, least):
    """[N, tiles] whether a pixel of the tile has more than `least` of 1/255 of the splat, by the oracle."""
    splats = reference.project(gaussians, view, 0)
    best = [reference.alphas(splats, i, view.width, view.height) for i in range(len(splats["depths"]))]
    best = np.stack(best).reshape(len(best), view.height // 16, 16, view.width // 16, 16).max(axis=(2, 4))
    return (best.reshape(len(best), -1) > least / 255) & splats["visible"][:, None]


def tiles_listed(ids, offsets, n):
    """[N, tiles] whether the tile's list has the splat."""
    listed = np.zeros((n, len(offsets) - 1), bool)
    listed[ids, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))] = True
    return listed


@pytest.mark.parametrize("width", [112, 208])
def test_needles_lose_no_tile(width, backend):
    """A thousand times as long as thick: the terms of the conic's quadratic form are 1e5 times their sum, of
    which float32 then holds all but some percent."""
    gaussians, view = needles(width, 112, 100, 400, 600)
    projected = backend.project(
        to_mlx(gaussians), view.viewmat, view.K, width, 112, sh_degree=0, antialiased=False
    )
    tiles = backend.isect_tiles(projected, width, 112)
    listed = tiles_listed(np.asarray(tiles.ids), np.asarray(tiles.offsets), 100)
    seen = tiles_seen(gaussians, view, 1.1)
    assert seen.sum() > 700 and not (seen & ~listed).any()
    assert listed.sum() < 1.02 * tiles_seen(gaussians, view, 0.9).sum()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_rasterize(backend, width, height):
    view = camera(width, height)
    splats = reference.project(mixed(view), view, 3)
    projected, background = to_projected(splats), [0.1, 0.7, 0.4]
    tiles = backend.isect_tiles(projected, width, height)
    image, alpha = backend.rasterize(projected, tiles, mx.array(background), width, height)
    expected_image, expected_alpha = reference.blend(splats, width, height, background)
    assert_image(image, expected_image)
    assert_image(alpha, expected_alpha)


def test_a_pixel_ends_before_its_transmittance_would_fall_too_low(backend):
    view = camera(32, 32)
    gaussians = scene(view, 60, seed=3, size=20, opacity=3, spread=0.3)
    splats = reference.project(gaussians, view, 3)
    everything = 1 - np.prod([1 - reference.alphas(splats, i, 32, 32) for i in range(60)], axis=0)
    expected_image, expected_alpha = reference.blend(splats, 32, 32)
    assert everything.min() > 1 - 1e-6 and expected_alpha.max() < 1 - 1e-4  # the rule is at work everywhere
    projected = to_projected(splats)
    tiles = backend.isect_tiles(projected, 32, 32)
    image, alpha = backend.rasterize(projected, tiles, mx.zeros(3), 32, 32)
    assert_image(image, expected_image)
    assert_image(alpha, expected_alpha)
    assert float(alpha.max()) < 1 - 0.9e-4


def test_adam(backend):
    rng = np.random.default_rng(0)
    names, lrs = Gaussians._fields, dict(zip(Gaussians._fields, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], strict=True))
    start = scene(camera(), 7)
    params = to_mlx(start)
    m, v = (Gaussians(*(mx.zeros_like(leaf) for leaf in params)) for _ in range(2))
    p64 = {name: start[name].copy() for name in names}
    m64, v64 = ({name: np.zeros_like(start[name]) for name in names} for _ in range(2))
    for step in (1, 2, 3):
        grads = {name: rng.normal(size=start[name].shape) * 10.0 ** rng.integers(-8, 2) for name in names}
        grads["quats"][0] = 0  # never seen: stays where it is
        params, m, v = backend.adam(params, to_mlx(grads), m, v, lrs, step)
        for name in names:
            g = np.float32(grads[name]).astype(np.float64)
            m64[name], v64[name] = 0.9 * m64[name] + 0.1 * g, 0.999 * v64[name] + 0.001 * g * g
            change = m64[name] / (1 - 0.9**step) / (np.sqrt(v64[name] / (1 - 0.999**step)) + 1e-15)
            p64[name] -= lrs[name] * change
    for name in names:
        assert relative(getattr(params, name), p64[name]) < TOLERANCES["stage"], name
        assert relative(getattr(m, name), m64[name]) < TOLERANCES["stage"], name
        assert relative(getattr(v, name), v64[name]) < TOLERANCES["stage"], name
    np.testing.assert_array_equal(np.asarray(params.quats)[0], np.float32(start["quats"][0]))


# ---- the whole renderer ----


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_render(backend, width, height, antialiased):
    view = camera(width, height)
    gaussians, background = mixed(view), [0.3, 0.2, 0.9]
    output = render(to_mlx(gaussians), view, backend, background=background, antialiased=antialiased)
    image, alpha = reference.render(gaussians, view, background=background, antialiased=antialiased)
    assert_image(output.image, image)
    assert_image(output.alpha, alpha)


@pytest.mark.parametrize("degree", range(4))
def test_render_takes_fewer_bands_a_dict_and_any_background(backend, degree):
    view = camera()
    gaussians = mixed(view)
    expected, _ = reference.render(gaussians, view, sh_degree=degree, background=[1, 0.5, 0])
    for background in ([1, 0.5, 0], np.array([1, 0.5, 0]), mx.array([1, 0.5, 0])):
        output = render(to_mlx(gaussians)._asdict(), view, backend, degree, background)
        assert_image(output.image, expected)


def test_render_gives_gradients_to_a_dict(backend):
    view = camera()
    gaussians = to_mlx(mixed(view))
    as_dict = mx.grad(lambda g: render(g, view, backend).image.sum())(gaussians._asdict())
    as_tree = mx.grad(lambda g: render(g, view, backend).image.sum())(gaussians)
    for name in Gaussians._fields:
        # To rounding: MLX adds up on a GPU in any order.
        assert relative(np.asarray(as_dict[name]), np.asarray(getattr(as_tree, name))) < 1e-5, name
    assert np.asarray(as_tree.means).any()


def test_the_reference_needs_little_memory():
    """64 tiles with 500 splats each: an array of all alphas is 33 MB, and the VJP makes some thirty such."""
    view, n = camera(128, 128, focal=100), 500
    gaussians = to_mlx(scene(view, n, degree=0, size=100, opacity=-3))
    python = load_backend("python")
    mx.eval(mx.grad(lambda g: render(g, view, python).image.sum())(to_mlx(scene(view, 1, degree=0))))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.grad(lambda g: render(g, view, python).image.sum())(gaussians))
    assert mx.get_peak_memory() - before < 100e6


def test_render_says_what_is_wrong():
    view = camera()
    gaussians = to_mlx(scene(view, 3, degree=1))
    with pytest.raises(UserError, match="sh_degree must be 0 to 1"):
        render(gaussians, view, "python", sh_degree=2)
    with pytest.raises(UserError, match="background must be"):
        render(gaussians, view, "python", background=[1, 2])
    with pytest.raises(UserError, match="backend must be auto, metal, cuda, cpp, python, got vulkan"):
        render(gaussians, view, "vulkan")


# ---- odd input ----


def spoil(gaussians, **rows):
    """The scene with its row 0 replaced in the named arrays."""
    for name, values in rows.items():
        gaussians[name][0] = values
    return gaussians


def nothing_seen(view):
    gaussians = scene(view, 5, seed=4)
    gaussians["means"] = gaussians["means"] + view.viewmat[:3, :3].T @ [0, 0, -10]
    return gaussians


ODD = {
    "none": lambda view: scene(view, 0),
    "one": lambda view: scene(view, 1),
    "two": lambda view: scene(view, 2),
    "nothing seen": nothing_seen,
    "zero quats": lambda view: scene(view, 6) | {"quats": np.zeros((6, 4))},
    "at the camera": lambda view: spoil(scene(view, 6), means=view.position),
    "just before the near plane": lambda view: spoil(
        scene(view, 6), means=view.position + 0.0101 * view.camtoworld[:3, 2], log_scales=-9
    ),
    "NaN mean": lambda view: spoil(scene(view, 6), means=np.nan),
    "infinite mean": lambda view: spoil(scene(view, 6), means=[np.inf, 0, 1]),
    "NaN scale": lambda view: spoil(scene(view, 6), log_scales=np.nan),
    "NaN quat": lambda view: spoil(scene(view, 6), quats=np.nan),
    "NaN opacity": lambda view: spoil(scene(view, 6), logit_opacities=np.nan),
    "endless scale": lambda view: spoil(scene(view, 6), log_scales=200),
    "overflowing scale": lambda view: spoil(
        scene(view, 6), log_scales=35
    ),  # its square is infinite in float32
    "huge scale": lambda view: spoil(scene(view, 6), log_scales=12),
    "no scale": lambda view: spoil(scene(view, 6), log_scales=-60),
    "flat": lambda view: spoil(scene(view, 6), log_scales=[-60, -2, -60]),
    "opaque": lambda view: spoil(scene(view, 6), logit_opacities=100),
    "clear": lambda view: spoil(scene(view, 6), logit_opacities=-100),
}


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
@pytest.mark.parametrize("case", ODD)
def test_odd_input_gives_nothing_odd(backend, case, antialiased):
    view = camera()
    gaussians = ODD[case](view)
    n = len(gaussians["means"])

    def loss(gaussians, background, means2d_probe, absgrad_probe):
        output = render(
            gaussians,
            view,
            backend,
            background=background,
            antialiased=antialiased,
            means2d_probe=means2d_probe,
            absgrad_probe=absgrad_probe,
        )
        return (output.image**2).sum() + output.alpha.sum(), (output.image, output.alpha)

    (value, (image, alpha)), gradients = mx.value_and_grad(lambda *args: loss(*args), argnums=(0, 1, 2, 3))(
        to_mlx(gaussians), mx.array([0.2, 0.5, 0.8]), mx.zeros((n, 2)), mx.zeros((n, 2))
    )
    assert_finite(value, image, alpha, *gradients[0], *gradients[1:])
    expected = {name: values.astype(np.float64) for name, values in gaussians.items()}
    if case.startswith(
        ("NaN", "infinite", "endless", "overflowing")
    ):  # a Gaussian that is not finite is not there
        assert not any(np.asarray(leaf)[0].any() for leaf in gradients[0])
        expected = {name: values[1:] for name, values in expected.items()}
    assert_image(image, reference.render(expected, view, None, [0.2, 0.5, 0.8], antialiased)[0])


# ---- how backends are found ----


def test_a_backend_defines_every_stage(backend):
    for name in ("project", "isect_tiles", "rasterize", "photometric_loss", "adam"):
        assert callable(getattr(backend, name))


def test_auto_is_the_first_that_runs_here():
    reasons = backends.available()
    assert list(reasons) == ["metal", "cuda", "cpp", "python"] and reasons["python"] is None
    assert backends.choose("auto") == next(name for name in reasons if reasons[name] is None)
    assert backends.load("auto") is backends.load(backends.choose())


@pytest.mark.parametrize("name", ["metal", "cuda", "cpp"])
def test_an_absent_backend_says_so_in_one_line(name, monkeypatch):
    monkeypatch.setattr(backends.util, "find_spec", lambda path: None)
    with pytest.raises(BackendUnavailable) as error:
        backends.load(name)
    text = str(error.value)
    assert text.startswith(f"{name} needs ") and "Try --backend" in text and "\n" not in text
    assert f"--backend {name}" not in text


def test_a_compiled_module_that_does_not_load_says_why(monkeypatch):
    def broken(path):
        raise ImportError("undefined symbol: xyz", name="gsplat_train._csrc")

    monkeypatch.setattr(backends.util, "find_spec", lambda path: True)
    monkeypatch.setattr(backends.registry, "import_module", broken)
    with pytest.raises(BackendUnavailable, match="undefined symbol: xyz"):
        backends.load("cpp")


def test_bugs_in_a_backend_are_not_hidden(monkeypatch):
    def broken(path):
        raise ImportError("cannot import name 'typo'", name="gsplat_train.model.sh")

    monkeypatch.setattr(backends.registry, "import_module", broken)
    with pytest.raises(ImportError, match="typo"):
        backends.load("python")


def test_missing_and_doubled_mlx_are_said_in_one_line(monkeypatch):
    backends.check_mlx()
    monkeypatch.setattr(backends, "_installed", lambda name: name in ("mlx-cpu", "mlx-cuda-12"))
    with pytest.raises(UserError, match="mlx-cpu and mlx-cuda-12 are installed together") as error:
        backends.check_mlx()
    assert "\n" not in str(error.value)

    def without_library(path):
        raise ImportError("libmlx.so: cannot open shared object file")

    monkeypatch.setattr(backends, "_installed", lambda name: False)
    monkeypatch.setattr(backends.platform, "system", lambda: "Linux")
    monkeypatch.setattr(backends, "import_module", without_library)
    with pytest.raises(UserError, match=r"MLX does not load \(libmlx.so.*pip install gsplat-train\[cpu\]"):
        backends.check_mlx()
    monkeypatch.setattr(backends, "_installed", lambda name: name == "mlx-cuda-13")
    with pytest.raises(BackendUnavailable, match=r"mlx-cuda-13 needs an NVIDIA GPU .*libmlx.so"):
        backends.check_mlx()
    monkeypatch.setattr(backends.util, "find_spec", lambda path: None)
    with pytest.raises(UserError, match="MLX is not installed; run: pip install gsplat-train"):
        backends.check_mlx()


def test_gs_require_turns_a_skip_into_a_failure(monkeypatch):
    monkeypatch.setattr(backends.util, "find_spec", lambda path: None)
    monkeypatch.setenv("GS_REQUIRE", "")
    with pytest.raises(pytest.skip.Exception):
        load_backend("cuda")
    monkeypatch.setenv("GS_REQUIRE", "cpp,cuda")
    with pytest.raises(pytest.fail.Exception, match="GS_REQUIRE asks for cuda"):
        load_backend("cuda")


@pytest.mark.parametrize(("reported", "expected"), [(None, "0"), ("1", "1")])
def test_products_of_matrices_are_not_rounded_unasked(reported, expected):
    """MLX would multiply in TF32; tests of `python` on such a GPU fail then."""
    environment = {name: value for name, value in os.environ.items() if name != "MLX_ENABLE_TF32"}
    environment |= {} if reported is None else {"MLX_ENABLE_TF32": reported}
    code = "import os, gsplat_train; print(os.environ['MLX_ENABLE_TF32'])"
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, env=environment, text=True).strip() == expected
