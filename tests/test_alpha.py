# SPDX-License-Identifier: Apache-2.0
"""See-through photos: training, measuring and pictures lay them over the background that the render has."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
from conftest import load_backend
from PIL import Image
from plans import EVERYTHING, plan, take
from test_cli import SHORT, call

from gsplat_train import train
from gsplat_train.datasets.decode import dim
from gsplat_train.datasets.demo import write_demo
from gsplat_train.evaluate.measure import measure
from gsplat_train.renderer import render
from gsplat_train.scene import Photo, Scene
from gsplat_train.training import rows
from gsplat_train.training.alive import psnr_of_one_colour
from gsplat_train.training.objective import Objective
from gsplat_train.training.photos import reduce
from gsplat_train.training.stepper import GenericStepper, make_stepper

WHITE, GREEN = (1.0, 1.0, 1.0), (0.1, 0.9, 0.4)
COLOURS = [(0.2, 0.5, 0.9), WHITE, (0.0, 0.0, 0.0), GREEN]  # of steps, as with background=random


def see_through(view, mask=None, alpha=None):
    """The view's photo cut out by a gradual alpha: opaque on the left, gone on the right."""
    height, width = view.pixels.image.shape[:2]
    if alpha is None:
        alpha = np.clip(np.linspace(400, -150, width), 0, 255).astype(np.uint8)[None].repeat(height, axis=0)
    return replace(view, photo=Photo(dim(view.pixels.image, alpha), mask, alpha))


def laid(view, background):
    """The view as somebody would convert it by hand."""
    return replace(view, photo=Photo(view.pixels.shown(background), view.mask))


def towards():
    first = tiny.scene().views[0]
    return replace(first, camera=replace(first.camera, viewmat=np.eye(4)))


def mask():
    counts = np.ones((36, 48), np.uint8)
    counts[10:20, 5:30] = 0
    return counts


def numbers(state):
    return [np.array(leaf) for tree in (state.gaussians, state.m, state.v) for leaf in tree]


def stepped(backend, view, steps=3, **changes):
    stepper = make_stepper(backend, rows.start(tiny.random_gaussians(60)), Objective())
    result = take(stepper, view, steps, sh_degree=1, **changes)
    return numbers(stepper.look()), result


# ---- a photo over a colour ----


def test_a_photo_over_a_colour():
    alpha = np.array([[255, 128, 0]], np.uint8)
    photo = Photo(dim(np.full((1, 3, 3), 200, np.uint8), alpha), alpha=alpha)
    np.testing.assert_array_equal(photo.shown((0, 0, 0)), photo.image)
    np.testing.assert_array_equal(photo.shown(WHITE)[0, :, 0], [200, 227, 255])
    np.testing.assert_allclose(photo.over((0.5, 0, 1))[0, 1], np.array([100 + 63.5, 100, 227]) / 255)
    opaque = Photo(photo.image, alpha=np.full((1, 3), 255, np.uint8))
    assert opaque.matte is None and opaque.shown(WHITE) is opaque.image
    assert Photo(photo.image).shown(WHITE) is photo.image


# ---- steps ----


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_before_white_is_that_of_a_converted_photo(backend, masked):
    """Over white the sum is a whole number, so the conversion loses nothing, and every byte is the same."""
    view = see_through(towards(), mask() if masked else None)
    ours, result = stepped(backend, view, background=WHITE)
    theirs, other = stepped(backend, laid(view, WHITE), background=WHITE)
    assert result == other
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    black, _ = stepped(backend, replace(view, photo=replace(view.pixels, alpha=None)), background=WHITE)
    assert any((a != b).any() for a, b in zip(ours, black, strict=True))


@pytest.mark.parametrize("changes", [{"background": (0.0, 0.0, 0.0)}, EVERYTHING])
def test_where_alpha_changes_nothing_no_byte_changes(backend, changes):
    """Before black, and where the photo is opaque: the path of photos without alpha."""
    view = see_through(towards())
    if any(changes["background"]):
        view = see_through(towards(), alpha=np.full((36, 48), 255, np.uint8))
    changes = {**changes, "sh_degree": 1}
    results = []
    for seen in (view, replace(view, photo=Photo(view.pixels.image))):
        stepper = make_stepper(backend, rows.start(tiny.random_gaussians(60)), Objective())
        results.append((take(stepper, seen, 3, **changes), numbers(stepper.look())))
    assert results[0][0] == results[1][0]
    assert all((a == b).all() for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_step_of_cpp_lays_the_photo_over_each_steps_background(masked):
    view = see_through(towards(), mask() if masked else None)
    a, b = (rows.start(tiny.random_gaussians(60)) for _ in range(2))
    quick = make_stepper(load_backend("cpp"), a, Objective())
    slow = GenericStepper(load_backend("python"), b)
    assert type(quick) is not type(slow)
    for number, background in enumerate(COLOURS, 1):
        wanted = plan(number, background=background, sh_degree=1)
        assert tuple(quick.take(view, wanted)) == pytest.approx(tuple(slow.take(view, wanted)), rel=1e-4)
    for name, ours in rows.rows(a.m).items():
        assert ours == pytest.approx(rows.rows(b.m)[name], rel=1e-3, abs=1e-7), name


def test_a_step_over_several_views_lays_each_over_its_background():
    views = [
        see_through(towards()),
        replace(towards(), index=1),
        see_through(replace(towards(), index=2), mask()),
    ]
    a, b = (rows.start(tiny.random_gaussians(60)) for _ in range(2))
    quick = make_stepper(load_backend("cpp"), a, Objective())
    slow = GenericStepper(load_backend("python"), b)
    assert type(quick) is not type(slow)
    for number in (1, 2):
        wanted = plan(3 * number, background=GREEN, sh_degree=1, views=3)
        ours, theirs = (stepper.take(views[0], wanted, *views[1:]) for stepper in (quick, slow))
        assert tuple(ours) == pytest.approx(tuple(theirs), rel=1e-4)
    for name, ours in rows.rows(a.m).items():
        assert ours == pytest.approx(rows.rows(b.m)[name], rel=1e-3, abs=1e-7), name


def test_odd_sizes_have_no_background_beside_the_picture():
    """What fills the rows up to whole tiles must not look like a see-through photo."""
    camera = towards().camera.resized(37, 29)
    image = np.asarray(Image.fromarray(towards().image).resize((37, 29)))
    view = see_through(replace(towards(), camera=camera, photo=Photo(image)))
    results = [stepped(load_backend(name), view, background=GREEN)[1] for name in ("cpp", "python")]
    assert tuple(results[0]) == pytest.approx(tuple(results[1]), rel=1e-4)


# ---- runs ----


def see_through_scene():
    scene = tiny.scene()
    return replace(scene, views=tuple(see_through(view) for view in scene.views))


def test_a_run_before_white_is_that_of_converted_photos():
    """Training, scores and the reduced photos of the first steps."""
    ours = see_through_scene()
    theirs = Scene(ours.name, tuple(laid(view, WHITE) for view in ours.views), ours.points, ours.colors)
    settings = {
        "background": "white",
        "steps": 40,
        "backend": tiny.BACKEND,
        "max_splats": 400,
        "exposure": "off",
    }
    first, second = (train(scene, **settings) for scene in (ours, theirs))
    for split in ("test", "train"):
        assert first.metrics[split] == second.metrics[split]
    black = train(ours, **settings | {"background": "black"})
    assert black.metrics["test"]["psnr"] != first.metrics["test"]["psnr"]


def test_scores_are_of_the_photo_over_the_background(backend):
    ours = see_through_scene().views[:2]
    gaussians = tiny.random_gaussians(40)
    for background, colour in (("white", WHITE), ("black", (0, 0, 0)), ("random", (0, 0, 0))):
        found = measure(gaussians, ours, backend, background=background)
        converted = [laid(view, colour) for view in ours]
        assert found == measure(gaussians, converted, backend, background=background)


def test_one_colour_is_compared_over_the_same_background():
    ours = see_through_scene().views
    white = psnr_of_one_colour(ours, WHITE)
    assert white == psnr_of_one_colour([laid(view, WHITE) for view in ours]) != psnr_of_one_colour(ours)


def test_a_random_background_makes_the_model_as_see_through_as_the_photos():
    """Before one colour a splat of that colour would do as well as none."""
    view = see_through(towards(), alpha=np.repeat([[255] * 24 + [0] * 24], 36, axis=0).astype(np.uint8))
    backend, shares = load_backend(tiny.BACKEND), []
    for colours in ([(0.0, 0.0, 0.0)], COLOURS):
        state = rows.start(tiny.random_gaussians(60))
        rows.rows(state.gaussians)["sh0"][:] = -1.7  # nearly black
        stepper = make_stepper(backend, state, Objective())
        for number in range(1, 121):
            stepper.take(view, plan(number, 0.02, background=colours[number % len(colours)], sh_degree=0))
        alpha = np.asarray(render(stepper.look().gaussians, view.camera, backend).alpha)[..., 0]
        shares.append(alpha[:, 28:].mean())
    assert shares[1] < 0.1 < shares[0]


def test_reduced_photos_are_see_through_in_the_same_place():
    view = see_through(towards())
    small, converted = reduce(view, 1).pixels, reduce(laid(view, WHITE), 1).pixels
    assert np.abs(small.shown(WHITE).astype(int) - converted.image).max() <= 1


# ---- with exposures of their own ----


def exposed_steps(kind, view, changes, mode="affine"):
    """Six steps, and what they learnt of the exposure, from a gain and an offset."""
    objective = Objective.of(tiny.settings(exposure=mode), (view,))
    objective.groups["exposure"].values[:] = [[0.2, -0.1, 0.3, 0.05, -0.04, 0.02]]
    stepper = kind(load_backend("cpp"), rows.start(tiny.random_gaussians(200)), objective)
    for number in range(1, 7):
        wanted = plan(number, sh_degree=1, group_rates={"exposure": 0.0}, **changes)
        result = stepper.take(view, wanted)
    group = objective.groups["exposure"]
    return result, group.m, rows.rows(stepper.look().m)


@pytest.mark.parametrize("background", [(0.0, 0.0, 0.0), WHITE, GREEN])
@pytest.mark.parametrize("masked", [False, True])
def test_exposure_is_fused_for_see_through_photos(background, masked):
    load_backend("cpp")
    view = see_through(towards(), mask() if masked else None)
    changes = {"background": background}
    a, b = (exposed_steps(kind, view, changes) for kind in (make_stepper, GenericStepper))
    assert tuple(a[0]) == pytest.approx(tuple(b[0]), rel=1e-4)
    assert a[1] == pytest.approx(b[1], rel=2e-3, abs=2e-6) and np.abs(a[1]).max() > 1e-4
    for name, leaf in a[2].items():
        assert leaf == pytest.approx(b[2][name], rel=2e-3, abs=1e-6), name


def test_the_background_is_not_exposed():
    """A photo that shows nothing, of splats that are not there: whatever its exposure, it is met exactly."""
    view = see_through(towards(), alpha=np.zeros((36, 48), np.uint8))
    for backend in ("cpp", "python"):
        for colour in (WHITE, GREEN):
            objective = Objective.of(tiny.settings(exposure="affine"), (view,))
            objective.groups["exposure"].values[:] = [[0.4, -0.1, 0.3, 0.05, -0.04, 0.02]]
            state = rows.start(tiny.random_gaussians(20))
            rows.rows(state.gaussians)["means"][:, 2] -= 100
            stepper = make_stepper(load_backend(backend), state, objective)
            result = stepper.take(
                view, plan(1, sh_degree=1, background=colour, group_rates={"exposure": 0.0})
            )
            assert result.l1 < 1e-6 and np.abs(objective.groups["exposure"].m).max() < 1e-6


# ---- by the commands ----


def folder_of(root, alter):
    """The demo as a COLMAP folder, each photo's pixels changed by `alter`, which returns what is saved, and a mask."""
    write_demo(root, tiny.scene())
    for path in (root / "images").glob("*.png"):
        picture, counts = alter(np.asarray(Image.open(path).convert("RGB")))
        Image.fromarray(picture).save(path)
        if counts is not None:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(counts).save(root / "masks" / path.name)
    return root


def test_the_commands_lay_photos_over_the_background(tmp_path):
    """Cut-out photos, photos with masks to be see-through, and photos converted by hand end in the same numbers."""
    alpha = np.full((36, 48), 255, np.uint8)
    alpha[:, 30:] = 0

    def white(image):
        return np.where(alpha[..., None] == 255, image, 255).astype(np.uint8)

    folders = {
        "rgba": (lambda image: (np.dstack([image, alpha]), None), []),
        "masks": (lambda image: (image, 255 - alpha), ["--mask-mode", "transparent", "--invert-masks"]),
        "white": (lambda image: (white(image), None), []),
    }
    scores, pictures, said = {}, {}, {}
    for name, (alter, options) in folders.items():
        folder, out = folder_of(tmp_path / name, alter), tmp_path / "runs" / name
        options += ["--background", "white", "--set", "exposure=off", "--trust", "--out", out]
        said[name] = call("train", folder, *SHORT, *options).stderr
        scores[name] = json.loads((out / "metrics.json").read_text())["test"]
        preview = sorted((out / "previews").glob("*.png"))[0]
        pictures[name] = np.asarray(Image.open(preview))
        call("render", out, "--out", tmp_path / "views" / name)
        again = json.loads((tmp_path / "views" / name / "metrics.json").read_text())
        assert again["psnr"] == pytest.approx(scores[name]["psnr"], abs=0.01)
    assert scores["rgba"] == scores["masks"] == scores["white"]
    assert (pictures["rgba"] == pictures["white"]).all() and (pictures["masks"] == pictures["white"]).all()
    assert (pictures["rgba"][:, 30:48] == 255).all()
    assert "9 are see-through" in said["rgba"] and "9 are see-through" in said["masks"]
    out = tmp_path / "ignored"
    options = ["--alpha-mode", "ignore", "--background", "white", "--set", "exposure=off", "--trust"]
    call("train", tmp_path / "rgba", *SHORT, *options, "--out", out)
    assert json.loads((out / "metrics.json").read_text())["test"] != scores["rgba"]
