# SPDX-License-Identifier: Apache-2.0
"""The page that shows splats: where it opens, and, in a real browser, that it shows what the renderer shows."""

import base64
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import splats as made
from browser import Browser
from conftest import load_backend

from gsplat_train.errors import UserError
from gsplat_train.evaluate import metrics
from gsplat_train.model.formats import html, spz
from gsplat_train.model.io import from_splats
from gsplat_train.model.opening import opening, upright
from gsplat_train.model.splats import Splats
from gsplat_train.renderer import render
from gsplat_train.scene import Camera

WIDTH, HEIGHT = 320, 240


def camera(
    position: tuple[float, ...], target: tuple[float, ...], up: tuple[float, ...], roll: float = 0
) -> Camera:
    forward = np.subtract(target, position)
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    viewmat = np.eye(4)
    viewmat[:3, :3] = right, down, forward
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return Camera(viewmat, [[280, 0, WIDTH / 2], [0, 280, HEIGHT / 2], [0, 0, 1]], WIDTH, HEIGHT)


def around(up: tuple[float, ...], n: int = 24) -> list[Camera]:
    """Cameras on a ring, which look down at (1, 2, 3)."""
    turn = np.linalg.svd(np.array([up]))[2][1:]
    found = []
    for angle in np.linspace(0, 2 * np.pi, n, endpoint=False):
        arm = 10 * (np.cos(angle) * turn[0] + np.sin(angle) * turn[1]) + 4 * np.array(up)
        found.append(camera(tuple(np.add(arm, (1, 2, 3))), (1, 2, 3), up))
    return found


# ---- where it opens ----


@pytest.mark.parametrize("up", [(0, -1, 0), (0, 0, 1), (0.6, 0, -0.8)])
def test_cameras_around_something_tell_up_and_what_they_look_at(up: tuple[float, ...]) -> None:
    cameras = around(up)
    place = opening(made.random_splats(200), cameras)
    assert place.up == pytest.approx(up, abs=1e-6) and place.target == pytest.approx([1, 2, 3], abs=1e-6)
    assert len(place.cameras) == 24


def test_cameras_side_by_side_turn_about_the_splats_before_them() -> None:
    splats = made.random_splats(400)  # a box of 8 around 0
    cameras = [camera((x, 0, -20), (x, 0, 0), (0, -1, 0), roll=0.02 * x) for x in (-2, -1, 0, 1, 2)]
    place = opening(splats, cameras)
    assert place.first == 2 and place.up == pytest.approx((0, -1, 0), abs=1e-3)
    assert abs(place.target[2]) < 1.5 and np.abs(place.target[:2]).max() < 1e-9


def test_one_rolled_camera_and_none() -> None:
    rolled = camera((0, 0, -20), (0, 0, 0), (0, -1, 0), roll=np.pi / 2)
    assert abs(upright([rolled])[1]) < 1e-6  # nothing else is known
    for up in (None, (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)):
        splats = made.random_splats(200)._replace(up=up)
        place = opening(splats)
        (only,) = place.cameras
        assert only.viewmat[1, :3] == pytest.approx(-np.array(up or (0, -1, 0)))
        seen = splats.arrays["means"] @ only.viewmat[:3, :3].T + only.viewmat[:3, 3]
        assert (seen[:, 2] > 0).all() and np.median(np.abs(seen[:, :2] / seen[:, 2:])) < 0.4


# ---- the file ----


def test_the_page_holds_an_spz_and_nothing_from_outside(tmp_path: Path) -> None:
    splats = made.random_splats(300)._replace(up=(0.0, 0.0, 1.0))
    html.write(tmp_path / "a.html", splats, title="</title><script>alert(1)</script>$splats")
    text = (tmp_path / "a.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "http" not in text
    found = html.read(tmp_path / "a.html")
    assert found.up == (0.0, 0.0, 1.0)
    expected = spz.from_bytes(tmp_path, spz.to_bytes(splats))
    assert all((found.arrays[name] == expected.arrays[name]).all() for name in found.arrays)


@pytest.mark.parametrize(
    "content",
    [b"", b"</html>", html.BEFORE + b"!!!" + html.AFTER + b"</html>", html.BEFORE + html.AFTER + b"</html>",
     html.BEFORE + base64.b64encode(b"nothing of the kind") + html.AFTER + b"</html>"],
)  # fmt: skip
def test_another_page_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(content)
    with pytest.raises(UserError) as caught:
        html.read(tmp_path / "a.html")
    assert str(tmp_path / "a.html") in str(caught.value)


# ---- in a browser ----


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("browser")
    with Browser(folder, WIDTH, HEIGHT) as browser:
        yield browser


def open_page(browser: Browser, path: Path, splats: Splats, cameras: list[Camera]) -> None:
    html.write(path, splats, place=opening(splats, cameras), title="A title")
    browser.events.clear()
    browser.open(path)
    browser.wait_for("window.viewer && (window.viewer.ready || window.viewer.error)")
    assert browser.evaluate("window.viewer.error") is None


def rendered(path: Path, camera: Camera) -> np.ndarray:
    """The renderer's picture of what lies in the page, [H, W, 3] uint8."""
    model = from_splats(html.read(path))
    backend = load_backend("cpp")
    out = render(model.gaussians, camera, backend, antialiased=model.antialiased)
    return metrics.to_uint8(mx.clip(out.image, 0, 1))


def only_the_scene(browser: Browser) -> np.ndarray:
    browser.evaluate(
        "for (const id of ['bar', 'name', 'help']) document.getElementById(id).style.display = 'none'"
    )
    return browser.picture()


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_shows_what_the_renderer_shows(
    page: Browser, degree: int, antialiased: bool, tmp_path: Path
) -> None:
    splats = made.random_splats(3000, degree, antialiased, seed=degree)
    cameras = around((0, -1, 0), 7)
    open_page(page, tmp_path / "a.html", splats, cameras)
    seen = cameras[3]
    values = [seen.viewmat[:3, :3].ravel().tolist(), seen.position.tolist(), 280]
    page.evaluate(f"window.viewer.show(...{json.dumps(values)})")
    shown, expected = only_the_scene(page), rendered(tmp_path / "a.html", seen)
    assert shown.shape == expected.shape and expected.std() > 10
    psnr = metrics.psnr(shown, expected)
    assert psnr > 45, psnr  # differences: sampling of a half-float target, order of equal depths


def test_it_opens_upright_at_a_training_camera_and_turns_under_the_hand(
    page: Browser, tmp_path: Path
) -> None:
    splats, cameras = made.random_splats(1500, 1), around((0, 0, 1), 9)
    open_page(page, tmp_path / "a.html", splats, cameras)
    first = cameras[page.evaluate("window.viewer.place.first")]
    assert page.evaluate("window.viewer.walk.position") == pytest.approx(first.position)
    assert page.evaluate("window.viewer.walk.rotation") == pytest.approx(
        first.viewmat[:3, :3].ravel(), abs=1e-6
    )
    before = only_the_scene(page)
    assert metrics.psnr(before, rendered(tmp_path / "a.html", first)) > 35

    def mouse(kind: str, x: float, y: float) -> None:
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    mouse("mousePressed", 100, 100)
    for x in range(100, 200, 20):
        mouse("mouseMoved", x, 100)
    mouse("mouseReleased", 180, 100)
    position = np.array(page.evaluate("window.viewer.walk.position"))
    target = np.array([1, 2, 3])
    assert np.linalg.norm(position - first.position) > 1
    assert np.linalg.norm(position - target) == pytest.approx(np.linalg.norm(first.position - target))
    rotation = np.array(page.evaluate("window.viewer.walk.rotation")).reshape(3, 3)
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-9) and abs(rotation[0, 2]) < 1e-6  # level
    page.wait_for("!document.querySelector('canvas').classList.contains('held')")
    assert metrics.psnr(only_the_scene(page), before) < 30
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=9, y=9, deltaX=0, deltaY=-100)
    nearer = np.array(page.evaluate("window.viewer.walk.position"))
    assert np.linalg.norm(nearer - target) < 0.95 * np.linalg.norm(position - target)
    page.call("Input.dispatchKeyEvent", type="keyDown", code="KeyR", key="r")
    assert page.evaluate("window.viewer.walk.position") == pytest.approx(first.position)
    page.call("Input.dispatchKeyEvent", type="keyDown", code="KeyN", key="n")
    assert page.evaluate("window.viewer.walk.position") != pytest.approx(first.position)
    addresses = [address for address in page.requests() if not address.startswith(("file:", "blob:"))]
    assert not addresses and not page.complaints()


def test_a_page_whose_splats_are_damaged_says_so(page: Browser, tmp_path: Path) -> None:
    html.write(tmp_path / "a.html", made.random_splats(50))
    content = (tmp_path / "a.html").read_bytes()
    start = content.index(html.BEFORE) + len(html.BEFORE)
    (tmp_path / "b.html").write_bytes(content[:start] + b"AAAA" + content[start + 4 :])
    page.open(tmp_path / "b.html")
    page.wait_for("window.viewer && window.viewer.error")
    assert page.evaluate("document.getElementById('message').textContent") != ""
