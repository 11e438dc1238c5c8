# SPDX-License-Identifier: Apache-2.0
"""test.txt beside a COLMAP model says which views are held out; one that speaks of something else does not."""

from pathlib import Path

import pytest

from gsplat_train.datasets import open_scene
from gsplat_train.datasets.demo import make_demo, write_demo


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
