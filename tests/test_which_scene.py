# SPDX-License-Identifier: Apache-2.0
"""The scene of gs-train: SCENE, or what a configuration or the run that goes on names; and what of a file is for it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_cli import SHORT, STEPS, call, environment, folder, trained  # noqa: F401  # fixtures

from gsplat_train import config, effects
from gsplat_train.cli.which_scene import difference, scene_of
from gsplat_train.errors import UserError


def stored(run: Path) -> dict[str, Any]:
    return config.read(run / "config.toml")


def test_a_configuration_names_the_scene(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "room").symlink_to(folder)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.toml").write_text('scene = "room"\nsteps = 5\n')  # from the working directory
    said = call("train", "--config", "sub/mine.toml", "--check", cwd=tmp_path)
    assert str(folder.resolve()) in said.stderr and "names the scene" not in said.stderr
    run, again = tmp_path / "run", tmp_path / "again"
    call(
        "train", "--config", "sub/mine.toml", "--backend", tiny.BACKEND, "--out", run, "--quiet", cwd=tmp_path
    )
    assert (stored(run)["scene"], stored(run)["steps"]) == (str(folder.resolve()), 5)
    call("train", "--config", run / "config.toml", "--out", again, "--quiet", cwd=Path("/"))
    assert stored(again) == stored(run)
    assert (again / "point_cloud.ply").read_bytes() == (run / "point_cloud.ply").read_bytes()
    call("train", "--config", "sub/mine.toml", "--out", run, "--resume", "--quiet", cwd=tmp_path)
    assert (
        "holds a run; go on with it"
        in call("train", "--config", run / "config.toml", "--out", run, code=2).stderr
    )


def test_the_run_that_goes_on_names_the_scene(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    run = shutil.copytree(trained[0], tmp_path / "run")
    call("train", "--resume", "--out", run, "--steps", STEPS + 2, cwd=tmp_path)
    assert json.loads((run / "metrics.json").read_text())["steps"] == STEPS + 2
    (tmp_path / "seeds").mkdir()
    shutil.copytree(run, tmp_path / "seeds" / "seed_0")
    call("train", "--resume", "--out", "seeds", "--seeds", 1, "--quiet", cwd=tmp_path)
    text = (run / "config.toml").read_text().replace(stored(run)["scene"], "/gone")
    (run / "config.toml").write_text(text)
    said = call("train", "--resume", "--out", run, code=2).stderr
    assert f"{run}/config.toml names the scene /gone, which is not there; say where it is now" in said


def test_the_run_of_photos_that_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "scene").mkdir(parents=True)
    (run / "scene" / "prepare.json").write_text(json.dumps({"made_from": {"input": str(tmp_path)}}))
    assert scene_of(None, None, run, True) == str(tmp_path)  # it was ended while cameras were found
    (run / "config.toml").write_text('scene = "/elsewhere/run/scene"\n')
    assert scene_of(None, None, run, True) == str(run / "scene")  # it has moved, and its scene with it


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "none.toml"], "which scene? none.toml names none; give a folder or a built-in's name, as in: "),
        (["--config", "empty.toml"], "which scene? empty.toml names none"),
        (["--config", "demo_fast"], "as in: gs-train demo --config demo_fast"),
        (["--config", "fast"], "which scene? fast is a configuration of demo, fern; as in: gs-train demo --config fas"),
        (["--config", "gone.toml"], "gone.toml names the scene gone, which is not there; say where it is now: gs-trai"),
        (["--config", "sub/b.toml"], "paths in it are from the working directory; give it: gs-train sub/room --config"),
        (["--config", "nothing"], "no configuration nothing: neither a file nor one of adc"),
        (["--config", "run"], "--config takes a file, and run is a folder; give run/config.toml"),
        (["demo", "--config", "run"], "give run/config.toml"),
        (["demo", "--config", "a", "--config", "b"], "--config a --config b: one file is taken; put their settings"),
        (["none.toml"], "no scene; train on the one that it names: gs-train --config none.toml"),
        (["run"], "run is the folder of a run, no scene; go on with it: gs-train --resume --out run; or do it again"),
        (["run", "--resume"], "go on with it: gs-train --resume --out run"),
        (["--resume"], "which scene? --resume goes on with its newest run, or with the one that --out names; give a"),
        (["--resume", "--out", "run"], "which scene? run holds no run that names one"),  # trained in Python
        (["--resume", "--out", "run", "--config", "none.toml"], "which scene? none.toml names none, nor does run"),
        (["--steps", "5"], "which scene? give a folder or a built-in's name, as in: gs-train demo"),
    ],
)  # fmt: skip
def test_which_scene_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_idle import begin

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gs-train", *arguments])  # none at all: how to begin is told
    for name, text in (("none", "steps = 5"), ("empty", 'scene = ""'), ("gone", 'scene = "gone"')):
        Path(f"{name}.toml").write_text(f"{text}\n")
    Path("sub/room").mkdir(parents=True)
    Path("sub/b.toml").write_text('scene = "room"\n')
    Path("run/previews").mkdir(parents=True)
    Path("run/config.toml").write_text('scene = ""\n')
    Path("run/log.jsonl").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        begin("train", *arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scene_that_is_given_wins_and_that_is_told(trained: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    record = trained[0] / "config.toml"
    other = shutil.copytree(folder, tmp_path / "other")
    said = call("train", other, "--config", record, "--check", cwd=tmp_path).stderr.splitlines()
    assert said[0] == f"{record} names the scene {folder.resolve()}; {other} was given, and is taken"
    said = call("train", "other", "--config", record, "--check", "--quiet", cwd=tmp_path).stderr
    assert said == ""
    run = tmp_path / "run"
    done = call("train", other, "--config", record, "--out", run, "--steps", 5, "--progress", "plain")
    assert done.stderr.count(f"; {other} was given, and is taken") == 1 and stored(run)["scene"] == str(other)
    same = call("train", folder, "--config", record, "--check", cwd=tmp_path).stderr
    assert "names the scene" not in same


def test_what_belongs_to_another_scene_stays_with_it(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Otherwise the demo would be trained under the folder's name, and the demo be looked for in a folder."""
    record = tmp_path / "config.toml"
    record.write_text(config.to_toml(config.configure("demo", {})))
    own = config.configure(str(folder), {}, [record])
    assert (own.reader, own.steps, own.scene) == ("auto", 3000, str(folder.resolve()))
    words = f"{record} names the scene demo; {own.scene} was given, and is taken, without the file's reader"
    assert difference(own.scene, (record,)) == words
    record.write_text(config.to_toml(config.configure(str(folder), {"init": "/a.ply", "images": "small"})))
    demo = config.configure("demo", {}, [record])
    assert (demo.reader, demo.init, demo.images) == ("demo", "", "")
    assert difference("demo", (record,)).endswith("without the file's images and init")
    kept = config.configure(str(folder), {}, [record])
    assert (kept.init, kept.images) == ("/a.ply", "small") and difference(kept.scene, (record,)) == ""
    effects.check_files("demo", [record])
    record.write_text('images = "small"\n')  # of no scene: of any
    assert config.configure(str(folder), {}, [record]).images == "small"


def test_the_data_of_a_built_in_that_a_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GS_DATA", raising=False)
    (tmp_path / "fern").mkdir()
    (tmp_path / "mine.toml").write_text('scene = "fern"\ndata_root = "scenes"\n')
    named = config.configure("fern", {}, [tmp_path / "mine.toml"])
    assert (named.scene, named.data_root) == ("fern", str(tmp_path / "scenes"))  # not ./fern
    assert config.configure("fern", {}).scene == str(tmp_path / "fern")
    (tmp_path / "film.mp4").write_bytes(b"")
    settings = {"scene": "film.mp4", "images": "a"}
    assert config.settings_for(str(tmp_path), settings) == settings  # a video's place is its folder
    assert config.settings_for("/other", {"scene": "a\0b", "images": "a", "steps": 5}) == {"steps": 5}


def test_paths_in_settings_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may go on in another working directory."""
    monkeypatch.chdir(tmp_path)
    for settings in (config.load([{"init": "a.ply"}]), config.load([], {"init": "./a.ply"})):
        assert settings.init == str(tmp_path / "a.ply")
    (tmp_path / "a.toml").write_text('init = "file:///b%FF.ply"\ndata_root = "~"\n')
    assert config.load([tmp_path / "a.toml"]).init == "/b\udcff.ply"
    assert config.load([tmp_path / "a.toml"]).data_root == str(Path.home())


def test_a_run_done_again_with_other_steps_has_schedules_of_these(tmp_path: Path) -> None:
    record = tmp_path / "config.toml"
    for settings in ({}, {"schedule_steps": 100}):  # the second was prolonged
        record.write_text(config.to_toml(config.configure("demo", {"steps": 200} | settings).begun()))
        assert config.configure("demo", {}, [record]).horizon == settings.get("schedule_steps", 200)
        assert config.configure("demo", {"steps": 50}, [record]).begun().horizon == 50
        assert config.configure("demo", {"steps": 50, "schedule_steps": 70}, [record]).horizon == 70
    record.write_text("steps = 200\nschedule_steps = 400\n")  # somebody chose that
    assert config.configure("demo", {"steps": 50}, [record]).horizon == 400


def test_a_file_with_settings_of_several_strategies_may_be_given_again(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "mine.toml"
    file.write_text(f'scene = "{folder}"\n[adc]\nabsgrad = true\n[mcmc]\ngrow_rate = 0.2\n')
    words = ["--config", file, "--out", tmp_path / "run", *SHORT, "--quiet"]
    call("train", *words)
    call("train", *words, "--resume")
    said = call("train", *words, "--resume", "--set", "grow_rate=0.3", code=2).stderr
    assert "a resumed run keeps its settings: grow_rate is 0.2" in said


def test_what_finds_the_scene_loads_little() -> None:
    """Each command line goes through it before anything is told."""
    code = "import sys; import gsplat_train.cli.which_scene; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], env=environment(), text=True).split()
    assert "gsplat_train.config" in loaded
    assert not [
        name for name in loaded if name.startswith(("gsplat_train.prepare", "mlx", "gsplat_train.viewer"))
    ]
