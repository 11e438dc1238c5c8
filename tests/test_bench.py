# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own arithmetic: fits, counts and clocks."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from conftest import load_backend
from metal.emulated import backend as emulated
from metal.fixtures import clang  # noqa: F401

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import bench_cost
import bench_devices
import bench_memory
import bench_old
import bench_photos
import gpu_memory
import machine_share
from bench_scenes import random_scene
from bench_steps import Training

from gsplat_train.losses import ssim_map
from gsplat_train.scene import View


def cells(ms, peak=lambda n: 5e7 + 1000 * n):
    """A table whose times are ms(splats, pixels, threads)."""
    return [
        {
            "n": n, "width": w, "height": h, "threads": t,
            "ms_median": ms(n, w * h, t), "peak_bytes": peak(n),
        }
        for n in (1000, 100_000, 1_000_000) for w, h in ((100, 100), (200, 100)) for t in (1, 2)
    ]  # fmt: skip


class Tensor(np.ndarray):
    """As much of torch's as gsplat's loss takes."""

    def expand(self, channels: int, one: int, rest: int) -> "Tensor":
        return np.broadcast_to(self, (channels, one, self.size)).view(Tensor)

    def contiguous(self) -> "Tensor":
        return self


def conv2d(x, taps, padding, groups):
    """[1, 3, H, W] by taps of one row or one column, the same for each channel, zeros outside."""
    blur = partial(np.convolve, taps[0].ravel(), mode="same")
    assert groups == 3 and sorted(padding) == [0, 5] and taps.shape[2 + padding.index(5)] == 11
    return np.apply_along_axis(blur, 2 + padding.index(5), x)


def test_the_loss_of_gsplats_runs_stands_once_and_is_this_programs(monkeypatch):
    torch, nn, functional = ModuleType("torch"), ModuleType("torch.nn"), ModuleType("torch.nn.functional")
    torch.tensor = lambda values, dtype, device: np.asarray(values).view(Tensor)
    torch.float32, functional.conv2d = np.float32, conv2d
    nn.functional, torch.nn = functional, nn
    for name, module in {"torch": torch, "torch.nn": nn, "torch.nn.functional": functional}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "fused_ssim", None)
    import gsplat_loss

    assert gsplat_loss.KIND == "convolutions"
    image, photo = np.random.default_rng(0).random((2, 20, 30, 3), np.float32)
    theirs = gsplat_loss.dssim(*(x.transpose(2, 0, 1)[None] for x in (image, photo)))
    assert theirs == pytest.approx(float(1 - ssim_map(mx.array(image), mx.array(photo)).mean()), abs=1e-5)
    scripts = [
        path for path in Path(gsplat_loss.__file__).parent.glob("*.py") if "conv2d" in path.read_text()
    ]
    assert [path.name for path in scripts] == ["gsplat_loss.py"]


def test_exponents_are_those_of_the_times():
    lines = list(bench_cost.growth(cells(lambda n, pixels, threads: n**0.75 * pixels**0.5 / threads)))
    assert len(lines) == 4 + 6
    for line in lines:
        expected = {"splats": 0.75, "pixels": 0.5}[line["over"]]
        assert line["exponent"] == line["exponent_last"] == expected


def test_the_last_exponent_is_of_the_largest_two():
    lines = list(bench_cost.growth(cells(lambda n, pixels, threads: 1.0 + n / 100_000)))
    splats = [line for line in lines if line["over"] == "splats"]
    assert all(line["exponent"] < 0.5 < line["exponent_last"] for line in splats)


def test_speed_up_and_memory():
    table = cells(lambda n, pixels, threads: 3.0 / threads)
    assert [line["speed_up"] for line in bench_cost.speed_up(table)] == [2.0] * 6
    lines = list(bench_cost.memory(table))
    assert [line["bytes_per_splat"] for line in lines] == [1000] * 4
    assert {(line["from"], line["to"]) for line in lines} == {(100_000, 1_000_000)}


@pytest.mark.parametrize(("width", "height"), [(125, 93), (64, 48)])
def test_the_sample_counts_what_the_native_loops_count(width, height):
    """All tiles sampled: the same evaluations, but for pixels that a rounding puts over a threshold."""
    cpp = load_backend("cpp")
    gaussians, camera, photo = random_scene(4000, width, height, 0)
    use = machine_share.lane_use(cpp, gaussians, [camera], sample=10_000)
    run = Training("cpp", gaussians, [View("random", camera, photo)], 0, 0, restarts=False)
    run.step()
    run.count()
    assert use["forward"] == pytest.approx(run.counts()["evaluations"], rel=2e-4)
    assert 0.3 < use["lanes"] / (16 * use["forward"]) <= use["lanes"] / (16 * use["backward"]) < 1


def test_a_training_starts_again_where_it_was():
    load_backend("cpp")
    gaussians, camera, photo = random_scene(500, 64, 48, 0)
    run = Training("cpp", gaussians, [View("random", camera, photo)], 0, warm_up=3)
    results = []
    for _ in range(2):
        run.restart()
        assert run.state.step == 3
        run.step()
        results.append(np.array(run.state.gaussians.means))
    assert run.state.step == 4 and results[0].tobytes() == results[1].tobytes()


def test_the_clock_is_a_processors():
    clock = machine_share.clock_hz()
    if clock is None:
        pytest.skip("measured on x86-64 only, where memory may be written and run")
    assert 5e8 < clock < 8e9


def test_two_checkouts_take_turns():
    case = {"n": 20, "width": 32, "height": 24, "scene": None}
    line = bench_old.compare(str(Path(bench_old.__file__).parents[1]), "python", case, pairs=3)
    assert line["ms"] > 0 and 0.2 < line["ratio"] < 5, line  # the same code twice, on a busy machine


@pytest.mark.usefixtures("clang")
def test_the_memory_of_a_gpu_is_measured(monkeypatch):
    backend = emulated()
    monkeypatch.setattr("gsplat_train.backends.load", lambda name: backend)
    monkeypatch.setattr(gpu_memory, "WARM", 1)
    monkeypatch.setattr(gpu_memory, "STEPS", 2)
    args = SimpleNamespace(backend="metal", splats=60, width=40, height=36, photos=3)
    found = gpu_memory.measure(0.0, args)
    assert found["step_ms"] > 0 and found["photos_kept"] == 3 and found["window"] == 16
    assert found["peak_mb"] <= found["peak_with_refinement_mb"] < 100


def test_photos_larger_than_memory_keep_up_with_a_step_of_5_ms(tmp_path, monkeypatch):
    """The small version of what RELIABILITY.md says of 2,000 photos."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    bench_photos.make_scene(tmp_path / "scene", photos=24, width=640, height=400, points=300)
    waiting = []
    for _ in range(3):  # a loaded machine wakes threads late now and then
        found = bench_photos.feed(tmp_path / "scene", "30M", 5.0, 200)
        waiting.append(found["waiting"])
        if waiting[-1] <= 0.05:
            break
    assert list((tmp_path / "cache").glob("*.photos")), "they are larger than memory here"
    assert found["bytes"] == 24 * 640 * 400 * 3 and found["steps"] == 200
    assert min(waiting) <= 0.05, waiting


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told by /proc")
def test_what_a_training_takes_of_memory_is_measured():
    found = bench_memory.measure("cpp" if _has_cpp() else "python", 64, 48, 500, {})
    assert found["before"] > 1e7 and set(found) == {"before", *bench_memory.PHASES}
    assert all(0 <= found[phase] < 1e9 for phase in bench_memory.PHASES)


def _has_cpp():
    from gsplat_train import backends

    return backends.available()["cpp"] is None


def test_devices_beside_one(monkeypatch, capsys):
    load_backend("cpp")
    arguments = ["--backend", "cpp", "--devices", "1", "2", "--small", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["bench_devices.py", *arguments])
    bench_devices.main()
    said = capsys.readouterr().out
    assert "2 devices, 2,000 splats, 30 steps: the bytes of one" in said and "| 2,000 | 2 |" in said


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("bench.py", ["step", "--scene", "fern"], "data/fern is not there"),
        ("compare.py", ["nothing.toml"], "cannot read the variants in nothing.toml"),
        ("time_left.py", ["nothing"], "cannot read the settings in nothing"),
    ],
)
def test_scripts_tell_wrong_input_in_one_line(
    script: str, arguments: list[str], says: str, tmp_path: Path
) -> None:
    """As the commands do; the first stands in the README, and who has no Fern met its traceback."""
    path = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, path / "scripts" / script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "GS_DATA"} | {"PYTHONPATH": str(path)},
        timeout=60,
    )
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.startswith(f"{script}: ") and done.stderr.count("\n") == 1
