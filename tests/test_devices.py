# SPDX-License-Identifier: Apache-2.0
"""Several processes train one model, on a ring of sockets on this machine: to the bytes of one process that takes as
many views a step; and what becomes of them when one is lost.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import load_backend
from metal.fixtures import clang  # noqa: F401

import gsplat_train
from gsplat_train.cli import devices
from gsplat_train.cli.devices import _ring, without_devices
from gsplat_train.datasets.demo import make_demo, write_demo
from gsplat_train.errors import UserError
from gsplat_train.training.company import Company, limit_of
from gsplat_train.training.crew import ALONE

ROOT = Path(gsplat_train.__file__).parents[1]
HERE = Path(__file__).parent
PACKAGE = str(Path(gsplat_train.__file__).parents[1])  # what was installed, where something was
ENVIRONMENT = os.environ | {"PYTHONPATH": PACKAGE, "GS_THREADS": "1", "GS_DEVICES_LIMIT": "6"}
SETTINGS = {  # 60 views in which two refinements happen
    "backend": "cpp", "steps": 60, "max_splats": 2300, "refine_start": 10, "refine_every": 20, "refine_stop": 0.8,
}  # fmt: skip


def processes(count: int, folder: Path, **wanted: Any) -> list[dict[str, Any]]:
    """What each of `count` processes of devices_worker.py found."""
    commons = ENVIRONMENT | (_ring(count, folder) if count > 1 else {})
    running = [
        subprocess.Popen(
            [sys.executable, "devices_worker.py", json.dumps(wanted)],
            cwd=HERE,
            env=commons | ({"MLX_RANK": str(rank)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=120) for process in running]
    for process, (_, error) in zip(running, said, strict=True):
        assert process.returncode == 0, error
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (2, {}),
        (3, {"strategy": "adc", "grow_gradient": 1e-5}),
        (4, {"exposure": "gain"}),
        (2, {"batch": 4, "backend": "python", "steps": 24, "max_splats": 330, "refine_every": 8}),
    ],
)
def test_devices_end_in_the_bytes_of_one_that_takes_all_views(
    count: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Photos of two sizes, refinements, and at the end a step with fewer views than devices."""
    load_backend("cpp")
    settings = SETTINGS | changes
    settings["steps"] += 1
    points = 300 if settings["backend"] == "python" else 2000
    found = processes(count, tmp_path, settings=settings, points=points)
    (alone,) = processes(1, tmp_path, settings={"batch": count} | settings, points=points)
    assert alone["step"] == settings["steps"] and alone["n"] > points and not alone["ended"]
    assert all(each == alone for each in found)


def test_what_is_not_finite_on_one_device_stops_all_at_the_same_step(tmp_path: Path) -> None:
    load_backend("cpp")
    found = processes(3, tmp_path, settings=SETTINGS | {"refine_every": 1000}, spoilt=1)
    assert found[0]["ended"] == "TrainingDiverged" and found[0]["step"] == 21
    assert found[1] == found[0] and found[2] == found[0]


@pytest.mark.usefixtures("clang")
def test_too_little_room_on_one_device_changes_no_byte(tmp_path: Path) -> None:
    """The GPU's kernels, emulated: one process's lists are too short for its views, so all repeat their steps; and the
    arrays have room for splats that come.
    """
    settings = {"backend": "cpp", "steps": 13, "max_splats": 80, "refine_start": 3, "refine_every": 4}
    settings["refine_stop"] = 0.9
    emulated: dict[str, Any] = {"settings": settings, "points": 60, "emulated": True}
    found = processes(2, tmp_path, small=1, **emulated)
    (alone,) = processes(1, tmp_path, **emulated | {"settings": settings | {"batch": 2}})
    assert found[0]["launched"] == found[1]["launched"] > alone["launched"]
    assert {each["hash"] for each in found} == {alone["hash"]} and alone["step"] == 13 and alone["n"] > 63


# ---- the command ----


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices") / "scene"
    write_demo(folder, make_demo(n_views=10, width=48, height=36, n_points=500))
    return folder


def command(scene: Path, out: Path, *more: str) -> list[str]:
    sets = ["refine_start=10", "refine_every=20", "sh_interval=10", "checkpoint_every=40", "eval_every=1000"]
    settings = [word for each in sets for word in ("--set", each)]
    return [
        sys.executable, "-P", "-m", "gsplat_train", "train", str(scene), "--backend", "cpp", "--max-splats", "600",
        "--trust", "--progress", "plain", "--out", str(out), *settings, *more,
    ]  # fmt: skip


def run(*arguments: Any, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT | env, capture_output=True, text=True, timeout=120
    )


def test_a_run_on_devices_resumes_on_another_number_of_them(scene: Path, tmp_path: Path) -> None:
    load_backend("cpp")
    first = run(scene, tmp_path / "a", "--steps", "80", "--devices", "4")
    assert first.returncode == 0, first.stderr
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["devices"] == metrics["batch"] == 4 and metrics["steps"] == 80
    whole = (tmp_path / "a" / "point_cloud.ply").read_bytes()
    half = run(scene, tmp_path / "b", "--steps", "40", "--set", "schedule_steps=80", "--devices", "4")
    assert half.returncode == 0, half.stderr
    more = ["--resume", "--steps", "80"]
    second = run(scene, tmp_path / "b", *more, "--devices", "2")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "b" / "point_cloud.ply").read_bytes() == whole, "four views a step still, two a device"
    third = run(scene, tmp_path / "b", "--resume", "--steps", "100", "--devices", "3")
    assert third.returncode == 0 and "the run took 4 views a step, from now on 3" in third.stderr, (
        third.stderr
    )


@pytest.mark.parametrize(("number", "rank"), [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1)])
def test_a_lost_device_ends_all_with_one_line_that_names_the_last_checkpoint(
    number: int, rank: int, scene: Path, tmp_path: Path
) -> None:
    load_backend("cpp")
    out = tmp_path / "run"
    process = under_way(scene, out)
    os.kill(child(process.pid, rank), number)
    begun = time.monotonic()
    _, said = process.communicate(timeout=40)
    assert process.returncode == 7, said
    assert time.monotonic() - begun < 25
    lines = said.strip().splitlines()
    assert len(lines) == 1 and "the last checkpoint is" in lines[0] and "--resume" in lines[0], said
    again = run(scene, out, "--resume", "--steps", "1000000", "--devices", "2", "--set", "batch=3")
    assert again.returncode == 2, "a resumed run keeps its settings"


def test_an_interrupted_run_on_devices_is_saved(scene: Path, tmp_path: Path) -> None:
    load_backend("cpp")
    out = tmp_path / "run"
    process = under_way(scene, out)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 130 and "state saved in" in said, said
    assert len(said.strip().splitlines()) <= 2, said


def under_way(scene: Path, out: Path) -> subprocess.Popen[str]:
    """A run on two devices that has saved its first state."""
    arguments = command(scene, out, "--steps", "1000000", "--devices", "2", "--quiet")
    process = subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(out / "checkpoints" / "step_0000040.json")
    return process


def wait_for(path: Path) -> None:
    ends = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < ends, f"{path} did not come"
        time.sleep(0.05)


def child(parent: int, rank: int) -> int:
    """The process of that rank which `parent` started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(status[1]) == parent and f"MLX_RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def test_what_cannot_be_is_said_in_one_line(scene: Path, tmp_path: Path) -> None:
    load_backend("cpp")
    uneven = run(scene, tmp_path / "a", "--devices", "2", "--set", "batch=3", "--steps", "10")
    assert uneven.returncode == 2
    assert (
        uneven.stderr.strip()
        .splitlines()[-1]
        .startswith("gs-train: steps over batch=3 views cannot be dealt to 2")
    )
    many = run(scene, tmp_path / "b", "--devices", "9", "--steps", "10")
    assert many.returncode == 2 and "needs as many to train on" in many.stderr
    seen = run(scene, tmp_path / "c", "--devices", "2", "--viewer")
    assert seen.returncode == 2 and "--viewer is for the training of one device" in seen.stderr
    limit = run(scene, tmp_path / "d", "--devices", "2", GS_DEVICES_LIMIT="soon")
    assert limit.returncode == 2 and limit.stderr.startswith("gs-train: GS_DEVICES_LIMIT must be seconds")


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "-1", "0", "1e9"])
def test_a_limit_of_no_seconds_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"GS_DEVICES_LIMIT must be seconds.*got '{text}'"):
        limit_of(text)
    assert limit_of("6") == 6


# ---- alone ----


def test_views_are_dealt_in_order() -> None:
    company = Company.__new__(Company)
    company.size = 2
    assert company.deal(1) == 2 and company.deal(4) == 4 and company.each == 2
    company.rank = 1
    assert (
        company.own((0, 1, 2, 3)) == (2, 3) and company.own((0, 1, 2)) == (2,) and company.own((0, 1)) == ()
    )
    assert [company.takes(place) for place in range(4)] == [False, False, True, True]
    with pytest.raises(UserError, match="batch=5 views cannot be dealt to 2"):
        company.deal(5)
    assert ALONE.own((0, 1)) == (0, 1) and ALONE.takes(1) and ALONE.agree(True, False)


def test_each_gpu_takes_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(stdout="2\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *arguments, **options: answer)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert devices._gpus() == ["3", "5"]
    with pytest.raises(UserError, match="--devices 3: this machine shows 2 NVIDIA GPUs"):
        devices.start(3, "cuda", [])
    answer.stdout = "0\n"
    with pytest.raises(UserError, match="--devices 2: this machine shows 0 NVIDIA GPUs"):
        devices.start(2, "cuda", [])


def test_the_command_line_of_a_device_has_no_devices() -> None:
    assert without_devices(["a", "--devices", "2", "--seed", "3"]) == ["a", "--seed", "3"]
    assert without_devices(["--devices=2", "a"]) == ["a"]
