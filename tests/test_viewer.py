# SPDX-License-Identifier: Apache-2.0
"""The live view: who may ask what, frames that are those of the renderer, pause and stop, and a real browser."""

import io
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from browser import Browser
from PIL import Image
from test_cli import SHORT, call, command, environment, folder, trained  # noqa: F401  # fixtures

from gsplat_train import backends
from gsplat_train.errors import Interrupted, UserError
from gsplat_train.evaluate.frames import Look
from gsplat_train.renderer import render
from gsplat_train.scene import Camera
from gsplat_train.training.api import train
from gsplat_train.viewer.live import Live, page_scene, without_cameras
from gsplat_train.viewer.server import Server, is_local, parse_address
from gsplat_train.viewer.studio import Studio, Wish, picture_of, wish_of

POSE = "1,0,0,0,0,1,0,0,0,0,1,0"


def ask(url: str, path: str = "", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url + path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def served() -> Iterator[Server]:
    """A server whose frames are one colour."""
    studio = Studio()
    server = Server(
        studio, "127.0.0.1:0", lambda: {"title": "x"}, lambda: {"step": 1, "paused": studio.paused}
    )

    def work() -> None:
        while not studio.closed:
            studio.wait(0.05)
            studio.fulfil(lambda wish: np.full((wish.camera.height, wish.camera.width, 3), 77, np.uint8))

    threading.Thread(target=work, daemon=True).start()
    yield server
    server.close()


def test_what_is_served(served: Server) -> None:
    url = served.url
    status, page = ask(url)
    assert status == 200 and b"<!doctype html>" in page
    assert not re.findall(rb"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert json.loads(ask(url, "scene")[1]) == {"title": "x"}
    status, frame = ask(url, f"frame?pose={POSE}&width=64&height=48&fov=60")
    assert status == 200 and Image.open(io.BytesIO(frame)).size == (64, 48)
    assert np.abs(np.asarray(Image.open(io.BytesIO(frame))).astype(int) - 77).max() < 3
    assert ask(url, "photo?index=0")[0] == 404 and ask(url, "../etc/passwd")[0] == 404
    assert "this machine only" in str(served) and served.studio.connected


@pytest.mark.parametrize(
    "query",
    ["", "pose=1,2&width=64&height=48", f"pose={POSE}&width=0&height=48", f"pose={POSE}&width=64&height=1e9",
     f"pose={POSE}&width=64&height=48&mode=x", f"pose={POSE.replace('1', 'nan')}&width=64&height=48",
     f"pose={POSE}&width=99999&height=48", f"pose={POSE}&width=64&height=48&size=nan"],
)  # fmt: skip
def test_a_senseless_frame_is_refused(served: Server, query: str) -> None:
    assert ask(served.url, f"frame?{query}")[0] == 400


def test_only_its_own_page_commands(served: Server) -> None:
    pause = b'{"action": "pause"}'
    assert ask(served.url, "control", pause)[0] == 403 and not served.studio.paused
    assert ask(served.url, "control", b'{"action": "format"}', X_Viewer="1")[0] == 400
    assert ask(served.url, "control", b"nonsense", X_Viewer="1")[0] == 400
    assert ask(served.url, "control", pause, X_Viewer="1")[0] == 200 and served.studio.paused


def test_another_name_for_this_machine_is_refused(served: Server) -> None:
    """A page elsewhere whose name was turned to 127.0.0.1 cannot read."""
    assert ask(served.url, "state", Host="evil.example")[0] == 403
    assert ask(served.url, "state", Host=f"localhost:{served.port}")[0] == 200


def test_opened_to_others_it_needs_the_token() -> None:
    server = Server(Studio(), "0.0.0.0:0", dict, lambda: {"step": 1})
    try:
        assert server.token and server.token in server.url and "whoever has this address" in str(server)
        plain = f"http://127.0.0.1:{server.port}/"
        assert ask(plain)[0] == ask(plain, "state")[0] == ask(plain, "state?token=guess")[0] == 403
        assert ask(plain, "control", b'{"action": "stop"}', X_Viewer="1")[0] == 403
        assert ask(plain, f"?token={server.token}")[0] == 200
        name = f"gsplat_viewer_{server.port}"
        assert ask(plain, "state", Cookie=f"{name}={server.token}")[0] == 200
        assert ask(plain, "state", Cookie=f"{name}=guess")[0] == 403
    finally:
        server.close()


def test_addresses() -> None:
    assert parse_address("") == ("127.0.0.1", 8765) and parse_address(":9000") == ("127.0.0.1", 9000)
    assert parse_address("0.0.0.0") == ("0.0.0.0", 8765) and parse_address("[::1]:80") == ("::1", 80)
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1") and not is_local("0.0.0.0")
    for wrong in ("host:port", "a/b"):
        with pytest.raises(UserError, match="the viewer's address"):
            parse_address(wrong)
    for wrong in (":99999", "0.0.0.0:65536", "[::1]:70000"):
        with pytest.raises(UserError, match=f"the viewer's port must be .*, got {wrong[-5:]}"):
            parse_address(wrong)


def test_a_port_that_is_taken_is_told(served: Server) -> None:
    with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{served.port}"):
        Server(Studio(), f":{served.port}", dict, dict)


def test_frames_are_the_renderers() -> None:
    backend = backends.load(tiny.BACKEND)
    gaussians = tiny.random_gaussians(100)
    wish = wish_of({"pose": POSE, "width": "64", "height": "48", "fov": "60"})
    expected = np.asarray(render(gaussians, wish.camera, backend).image)
    picture = picture_of(gaussians, wish.camera, wish, backend, Look())
    assert np.abs(picture / 255 - np.clip(expected, 0, 1)).max() < 0.003
    small = picture_of(gaussians, wish.camera, Wish(wish.camera, size=0.3), backend, Look())
    assert small.mean() < picture.mean()
    flat = picture_of(gaussians, wish.camera, Wish(wish.camera, degree=0), backend, Look())
    assert (flat != picture).any()
    for mode in ("depth", "alpha"):
        other = picture_of(gaussians, wish.camera, Wish(wish.camera, mode), backend, Look())  # type: ignore[arg-type]
        assert other.shape == (48, 64, 3) and other.any()


def test_the_page_is_told_the_cameras() -> None:
    views = tiny.scene().views
    scene = page_scene(views, tiny.scene().points, {views[0].name})
    assert len(scene["cameras"]) == len(views) and scene["cameras"][0]["held"]
    camera = wish_of(
        {"pose": ",".join(map(str, scene["cameras"][3]["pose"])), "width": "48", "height": "36"}
    ).camera
    np.testing.assert_allclose(camera.viewmat, views[3].camera.viewmat, atol=1e-9)
    alone = without_cameras(tiny.random_gaussians(50))
    pose = np.array(alone["cameras"][0]["pose"]).reshape(3, 4)
    assert isinstance(Camera(np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]])), np.eye(3), 4, 4), Camera)
    json.dumps([scene, alone])


def test_a_training_is_seen_paused_and_stopped(tmp_path: Path) -> None:
    live = Live("127.0.0.1:0")
    said: list[str] = []
    errors: list[BaseException] = []

    live.message = said.append  # type: ignore[method-assign]

    def work() -> None:
        try:
            train(tiny.scene(), tiny.settings(steps=100_000, eval_every=100_000, checkpoint_every=100_000),
                  out=tmp_path / "run", callbacks=[live])  # fmt: skip
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + 30
    while live.server is None and time.monotonic() < end:
        time.sleep(0.02)
    assert live.server is not None and any("viewer: http://127.0.0.1" in line for line in said)
    url = live.server.url
    scene = json.loads(ask(url, "scene")[1])
    pose = ",".join(map(str, scene["cameras"][0]["pose"]))
    assert ask(url, f"frame?pose={pose}&width=48&height=36&fov={scene['fov']}")[0] == 200
    assert Image.open(io.BytesIO(ask(url, "photo?index=0")[1])).size == (48, 36)
    assert ask(url, "photo?index=99")[0] == 404
    assert json.loads(ask(url, "control", b'{"action": "pause"}', X_Viewer="1")[1])["paused"]
    time.sleep(0.3)
    stands = json.loads(ask(url, "state")[1])["step"]
    assert ask(url, f"frame?pose={pose}&width=48&height=36")[0] == 200  # while it is paused, too
    time.sleep(0.3)
    assert json.loads(ask(url, "state")[1])["step"] == stands > 0
    ask(url, "control", b'{"action": "resume"}', X_Viewer="1")
    time.sleep(0.3)
    assert json.loads(ask(url, "state")[1])["step"] > stands
    ask(url, "control", b'{"action": "stop"}', X_Viewer="1")
    thread.join(30)
    assert isinstance(errors[0], Interrupted) and list((tmp_path / "run" / "checkpoints").iterdir())
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=2)


def drag(browser: Browser, x: int, y: int, dx: int) -> None:
    for kind, at, buttons in (
        ("mousePressed", x, 1),
        ("mouseMoved", x + dx, 1),
        ("mouseReleased", x + dx, 0),
    ):
        browser.call(
            "Input.dispatchMouseEvent", type=kind, x=at, y=y, button="left", buttons=buttons, clickCount=1
        )


def test_a_browser_watches_and_pauses_a_training(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """gs-train --viewer as a person uses it."""
    arguments = [
        *SHORT,
        "--steps",
        "1000000",
        "--set",
        "checkpoint_every=1000000",
        "--set",
        "eval_every=1000000",
    ]
    process: Any = subprocess.Popen(
        command("train", folder, "--out", tmp_path / "run", "--viewer-at", "127.0.0.1:0", *arguments),
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip
    ending = threading.Timer(90, process.kill)  # whatever goes wrong, nothing waits for ever
    ending.start()
    try:
        line = next((line for line in process.stderr if line.startswith("viewer: ")), "viewer: none")
        with Browser(tmp_path / "profile", 900, 600) as browser:
            browser.call("Page.navigate", url=line.split()[1])
            browser.wait_for("+document.getElementById('view')?.dataset.frames > 2")
            before = browser.picture()
            assert before[:, :600].std() > 15  # the scene, not an empty page
            assert "of 1,000,000" in browser.evaluate("document.getElementById('facts').textContent")
            browser.evaluate("document.getElementById('pause').click()")
            browser.wait_for("state.paused && document.getElementById('word').textContent === 'paused'")
            drag(browser, 200, 300, 120)
            browser.wait_for("standing === null && shownVersion === version")
            assert np.abs(browser.picture()[:, :600].astype(int) - before[:, :600]).mean() > 3
            browser.evaluate("stand(0); at('blend').value = 100; at('blend').oninput()")
            browser.wait_for("at('photo').complete && at('photo').naturalWidth === 48")
            browser.evaluate("at('mode').value = 'depth'; at('mode').oninput()")
            browser.wait_for("shownVersion === version")
            step = browser.evaluate("state.step")
            browser.evaluate("document.getElementById('pause').click()")
            browser.wait_for(f"!state.paused && state.step > {step}")
            foreign = [
                u
                for u in browser.requests()
                if not u.startswith((line.split()[1], "data:", "blob:", "about:"))
            ]
            assert not foreign and not [c for c in browser.complaints() if "favicon" not in c]
            browser.evaluate("document.getElementById('stop').click()")
        assert process.wait(30) == 130
        assert list((tmp_path / "run" / "checkpoints").glob("*.json"))
    finally:
        ending.cancel()
        process.kill()
        process.stderr.close()


def test_gs_view_shows_a_model_of_no_run(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    model = tmp_path / "model.ply"
    model.write_bytes((trained[0] / "point_cloud.ply").read_bytes())
    process: Any = subprocess.Popen(
        command("view", model, "--at", ":0", "--progress", "jsonl"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    ending = threading.Timer(60, process.kill)
    ending.start()
    try:
        url = next(line for line in process.stderr if line.startswith("viewer: ")).split()[1]
        assert json.loads(process.stdout.readline()) == {"viewer": url}
        scene = json.loads(ask(url, "scene")[1])
        pose = ",".join(map(str, scene["cameras"][0]["pose"]))
        status, frame = ask(url, f"frame?pose={pose}&width=64&height=48")
        assert status == 200 and np.asarray(Image.open(io.BytesIO(frame))).std() > 5
        process.terminate()
        assert process.wait(20) == 130
    finally:
        ending.cancel()
        process.kill()
        process.stdout.close()
        process.stderr.close()
