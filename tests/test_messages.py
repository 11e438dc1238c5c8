# SPDX-License-Identifier: Apache-2.0
"""Lines that misled people, exit codes that were wrong, what was left behind: each as it should be."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostile
import pytest
import tiny
from PIL import Image, features
from test_cli import SHORT, call, command, environment

from gsplat_train.cli import _with_value
from gsplat_train.config import check
from gsplat_train.config import read as read_config
from gsplat_train.datasets import load_scene, scene_folder
from gsplat_train.datasets.decode import decode
from gsplat_train.datasets.demo import load as load_demo
from gsplat_train.datasets.demo import write_demo
from gsplat_train.datasets.options import LoadOptions
from gsplat_train.errors import UserError
from gsplat_train.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "room"
    write_demo(path, tiny.scene())
    return path


# --- F23: misleading lines


def test_a_prefix_lists_its_family() -> None:
    with pytest.raises(UserError, match="did you mean one of lr_means, lr_means_end, lr_scales"):
        check({"lr": 1}, "--set")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("--iterations", "--steps"), ("--resolution", "--max-size"), ("-s", "SCENE")]
)
def test_options_of_other_trainers_are_known(theirs: str, ours: str) -> None:
    assert f"Did you mean {ours}" in call("train", "demo", theirs, 5, code=2).stderr
    assert _with_value("No such option: --iterationsx") == "No such option: --iterationsx"


def test_the_value_is_named() -> None:
    assert "'1e3'" in call("train", "demo", "--steps", "1e3", code=2).stderr


def test_a_reader_that_does_not_fit_names_the_one_that_does(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"no scene for reader=llff.*holds a COLMAP model.*give reader=colmap"
    ):
        load_scene(folder, reader="llff")


def test_a_folder_named_like_a_built_in_scene_is_meant_where_nobody_has_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gsplat_train import config

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GS_DATA", raising=False)
    with pytest.raises(UserError, match="no folder data/fern") as caught:
        scene_folder(config.configure("fern", {}))
    assert "./fern" not in str(caught.value)
    (tmp_path / "fern").mkdir()
    (tmp_path / "demo").mkdir()
    own = config.configure("fern", {})
    assert scene_folder(own) == tmp_path / "fern" and not own.images
    with pytest.raises(UserError, match=r"for the folder fern here give \./fern"):
        scene_folder(config.configure("fern", {"data_root": str(tmp_path / "elsewhere")}))
    (tmp_path / "data/fern").mkdir(parents=True)
    assert scene_folder(config.configure("fern", {})) == Path("data/fern")
    assert config.configure("demo", {}).scene == "demo"


def test_no_configuration_lists_those_there_are(folder: Path) -> None:
    said = call("train", folder, "--config", "fast", code=2).stderr
    assert "no configuration fast: neither a file nor one of" in said and "demo_fast" in said


@pytest.mark.parametrize("ending", ["gif", "webp", "jpg", "tif", "bmp", "jp2", "avif"])
def test_photos_of_other_kinds_are_photos(ending: str, folder: Path) -> None:
    feature = {"jp2": "jpg_2000", "avif": "avif"}.get(ending)
    if feature and not features.check(feature):
        pytest.skip(f"this pillow has no {ending}")
    for path in sorted((folder / "images").iterdir()):
        Image.open(path).save(path.with_suffix(f".{ending}"))
        path.unlink()
    assert len(load_scene(folder, cache=False, trust=True).views) == 9


# --- F28, F26: small things, leftovers


def test_the_built_in_scene_obeys_max_size() -> None:
    scene = load_demo(Path(), LoadOptions(max_size=40))
    assert scene.views[0].image.shape == (30, 40, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("out", ["", "."])
def test_an_empty_out_is_refused(out: str, folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "empty"
    where.mkdir()
    assert "--out is empty" in call("train", folder, "--out", out, code=2, cwd=where).stderr
    assert list(where.iterdir()) == []


def test_a_film_without_a_way_makes_no_folder(tmp_path: Path) -> None:
    said = call("render", "nothing", "--out", "x.mp4", code=2, cwd=tmp_path).stderr
    assert said and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.avi", "x.gif", "x.MOV"])
def test_a_film_of_another_kind_is_no_folder(name: str, folder: Path, tmp_path: Path) -> None:
    call("train", folder, "--out", tmp_path / "run", *SHORT)
    said = call("render", tmp_path / "run", "--path", "orbit", "--out", tmp_path / name, code=2).stderr
    assert "ends in .mp4 or .webm" in said and not (tmp_path / name).exists()


def test_an_address_where_nothing_can_listen_is_told_before_there_is_a_run(
    folder: Path, tmp_path: Path
) -> None:
    said = call("train", folder, "--viewer-at", "203.0.113.7:80", code=2, cwd=tmp_path).stderr
    assert "cannot listen on 203.0.113.7:80" in said and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("train", ["demo", "--steps", "0"], "gs-train: --steps must be at least 1, got 0"),
        ("train", ["demo", "--max-splats", "-3"], "gs-train: --max-splats must be at least 1, got -3"),
        ("train", ["demo", "--progress", "x"], "'--progress': 'x' is not one of 'bar', 'plain', 'jsonl'"),
        ("render", ["m", "--split", "x"], "'--split': 'x' is not one of 'test', 'train', 'all'"),
        (
            "export",
            ["m", "a.ply", "--sh-degree", "9"],
            "'--sh-degree': '9': it must be less than or equal to 3",
        ),
        ("doctor", ["--backend", "x"], "'--backend': 'x' is not one of auto, metal"),
    ],
)
def test_a_wrong_value_is_called_by_its_option(program: str, arguments: list[str], says: str) -> None:
    assert says in call(program, *arguments, code=2).stderr


def test_overwriting_takes_the_renders_of_the_old_model_away(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in ("renders/a.png", "renders/metrics.json", "renders/mine.txt", "best.ply", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    run.clear()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["mine.txt", "notes.txt"]


# --- F25: exit codes; F12: streams that go away, are closed, are full


def shell(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
    )


def words(program: str, *arguments: Any) -> str:
    return shlex.join(command(program, *arguments))


def test_a_reader_that_goes_is_141(tmp_path: Path) -> None:
    done = shell(f"{words('train', '--help')} | true", tmp_path)
    assert done.returncode in (0, 141) and "Traceback" not in done.stderr
    done = shell(f"{words('train', '--settings')} | head -c 1 >/dev/null", tmp_path)
    assert done.returncode in (0, 141) and "Traceback" not in done.stderr


@pytest.mark.parametrize("streams", [">&- 2>&- <&-", ">/dev/full 2>/dev/full", "2>&-", "2>/dev/full >&-"])
def test_no_stream_matters_to_the_work(streams: str, folder: Path, tmp_path: Path) -> None:
    done = shell(f"{words('train', folder, '--out', 'run', *SHORT)} {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "point_cloud.ply").is_file() and (tmp_path / "run" / "report.html").is_file()
    done = shell(f"{words('export', 'run', 'x.spz')} {streams}", tmp_path)
    assert done.returncode == 0 and (tmp_path / "x.spz").is_file()
    shutil.rmtree(tmp_path / "run")
    assert shell(f"{words('train', 'nowhere')} {streams}", tmp_path).returncode == 2


def test_a_result_that_cannot_be_printed_is_exit_5(tmp_path: Path) -> None:
    done = shell(f"{words('train', '--version')} >/dev/full", tmp_path)
    assert done.returncode == 5 and done.stderr == "gs-train: standard output: No space left on device\n"


def test_checkpoints_that_cannot_be_listed_are_said_when_resuming(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    call("train", folder, "--out", run, *SHORT)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("a file")
    said = call("train", folder, "--out", run, "--resume", code=2).stderr
    assert "cannot read the checkpoints in" in said


# --- texts as Windows writes them


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "name", ["transforms.json", "realitycapture", "metashape", "camera path", "test.txt", "toml"]
)
def test_any_text_may_begin_with_a_mark(name: str, encoding: str, tmp_path: Path) -> None:
    """As Notepad and PowerShell write them."""
    if name == "toml":
        (tmp_path / "a.toml").write_text("steps = 20", encoding)
        assert read_config(tmp_path / "a.toml") == {"steps": 20}
        return
    kind = "colmap text" if name == "test.txt" else name
    target = next(target for target in hostile.TARGETS if target.name == kind)
    target.write(tmp_path)
    if name == "test.txt":
        (tmp_path / name).write_text("a.png\n")
    for path in sorted(
        path for path in tmp_path.rglob("*") if path.suffix in (".json", ".csv", ".xml", ".txt")
    ):
        text = path.read_text().replace(
            'encoding="UTF-8"', 'encoding="UTF-16"' if encoding == "utf-16" else ""
        )
        path.write_text(text, encoding)
    hostile.SAID.clear()
    target.read(tmp_path)
    assert not any("test.txt" in line and "warning" in line for line in hostile.SAID), hostile.SAID


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is Linux's")
def test_addresses_too_few_to_load_anything_are_one_line(tmp_path: Path) -> None:
    done = shell(f"ulimit -v 250000; {words('train', 'demo')}", tmp_path)
    assert done.returncode == 6 and done.stderr.startswith(
        "gs-train: this process may take 256 MB of addresses"
    )
    assert done.stderr.count("\n") == 1


# --- no line of another package's


def test_palettes_and_odd_tiffs_bring_no_foreign_line(folder: Path, tmp_path: Path) -> None:
    """Pillow warns of palettes with transparency, libtiff writes on standard error by itself."""
    for path in sorted((folder / "images").glob("*.png")):
        picture = Image.open(path).quantize(32)
        picture.save(path, transparency=bytes([255] * 32))
    broken = folder / "images" / "broken.tif"
    Image.effect_noise((48, 36), 50).convert("RGB").save(broken, compression="tiff_lzw")
    data = bytearray(broken.read_bytes())
    data[20:400] = bytes(range(19)) * 20
    broken.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        decode(broken)
    script = (
        "import sys; from pathlib import Path; from gsplat_train.datasets.decode import decode\n"
        "try: decode(Path(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__)"
    )
    program = shlex.join([sys.executable, "-c", script, str(broken)])
    assert shell(program, tmp_path).stdout == "UserError\n" and shell(program, tmp_path).stderr == ""
    broken.unlink()
    done = call("train", folder, "--out", tmp_path / "run", *SHORT)
    assert "site-packages" not in done.stderr and "Warning" not in done.stderr


def test_a_warning_of_another_package_is_not_for_the_user(tmp_path: Path) -> None:
    script = (
        "import logging, sys, warnings; from gsplat_train import cli\n"
        "def work():\n    warnings.warn('theirs'); logging.getLogger('theirs').error('theirs')\n"
        "sys.argv[1:] = []; cli.run(cli.make_app(work), 'gs-test')"
    )
    assert shell(shlex.join([sys.executable, "-c", script]), tmp_path).stderr == ""
    assert "theirs" in shell(shlex.join([sys.executable, "-Wdefault", "-c", script]), tmp_path).stderr
