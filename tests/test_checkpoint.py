# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: everything comes back, damage is found, a failed writing leaves what was there."""

import errno
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny import random_state

from gsplat_train import storage
from gsplat_train.errors import StorageError, UserError
from gsplat_train.model.gaussians import Gaussians, scene_frame
from gsplat_train.model.io import load_model
from gsplat_train.scene import Similarity
from gsplat_train.training import checkpoint, rows
from gsplat_train.training.checkpoint import Checkpoint


def state_at(step: int, n: int = 7) -> Checkpoint:
    state = random_state(n, seed=step)
    state.step = step
    rng = np.random.default_rng(step)
    state.sums = {name: rng.random(n).astype(np.float32) for name in rows.SUMS}
    return Checkpoint(
        state=state,
        similarity=Similarity(np.array([1.0, -2.0, 1 / 3]), 5.2),
        antialiased=True,
        rng=dict(rng.bit_generator.state),
        extra={"groups.exposure.values": np.arange(6, dtype=np.float32).reshape(1, 6)},
        names=["a.png"],
        progress={"seconds": 1.25, "warned": False},
    )


def messages() -> list[str]:
    return []


def test_everything_comes_back(tmp_path: Path) -> None:
    before = state_at(100)
    path = checkpoint.save(tmp_path, before, keep=2)
    for args in (path, path.with_suffix(".safetensors")):
        after = checkpoint.load(args)
        for tree in ("gaussians", "m", "v"):
            ours, theirs = (rows.rows(getattr(c.state, tree)) for c in (before, after))
            assert all((ours[name] == theirs[name]).all() for name in Gaussians._fields)
        assert after.state.step == 100 and after.antialiased
        assert (after.similarity.centre == before.similarity.centre).all() and after.similarity.scale == 5.2
        assert (after.state.sums["absgrad_norm"] == before.state.sums["absgrad_norm"]).all()
        assert after.progress == before.progress and after.names == ["a.png"]
        assert after.extra["groups.exposure.values"].tolist() == [[0, 1, 2, 3, 4, 5]]
        generators = [np.random.default_rng(0) for _ in range(2)]
        for generator, c in zip(generators, (before, after), strict=True):
            generator.bit_generator.state = c.rng
        assert generators[0].random() == generators[1].random()


def test_what_comes_back_can_be_trained_in_place(tmp_path: Path) -> None:
    after = checkpoint.load(checkpoint.save(tmp_path, state_at(1), keep=1))
    rows.rows(after.state.gaussians)["means"][0] = 9
    after.state.sums["count"] += 1
    assert np.asarray(after.state.gaussians.means)[0, 0] == 9


def test_the_file_is_safetensors_and_a_function_of_the_state(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a", state_at(5), keep=1).with_suffix(".safetensors")
    tensors = mx.load(str(path))
    assert {"means", "m.shN", "v.quats", "sums.count"} <= set(tensors) and len(tensors) == 22
    assert mx.array_equal(tensors["v.quats"], state_at(5).state.v.quats)
    again = checkpoint.save(tmp_path / "b", state_at(5), keep=1).with_suffix(".safetensors")
    assert path.read_bytes() == again.read_bytes()


def test_the_newest_few_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        (tmp_path / ".step_0000900.safetensors.77.tmp").write_bytes(b"left by a killed writer")
        checkpoint.save(tmp_path, state_at(step), keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step_0000{step}.{end}" for step in (200, 300) for end in ("json", "safetensors")]


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "remove", "json", "json_empty", "json_number", "json_list"]
)
def test_a_damaged_one_is_said_and_the_one_before_is_taken(damage: str, tmp_path: Path) -> None:
    for step in (1, 2):
        newest = checkpoint.save(tmp_path, state_at(step), keep=2)
    tensors = newest.with_suffix(".safetensors")
    content = tensors.read_bytes()
    match damage:
        case "truncate":
            tensors.write_bytes(content[:-4])
        case "flip":
            tensors.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        case "remove":
            tensors.unlink()
        case "json":
            newest.write_text(newest.read_text()[:50])
        case "json_empty":
            newest.write_text("")
        case "json_number":
            newest.write_text(json.dumps(json.loads(newest.read_text()) | {"similarity": 3}))
        case "json_list":
            newest.write_text("[]")
    said = messages()
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.state.step == 1
    assert len(said) == 1 and str(newest.stem) in said[0] and "\n" not in said[0]
    with pytest.raises(UserError, match="step_0000002"):
        checkpoint.load(newest)


def test_no_checkpoint_and_none_that_can_be_read(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, print) is None
    assert checkpoint.newest(tmp_path / "absent", print) is None
    checkpoint.save(tmp_path, state_at(1), keep=2).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.newest(tmp_path, lambda line: None)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state_at(1), keep=2)
    path.write_text(path.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(UserError, match="format 99"):
        checkpoint.load(path)


def test_the_one_just_written_stays_and_an_abandoned_future_goes(tmp_path: Path) -> None:
    """Resumed at step 2 because step 9 was damaged: what is written next is newer than both."""
    checkpoint.save(tmp_path, state_at(9), keep=2).write_text("{")
    for step in (2, 3):
        written = checkpoint.save(tmp_path, state_at(step), keep=1)
        assert checkpoint.load(written).state.step == step
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_a_run_of_version_0_1_is_refused_in_one_line_and_can_be_looked_at(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state_at(1), keep=2)
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(UserError, match=r"version 0\.1.*start a new run"):
        checkpoint.load(path)
    assert load_model(path).means.shape == (7, 3)


@pytest.mark.parametrize("change", [{"rng": {}}, {"progress": 3}, {"step": -5}, {"names": None}])
def test_a_json_of_another_hand_is_damaged_not_a_traceback(change: dict, tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state_at(1), keep=2)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("written", [0, 1])
def test_a_full_disk_leaves_the_checkpoint_before(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills while the tensors (0 files written) or the JSON (1) are written."""
    checkpoint.save(tmp_path, state_at(1), keep=2)
    calls = 0
    real = storage.os.replace

    def full(source: str, target: str) -> None:
        nonlocal calls
        calls += 1
        if calls > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save(tmp_path, state_at(2), keep=2)
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None and found.state.step == 1
    assert not list(tmp_path.glob(".*"))


def test_scene_frame_moves_means_and_scales_only() -> None:
    state = random_state(4)
    moved = scene_frame(state.gaussians, Similarity(np.array([1.0, 2.0, 3.0]), 2.0))
    before = state.gaussians
    assert np.asarray(moved.means) == pytest.approx(2 * np.asarray(before.means) + [1, 2, 3], rel=1e-6)
    assert np.asarray(moved.scales) == pytest.approx(2 * np.asarray(before.scales), rel=1e-6)
    for name in ("quats", "logit_opacities", "sh0", "shN"):
        assert mx.array_equal(getattr(moved, name), getattr(before, name))
