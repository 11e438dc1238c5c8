# SPDX-License-Identifier: Apache-2.0
"""gs-export: filters, frames, and what it tells of the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import splats as made
from conftest import load_backend

from gsplat_train.errors import UserError
from gsplat_train.evaluate.exported import Loss, contributions, loss_of
from gsplat_train.model import filters, frame
from gsplat_train.model.formats import format_of, ply
from gsplat_train.model.io import from_splats
from gsplat_train.model.placing import HERE, Placing, held_finely
from gsplat_train.model.splats import Splats
from gsplat_train.model.usable import too_coarse
from gsplat_train.renderer import render
from gsplat_train.scene import Camera, View


def changed(splats: Splats, **arrays: np.ndarray) -> Splats:
    return splats._replace(arrays={**splats.arrays, **arrays})


def a_camera(distance: float = 12.0, size: int = 96) -> Camera:
    viewmat = np.eye(4)
    viewmat[2, 3] = distance
    return Camera(viewmat, [[100, 0, size / 2], [0, 100, size / 2], [0, 0, 1]], size, size)


# ---- filters ----


def test_each_filter_keeps_what_it_says() -> None:
    splats = made.random_splats(500)
    means, scales = splats.arrays["means"], splats.arrays["log_scales"].max(axis=1)
    opaque = 1 / (1 + np.exp(-splats.arrays["logit_opacities"])) >= 0.3
    for kept, expected in (
        (filters.more_opaque(splats, 0.3), opaque),
        (filters.smaller(splats, np.exp(-3.0)), scales <= -3),
        (filters.cropped(splats, [1, 1, 1, -2, -2, -2]), (np.abs(means + 0.5) <= 1.5).all(axis=1)),
        (filters.cropped(splats, [1, 0, 0, 2]), np.linalg.norm(means - [1, 0, 0], axis=1) <= 2),
    ):
        assert 0 < expected.sum() < 500 and (kept.arrays["means"] == means[expected]).all()
    with pytest.raises(UserError, match="6 numbers"):
        filters.cropped(splats, [1, 2, 3])


def test_floaters_are_those_far_from_all_others_for_their_size() -> None:
    splats = made.random_splats(800)
    means, scales = splats.arrays["means"].copy(), splats.arrays["log_scales"].copy()
    means[:3] = [[40, 0, 0], [0, -55, 0], [60, 60, 60]]
    scales[2] = 3.5  # large enough to be background
    kept = filters.without_floaters(changed(splats, means=means, log_scales=scales))
    assert (kept.arrays["means"] == means[2:]).all()


def test_the_most_important_by_size_or_by_what_is_given() -> None:
    splats = made.random_splats(300)
    kept = filters.most_important(splats, 50)
    area = np.sort(splats.arrays["log_scales"], axis=1)[:, 1:].sum(axis=1)
    value = area + np.log(1 / (1 + np.exp(-splats.arrays["logit_opacities"])))
    assert set(kept.arrays["means"][:, 0]) == set(splats.arrays["means"][np.argsort(-value)[:50], 0])
    args = filters.most_important(splats, 3, np.arange(300.0))
    assert (args.arrays["means"] == splats.arrays["means"][297:]).all()
    assert filters.most_important(splats, 300).n == 300


def test_one_colour_is_what_the_cameras_see() -> None:
    splats, camera = made.random_splats(200), a_camera()
    arms = splats.arrays["means"] - camera.position
    basis = frame.basis(arms / np.linalg.norm(arms, axis=1, keepdims=True), 3)
    coefficients = np.concatenate([splats.arrays["sh0"], splats.arrays["shN"]], axis=1)
    seen = np.clip(np.einsum("nk,nkc->nc", basis, coefficients) + 0.5, 0, 1)
    flat = filters.of_one_colour(splats, [camera])
    assert flat.sh_degree == 0 and flat.arrays["sh0"][:, 0] * 0.28209479 + 0.5 == pytest.approx(
        seen, abs=1e-5
    )
    assert (filters.of_one_colour(splats).arrays["sh0"] == splats.arrays["sh0"]).all()


def test_contributions_are_the_weights_of_blending() -> None:
    backend, camera = load_backend("cpp"), a_camera()
    model = from_splats(made.random_splats(40)).gaussians
    found = contributions(model, [camera, camera], backend, False)
    alpha = np.asarray(render(model, camera, backend).alpha).sum()
    assert found.min() >= 0 and found.sum() == pytest.approx(2 * alpha, rel=1e-3)
    one = from_splats(made.random_splats(40).take(np.array([7]))).gaussians
    assert contributions(one, [camera], backend, False)[0] == pytest.approx(
        float(render(one, camera, backend).alpha.sum()), rel=1e-4
    )


# ---- frames and loss ----


@pytest.mark.parametrize("turn", [(0, 0, 0), (30, -50, 110)])
def test_a_model_and_cameras_that_move_together_show_the_same(turn: tuple[float, float, float]) -> None:
    backend, camera, splats = load_backend("cpp"), a_camera(), made.random_splats(300)
    placing = Placing(frame.euler(turn), 0.3, np.array([5.0, -2.0, 1.0]))
    moved = from_splats(frame.moved(splats, *placing))
    before = from_splats(splats)
    pictures = [
        np.asarray(mx.clip(render(m.gaussians, c, backend, antialiased=m.antialiased).image, 0, 1))
        for m, c in ((before, camera), (moved, placing.camera(camera)))
    ]
    assert np.abs(pictures[0] - pictures[1]).max() < 0.02 and pictures[0].std() > 0.01
    view = View("a", camera, np.round(pictures[0] * 255).astype(np.uint8))
    loss = loss_of(
        before._replace(normalized=True),
        moved._replace(frame=placing.back()),
        [view, View("none", camera)],
        backend,
        background="black",
    )
    assert loss is not None and loss.views == 1 and loss.psnr_before > 50 and loss.psnr_after > 45
    assert "1 held-out views" in str(loss)


def test_positions_that_float32_cannot_hold_are_told() -> None:
    splats = made.random_splats(200)
    assert too_coarse(splats) is None
    means = splats.arrays["means"].copy()
    means[7] = 9e3  # one splat far out: the others are as fine as before
    assert too_coarse(changed(splats, means=means)) is None
    assert not held_finely(changed(splats, means=means), HERE).moves
    far = changed(splats, means=splats.arrays["means"] + np.float32(5e6))
    assert "--centre auto" in (too_coarse(far) or "") and held_finely(far, HERE).moves


# ---- the command ----


def call(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.export", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    ply.write(tmp_path / "model.ply", made.random_splats(400)._replace(up=(0.0, 0.0, 1.0)))
    return tmp_path / "model.ply"


def test_filters_frame_and_size_are_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.glb"
    output = call(
        model, out, "--min-opacity", "0.2", "--crop", "-3,-3,-3,3,3,3", "--max-splats", "50", "--sh-degree", "1",
        "--up", "auto", "--centre", "1,2,3", "--scale", "2",
    )  # fmt: skip
    assert "--min-opacity 0.2:" in output and "--crop" in output and "by opacity x area" in output
    assert f"50 splats in {out}" in output and "bytes a splat" in output
    after = format_of(out).read(out)
    assert after.n == 50 and after.sh_degree == 1
    placing = json.loads((tmp_path / "out.glb.frame.json").read_text())
    rotation, before = np.array(placing["rotation"]), made.random_splats(400).arrays["means"]
    assert rotation @ [0, 0, 1] == pytest.approx([0, -1, 0], abs=1e-12) and placing["scale"] == 2
    expected = 2 * (before - [1, 2, 3]) @ rotation.T
    assert np.linalg.norm(expected[:, None] - after.arrays["means"], axis=2).min(axis=0).max() < 1e-5


def test_a_ply_is_padded_where_asked(model: Path, tmp_path: Path) -> None:
    call(model, tmp_path / "a.ply", "--sh-degree", "1")
    call(model, tmp_path / "b.ply", "--sh-degree", "1", "--pad")
    short, full = (ply.read(tmp_path / name) for name in ("a.ply", "b.ply"))
    assert (short.sh_degree, full.sh_degree) == (1, 3)
    assert (full.arrays["shN"][:, :3] == short.arrays["shN"]).all() and not full.arrays["shN"][:, 3:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.obj"], "allowed are"),
        (["out.ply", "--crop", "1,2"], "4 or 6 numbers"),
        (["out.spz", "--pad"], "it is for a .ply"),
        (["out.compressed.ply", "--pad"], "it is for a .ply"),
        (["out.ply", "--up", "0,0,0"], "not all 0"),
        (["out.ply", "--rotate", "a,b,c"], "3 numbers"),
        (["out.ply", "--scale", "0"], "above 0"),
        (["out.ply", "--min-opacity", "1"], "no splat is left"),
        (["out.spz", "--spz-axes", "xyz"], "ply or rub"),
        (["out.spz", "--spz-version", "5"], "to 4"),
        (["out.ply", "--spz-version", "4"], "it is for a .spz"),
    ],
)
def test_bad_requests_are_one_line(arguments: list[str], message: str, model: Path, tmp_path: Path) -> None:
    output = call(model, tmp_path / arguments[0], *arguments[1:], code=2)
    assert (
        message in output.splitlines()[-1]
        and "Traceback" not in output
        and not (tmp_path / arguments[0]).exists()
    )


def test_progress_as_lines_for_programs(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gsplat_train.cli.export", model, tmp_path / "a.sog"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([*command, "--progress", "jsonl", "--quiet"], capture_output=True, text=True,
                          env=environment, timeout=120)  # fmt: skip
    result = json.loads(done.stdout)
    size = (tmp_path / "a.sog").stat().st_size
    assert result == {"file": str(tmp_path / "a.sog"), "splats": 400, "bytes": size} and not done.stderr
    done = subprocess.run([*command, "--progress", "jsonl"], capture_output=True, text=True, env=environment)
    parts = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"action": "writing", "done": 1, "total": 1} in parts


def test_every_long_part_tells_how_far_it_is(tmp_path: Path) -> None:
    backend, camera, splats = load_backend("cpp"), a_camera(), made.random_splats(1200)
    output: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        output.append((done, total))

    contributions(from_splats(splats).gaussians, [camera, camera], backend, False, progress)
    assert output == [(1, 2), (2, 2)]
    output.clear()
    format_of(tmp_path / "a.sog").write(tmp_path / "a.sog", splats, progress=progress)
    assert output == [(i, 4) for i in range(1, 5)]
    output.clear()
    view, model = View("a", camera, np.zeros((96, 96, 3), np.uint8)), from_splats(splats)
    loss_of(model, model, [view], backend, background="black", progress=progress)
    assert output == [(1, 2), (2, 2)]


def test_what_is_not_lost_has_no_sign_of_a_loss() -> None:
    assert "(+0.00)" in str(Loss(30.0, 29.999, 4)) and "(-0.01)" in str(Loss(30.0, 29.99, 4))
