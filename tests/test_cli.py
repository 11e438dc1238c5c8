# SPDX-License-Identifier: Apache-2.0
"""The commands, run as a user runs them: what they write, what they print where, how they fail."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

import gsplat_train
from gsplat_train.cli.render_views import file_names
from gsplat_train.datasets import load_scene
from gsplat_train.datasets.demo import write_demo
from gsplat_train.model.formats import ply
from gsplat_train.scene import View

PACKAGE = Path(gsplat_train.__file__).parent
STEPS = 40
SHORT = [
    "--steps", str(STEPS), "--backend", tiny.BACKEND, "--max-splats", "400", "--set", "checkpoint_every=20",
    "--set", "eval_every=20", "--set", "refine_start=5", "--set", "refine_every=5",
]  # fmt: skip


def command(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", f"gsplat_train.cli.{program}", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GS_DATA": "", "COLUMNS": "100"} | more


def call(
    program: str, *arguments: object, code: int = 0, cwd: Path | None = None, lines: int = 1, **env: str
) -> Any:
    """Runs a command that shall end with `code`; one that fails says so in one line and nothing else (or warnings
    before it: `lines` in all).
    """
    done = subprocess.run(
        command(program, *arguments),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    if code not in (0, 130):
        said = done.stderr.splitlines()
        assert len(said) == lines and said[-1].startswith(f"gs-{program}: ") and not done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COLMAP folder of one's own."""
    path = tmp_path_factory.mktemp("scenes") / "my room"
    write_demo(path, tiny.scene())
    return path


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished run, and what the command said."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    return run, call("train", folder, "--out", run, *SHORT)


# --- what works


@pytest.mark.parametrize("program", ["train", "render", "export"])
def test_help_is_instant(program: str) -> None:
    """In processor time, which a busy machine does not change much; alone that is the time waited."""
    times = []
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "Usage" in call(program, "--help").stdout
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
    assert min(times) < 0.5


def test_help_and_the_public_names_load_no_mlx() -> None:
    modules = "sys, gsplat_train, gsplat_train.cli.train, gsplat_train.cli.render"
    code = f"import {modules}; print('mlx.core' in sys.modules)"
    assert (
        subprocess.check_output([sys.executable, "-c", code], env=environment(), text=True).strip() == "False"
    )


def test_public_names_are_what_they_should_be_whatever_was_imported_before() -> None:
    code = (
        "import gsplat_train.renderer, gsplat_train.training.api, gsplat_train.training\n"
        "from gsplat_train import Camera, Gaussians, Scene, load_scene, load_model, render\n"
        "assert callable(render) and callable(load_model) and callable(load_scene)\n"
        "from gsplat_train.renderer import RenderOutput\n"
        "import gsplat_train\n"
        "assert gsplat_train.render is render and callable(gsplat_train.train)\n"
        "gsplat_train.nothing\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'gsplat_train' has no attribute 'nothing'"


def test_a_run_holds_what_the_interface_says(trained, folder: Path) -> None:
    run, _ = trained
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["scene"] == "my room" and metrics["steps"] == STEPS and metrics["backend"] == tiny.BACKEND
    assert (metrics["width"], metrics["height"], metrics["undistort"], metrics["seed"]) == (48, 36, None, 0)
    for name in ("n_splats", "seconds", "it_per_s", "peak_memory_mb", "wall_seconds"):
        assert metrics[name] > 0
    assert {"version", "commit", "test", "train"} <= set(metrics)
    views = metrics["test"]["views"]
    assert set(views) == {"view_00.png", "view_08.png"}
    assert metrics["test"]["psnr"] == pytest.approx(np.mean([view["psnr"] for view in views.values()]))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = {"step", "loss", "l1", "ssim", "n_splats", "it_per_s", "seconds", "peak_memory_mb"}
    assert all(names <= set(line) for line in lines) and "test" in lines[-1]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        f"step_00000{step}.{end}" for step in (20, 40) for end in ("json", "safetensors")
    ]
    preview = Image.open(run / "previews" / "test_view_00_0000040.png")
    assert preview.size == (3 * 48, 36)
    assert f'scene = "{folder.resolve()}"' in (run / "config.toml").read_text()
    assert len(ply.read(run / "point_cloud.ply").arrays["means"]) == metrics["n_splats"]


def test_standard_output_is_the_result_and_the_last_message_says_where_it_is(trained) -> None:
    run, done = trained
    assert (
        json.loads(done.stdout)["test"]["psnr"]
        == json.loads((run / "metrics.json").read_text())["test"]["psnr"]
    )
    last = done.stderr.splitlines()[-1]
    assert str(run / "point_cloud.ply") in last and "SuperSplat" in last


def test_the_model_lies_in_the_scenes_own_frame(trained) -> None:
    means = ply.read(trained[0] / "point_cloud.ply").arrays["means"]
    points = tiny.scene().points
    assert (
        np.abs(np.median(means, axis=0) - np.median(points, axis=0)).max()
        < 0.1 * np.ptp(points, axis=0).max()
    )


def test_render_writes_every_view_with_metrics(trained, tmp_path: Path) -> None:
    run, _ = trained
    done = call("render", run, "--out", tmp_path / "all", "--split", "all")
    names = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert names == ["metrics.json", *(f"view_0{i}.png" for i in range(9))]
    call("render", run / "point_cloud.ply", "--backend", tiny.BACKEND)  # beside the model, its config known
    assert (run / "renders" / "view_08.png").is_file() and not (run / "renders" / "view_01.png").exists()
    ours = json.loads((run / "renders" / "metrics.json").read_text())
    # The file is in the scene's frame, training in its own: between the two float32 moves a pixel now and then by
    # one of 255 steps, which is below 1e-4 of a score of these 48x36 pixels.
    scores = json.loads((run / "metrics.json").read_text())["test"]
    assert ours["views"].keys() == scores["views"].keys()
    for found, wanted in [(ours, scores), *((ours["views"][k], scores["views"][k]) for k in ours["views"])]:
        assert {k: v for k, v in found.items() if k != "views"} == pytest.approx(
            {k: v for k, v in wanted.items() if k != "views"}, rel=1e-4
        )
    assert json.loads(done.stdout)["psnr"] != ours["psnr"]
    photo, picture = (
        np.asarray(tiny.scene().views[0].image),
        np.asarray(Image.open(run / "renders" / "view_00.png")),
    )
    error = np.mean((photo / 255.0 - picture / 255.0) ** 2)
    assert -10 * np.log10(error) == pytest.approx(ours["views"]["view_00.png"]["psnr"])


def test_no_two_views_get_one_file() -> None:
    names = ("a.jpg", "a.png", "a.jpg.png", "b.jpg")
    files = file_names(tuple(View(name, None) for name in names))  # type: ignore[arg-type]
    assert len(set(files.values())) == len(names)
    assert file_names((View("b.jpg", None),)) == {"b.jpg": "b.png"}  # type: ignore[arg-type]


def test_render_of_a_ply_elsewhere_takes_the_scene(trained, folder: Path, tmp_path: Path) -> None:
    shutil.copy(trained[0] / "point_cloud.ply", tmp_path / "model.ply")
    assert "--scene" in call("render", tmp_path / "model.ply", code=2).stderr
    call("render", tmp_path / "model.ply", "--scene", folder, "--set", "test_every=4")
    assert sorted(path.name for path in (tmp_path / "renders").glob("*.png")) == [
        f"view_0{i}.png" for i in (0, 4, 8)
    ]


def test_export_gives_the_same_ply_from_run_checkpoint_and_ply(trained, tmp_path: Path) -> None:
    run, _ = trained
    expected = (run / "point_cloud.ply").read_bytes()
    for model in (run, run / "point_cloud.ply", run / "checkpoints" / "step_0000040.safetensors"):
        call("export", model, tmp_path / "out.ply")
        assert (tmp_path / "out.ply").read_bytes() == expected


def test_antialiased_travels_with_the_model(folder: Path, tmp_path: Path) -> None:
    call("train", folder, "--out", tmp_path / "run", *SHORT, "--set", "antialiased=true")
    for model in (tmp_path / "run", tmp_path / "run" / "point_cloud.ply"):
        call("export", model, tmp_path / "out.ply")
        assert ply.read(tmp_path / "out.ply").antialiased


def test_jsonl_progress_is_the_log_and_quiet_says_nothing(folder: Path, tmp_path: Path) -> None:
    done = call("train", folder, "--out", tmp_path, *SHORT, "--progress", "jsonl", "--quiet")
    assert done.stdout == (tmp_path / "log.jsonl").read_text() and done.stderr == ""


def test_runs_are_filed_by_scene_and_the_newest_is_resumed(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        call("train", folder, *SHORT, "--steps", 20, "--quiet", cwd=tmp_path)
    runs = sorted((tmp_path / "runs" / "my room").iterdir())
    assert len(runs) == 2
    before = [(run / "metrics.json").read_bytes() for run in runs]
    call("train", folder, "--steps", 30, "--resume", cwd=tmp_path)
    after = [(run / "metrics.json").read_bytes() for run in runs]
    assert after[0] == before[0] and json.loads(after[1])["steps"] == 30
    assert "schedule_steps = 20" in (runs[1] / "config.toml").read_text()


def test_a_run_whose_settings_cannot_be_read_is_passed_over(folder: Path, tmp_path: Path) -> None:
    call("train", folder, *SHORT, "--steps", 20, "--quiet", cwd=tmp_path)
    runs = tmp_path / "runs" / "my room"
    (good,) = runs.iterdir()
    (runs / "99990101-000000").mkdir()
    (runs / "99990101-000000" / "config.toml").write_text("steps = ")
    done = call("train", folder, "--steps", 30, "--resume", "--quiet", cwd=tmp_path)
    assert json.loads((good / "metrics.json").read_text())["steps"] == 30
    assert re.search(r"^warning: .*99990101-000000/config.toml is not a TOML file", done.stderr)
    shutil.rmtree(good)
    assert "99990101" in call("train", folder, "--resume", code=2, cwd=tmp_path).stderr


def test_names_too_long_for_a_file_are_cut_and_stay_apart(folder: Path, tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(folder, scene)
    model = scene / "sparse" / "0" / "images.bin"
    names = [f"{'é' * 124}{i}.png" for i in (0, 8)]  # of 253 bytes; the second one is held out
    for i, name in zip((0, 8), names, strict=True):
        (scene / "images" / f"view_0{i}.png").rename(scene / "images" / name)
        model.write_bytes(model.read_bytes().replace(f"view_0{i}.png".encode(), name.encode()))
    call("train", scene, "--out", tmp_path / "run", *SHORT, "--set", "preview_views=2")
    call("render", tmp_path / "run", "--split", "all")
    for kind, count in (("previews", 4), ("renders", 9)):
        pictures = [path.name for path in (tmp_path / "run" / kind).glob("*.png")]
        assert len(pictures) == count and sum("é" * 50 in name for name in pictures) == 2


def test_killed_and_resumed_is_uninterrupted_to_the_byte(trained, folder: Path, tmp_path: Path) -> None:
    run, _ = trained
    other = tmp_path / "killed"
    long = [*SHORT, "--set", "log_every=1"]
    process = subprocess.Popen(command("train", folder, "--out", other, *long), env=environment(), stderr=-3)
    deadline = time.monotonic() + 30
    while not (other / "checkpoints" / "step_0000020.json").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()  # no chance to save
    process.wait()
    call("train", folder, "--out", other, *long, "--resume")
    for name in ("point_cloud.ply", "checkpoints/step_0000040.safetensors"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    steps = [json.loads(line)["step"] for line in (other / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_exits_130_and_the_run_goes_on(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["train", folder, "--out", run, *SHORT, "--steps", 100_000, "--set", "log_every=1"]
    process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not ((run / "log.jsonl").exists() and (run / "log.jsonl").stat().st_size > 0):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    step = int(re.search(r"interrupted at step (\d+), state saved", said.splitlines()[-1]).group(1))  # type: ignore[union-attr]
    assert (run / "checkpoints" / f"step_{step:07d}.json").exists()
    call("export", run, tmp_path / "so_far.ply")


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        ("signal.raise_signal(signal.SIGINT)", 130, "gs-x: interrupted"),
        ("signal.raise_signal(signal.SIGTERM)", 130, "gs-x: interrupted"),
        ("raise MemoryError", 6, "gs-x: out of memory"),
        ("raise RuntimeError('[malloc] Unable to allocate 9 bytes.')", 6, "gs-x: out of memory"),
        (
            "raise RuntimeError('cudaMallocAsync(&data, size, stream) failed: out of memory')",
            6,
            "gs-x: out of memory",
        ),
        (
            "raise RuntimeError('[metal::malloc] Attempting to allocate 9 bytes which is greater')",
            6,
            "gs-x: out of memory",
        ),
        (
            "raise RuntimeError('[METAL] Command buffer execution failed: Insufficient Memory (00000008)')",
            6,
            "gs-x: out of memory",
        ),
        ("raise OSError(28, 'No space left on device', 'f')", 5, "gs-x: f: No space left"),
        ("open('/')", 2, "gs-x: /: Is a directory"),
        ("1 / 0", 1, "Traceback"),
    ],
)
def test_the_boundary_turns_what_may_happen_into_exit_codes(action: str, code: int, said: str) -> None:
    imports = "import signal\nfrom gsplat_train.cli import make_app, run"
    program = f"{imports}\ndef x(): {action}\nrun(make_app(x), 'gs-x')"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == code and done.stderr.startswith(said) and not done.stdout


def test_overwrite_replaces_a_run_and_nothing_else(trained, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    call("train", folder, "--out", tmp_path / "run", *SHORT, "--steps", 20, "--overwrite")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("*.json")) == [
        "step_0000020.json"
    ]
    assert (tmp_path / "run" / "notes.txt").exists()
    assert all("40" not in path.name for path in (tmp_path / "run" / "previews").iterdir())


def test_the_demo_is_written_as_a_colmap_folder(folder: Path, tmp_path: Path) -> None:
    call("train", "demo", "--write", "demo", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(load_scene(tmp_path / "demo").views) >= 24
    assert "built-in" in call("train", folder, "--write", tmp_path / "x", code=2).stderr


def test_the_demo_is_written_at_a_size_and_without_cameras(tmp_path: Path) -> None:
    call("train", "demo", "--write", tmp_path / "a", "--size", "64x48", cwd=tmp_path)
    assert {(v.camera.width, v.camera.height) for v in load_scene(tmp_path / "a").views} == {(64, 48)}
    call("train", "demo", "--write", tmp_path / "b", "--size", "64x48", "--photos-only", cwd=tmp_path)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["images"]
    assert len(list((tmp_path / "b" / "images").iterdir())) == 32
    for size in ("64", "64x", "5x5", "9999x9", "-3x4", "axb"):
        output = call("train", "demo", "--write", tmp_path / "c", "--size", size, code=2).stderr
        assert "as 640x480" in output and len(output.splitlines()) == 1
    assert not (tmp_path / "c").exists()
    assert "give --write DIR" in call("train", "demo", "--photos-only", code=2).stderr


def test_three_runs_of_one_second_have_a_folder_each(folder: Path, tmp_path: Path) -> None:
    arguments = [*SHORT, "--steps", 5, "--quiet"]
    started = [
        subprocess.Popen(command("train", folder, "--seed", seed, *arguments), cwd=tmp_path, env=environment(),
                         stdout=subprocess.DEVNULL)
        for seed in range(3)
    ]  # fmt: skip
    assert [process.wait(60) for process in started] == [0, 0, 0]
    runs = list((tmp_path / "runs" / "my room").iterdir())
    seeds = sorted(json.loads((run / "metrics.json").read_text())["seed"] for run in runs)
    assert seeds == [0, 1, 2] and not any((run / "run.lock").exists() for run in runs)


def test_a_second_process_does_not_touch_a_run_that_goes_on(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", folder, "--out", run, *SHORT, "--steps", 100_000, "--set", "log_every=1"]
    process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.DEVNULL)
    while not ((run / "log.jsonl").exists() and (run / "log.jsonl").stat().st_size > 0):
        assert process.poll() is None
        time.sleep(0.01)
    for how in ("--resume", "--overwrite"):
        said = call("train", folder, "--out", run, *SHORT, "--steps", 100_000, how, code=2).stderr
        assert f"in use by process {process.pid}" in said
    process.kill()
    process.wait()
    done = call("train", folder, "--out", run, *SHORT, "--overwrite")
    assert f"process {process.pid}" in done.stderr and "taken over" in done.stderr


def test_a_scene_that_moved_is_named_when_resuming_and_rendering(
    trained, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.copytree(folder, tmp_path / "moved")
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(folder.resolve()), "/gone/with the wind"))
    assert "--scene" in call("render", tmp_path / "run", code=2).stderr
    call("render", tmp_path / "run", "--scene", tmp_path / "moved")
    scores = json.loads((tmp_path / "run" / "renders" / "metrics.json").read_text())
    assert scores == json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    done = call("train", tmp_path / "moved", "--resume", "--out", tmp_path / "run", "--steps", STEPS + 2)
    assert "the scene has moved from /gone/with the wind" in done.stderr


def test_a_scene_on_the_command_line_wins_over_a_configurations(
    trained, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "other")
    call("train", "other", "--config", trained[0] / "config.toml", "--out", "run", "--steps", 5, cwd=tmp_path)
    assert f'scene = "{(tmp_path / "other").resolve()}"' in (tmp_path / "run" / "config.toml").read_text()


def test_a_standard_error_that_goes_away_does_not_end_the_run(folder: Path, tmp_path: Path) -> None:
    words = " ".join(shlex.quote(word) for word in command("train", folder, "--out", tmp_path / "a", *SHORT))
    script = f"({words} --set log_every=1 2>&1 >/dev/null; echo $? > code) | head -n 1; {words} --overwrite >&- 2>&-"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert (tmp_path / "code").read_text() == "0\n" and done.returncode == 0
    assert (tmp_path / "a" / "point_cloud.ply").exists()


# --- what fails, and how


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ferm"], "scene ferm is not there; give a folder or one of demo, fern"),
        (["/nowhere/at all"], "is not there"),
        (["x" * 300], "File name too long"),
        ([__file__], "is not a folder"),
        (["fern"], "no folder data/fern; get the data set"),
        (["fern", "--data-root", "/nowhere"], "no folder /nowhere/fern"),
        (["demo", "--steps", "many"], "--steps"),
        (["demo", "--steps", "0"], "steps must be at least 1, got 0"),
        (["demo", "--stps", "1"], "--stps"),
        (["demo", "--set", "stps=1"], "did you mean steps?"),
        (["demo", "--set", "steps"], "KEY=VALUE"),
        (["demo", "--config", "none"], "no configuration none: neither a file nor one of adc, demo"),
        (["demo", "--backend", "abacus"], "--backend"),
        (["demo", "--resume"], "no run of demo in runs/demo to resume"),
        (["demo", "--resume", "--out", "empty"], "holds no run to resume"),
        (["demo", "--resume", "--overwrite"], "give one of them"),
        (["demo", "--out", __file__], "is a file"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = call("train", *arguments, code=2, cwd=tmp_path)
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    done = call("train", folder, "--set", "test_every=1", code=2, cwd=tmp_path)
    assert "leaves none to train on" in done.stderr
    shutil.copytree(folder, tmp_path / "cut")
    points = tmp_path / "cut" / "sparse" / "0" / "points3D.bin"
    points.write_bytes(points.read_bytes()[:-5])
    assert str(points) in call("train", "cut", code=2, cwd=tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("render", ["none"], "no model at none"),
        ("render", ["."], "is no run"),
        ("render", [__file__], "is no model"),
        ("export", ["none", "out.ply"], "no model at none"),
        ("export", ["none", "out.obj"], "allowed are .ply, .compressed.ply"),
        ("export", ["bad.ply", "out.ply"], "is not a PLY file"),
        ("export", ["bad.ply"], "OUT"),
    ],
)
def test_bad_models_are_one_line(program: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ply").write_text("solid cube")
    assert message in call(program, *arguments, code=2, cwd=tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.ply"]


def test_a_run_goes_on_with_another_backend(trained, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    call("train", folder, "--out", tmp_path / "run", "--resume", "--backend", "python", "--steps", STEPS + 2)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["backend"] == "python" and metrics["steps"] == STEPS + 2
    call("train", folder, "--out", tmp_path / "run", "--resume", "--backend", "auto", "--steps", STEPS + 3)
    assert json.loads((tmp_path / "run/metrics.json").read_text())["backend"] != "python"  # chosen again


def test_a_run_is_not_touched_unasked(trained, folder: Path) -> None:
    run, _ = trained
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "--resume" in call("train", folder, "--out", run, code=2).stderr
    for changed in (
        ["--steps", 10],
        ["--seed", 5],
        ["--set", "lr_sh0=1"],
        ["--max-splats", 9],
        ["--config", "adc"],
    ):
        done = call("train", folder, "--out", run, "--resume", *changed, code=2)
        assert "resumed run" in done.stderr
    assert "is a run of" in call("train", "demo", "--out", run, "--resume", code=2).stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_backend_that_is_not_here_is_exit_3(folder: Path, tmp_path: Path) -> None:
    absent = "cuda" if sys.platform == "darwin" else "metal"
    done = call("train", folder, "--backend", absent, "--out", tmp_path / "run", code=3)
    assert absent in done.stderr and "--backend" in done.stderr and not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_exit_5(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        command("train", folder, "--out", tmp_path / "file" / "run", *SHORT, "--quiet"),
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 5 and "Not a directory" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_damaged_checkpoint_gives_way_to_the_one_before(trained, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    newest = run / "checkpoints" / "step_0000040.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    done = call("train", folder, "--out", run, "--resume")
    assert "step_0000040.json is damaged" in done.stderr and "resuming at step 20" in done.stderr
    assert (run / "point_cloud.ply").read_bytes() == (trained[0] / "point_cloud.ply").read_bytes()
