# SPDX-License-Identifier: Apache-2.0
"""test.txt beside a COLMAP model says which views are held out; one that speaks of something else does not."""

from pathlib import Path

import numpy as np
import pytest

from gsplat_train.datasets import open_scene
from gsplat_train.datasets.demo import make_demo, orbit_camera, write_demo
from gsplat_train.datasets.held_out import held_out
from gsplat_train.datasets.panorama import SIDES
from gsplat_train.scene import Scene, View


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "demo"
    write_demo(path, make_demo(n_views=5, width=32, height=24, n_points=400))
    return path


@pytest.mark.parametrize(
    ("place", "text", "held"),
    [
        ("sparse/0", "view_01.png\n\nview_03.png\n", {"view_01.png", "view_03.png"}),
        (".", "view_02\nview_04.jpg\n", {"view_02.png", "view_04.png"}),
        (".", "", set()),
        (".", "to do: test this\n", None),
        (".", "".join(f"view_{i:02}.png\n" for i in range(5)), None),
    ],
)
def test_the_file_says_what_is_held_out(folder: Path, place: str, text: str, held: set[str] | None) -> None:
    path = folder / place / "test.txt"
    path.write_text(text)
    try:
        scene = open_scene(str(folder))
    finally:
        path.unlink()
    if held is None:
        held = {"view_00.png"}  # every eighth, as without a file
        assert scene.test_names is None
    assert {view.name for view in scene.split(8)[1]} == held


@pytest.mark.parametrize("text", ["p1.png\n", "p1\n", "p1_up.png\n"])
def test_all_sides_of_a_panorama_are_held_out(tmp_path: Path, text: str) -> None:
    views = [
        View(f"p{i}_{side}.png", orbit_camera(i / 3, 8, 8), group=f"p{i}.png")
        for i in range(3)
        for side in SIDES
    ]
    (tmp_path / "test.txt").write_text(text)
    lines: list[str] = []
    held = held_out([tmp_path], views, lines.append)
    assert held == {f"p1_{side}.png" for side in SIDES}, lines
    scene = Scene("panoramas", tuple(views), np.zeros((1, 3)), np.zeros((1, 3)), test_names=held)
    assert {view.group for view in scene.split(8)[1]} == {"p1.png"}
