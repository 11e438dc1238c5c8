# SPDX-License-Identifier: Apache-2.0
"""Options that cannot have any effect beside the others: who gives one is told, before anything is done."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tiny
import typer
from test_cli import call, environment, folder, trained  # noqa: F401  # fixtures
from test_docs import PROGRAMS

from gsplat_train import config, effects
from gsplat_train.cli import make_app, parse_settings, requested_settings
from gsplat_train.cli.idle import Idle, check
from gsplat_train.errors import UserError


def begin(program: str, *arguments: object) -> None:
    """A command in this process, as far as its options are looked at."""
    app = make_app(getattr(import_module(f"gsplat_train.cli.{program}"), program))
    typer.main.get_command(app).main([*map(str, arguments)], prog_name=program, standalone_mode=False)


WAY = ["--path", "orbit"]
FILE = ["--path", "way.json"]
IDLE: list[tuple[str, list[str], str]] = [
    ("train", ["demo", "--write", "x", "--steps", "5"], "--steps 5 has no effect beside --write x, which writes"),
    ("train", ["demo", "--write", "x", "--no-eval"], "--no-eval has no effect beside --write x"),
    ("train", ["demo", "--write", "x", "--set", "steps=5"], "--set steps=5 has no effect beside --write x"),
    ("train", ["demo", "--write", "x", "--config", "fast"], "--config fast has no effect beside"),
    ("train", ["demo", "--write", "x", "--overwrite"], "--overwrite has no effect beside --write x"),
    ("train", ["demo", "--size", "64x48"], "--size 64x48 has no effect without --write: it says how"),
    ("train", ["demo", "--photos-only"], "--photos-only has no effect without --write"),
    ("train", ["demo", "--json"], "--json has no effect without --check: it is the form of its report; give both"),
    ("train", ["demo", "--overwrite"], "--overwrite has no effect without --out"),
    ("train", ["demo", "--set", "scene=room"], "--set scene=room has no effect: the scene is SCENE"),
    ("train", ["demo", "--steps", "5", "--set", "steps=9"], "--steps says 5 and --set steps=9; give one of them"),
    ("train", [".", "--data-root", "/"], "it needs a built-in scene that has data, as fern; give that, or leave"),
    ("train", ["demo", "--data-root", "/"], "data_root=/ has no effect with scene=demo"),
    ("train", ["demo", "--check", "--fov", "60"], "fov=60 has no effect with reader=demo"),
    ("train", ["--list", "--steps", "5"], "--steps 5 has no effect beside --list, which ends the program; leave one"),
    ("train", ["--no-eval", "--settings"], "--no-eval has no effect beside --settings, which ends the program"),
    ("train", ["demo", "--backends"], "demo has no effect beside --backends"),
    ("train", ["--settings", "--set", "strategy=adc", "--set", "steps=few"], "--set strategy=adc --set steps=few has"),
    ("train", ["--cache", "--clear-cache"], "--clear-cache has no effect beside --cache"),  # nothing is removed
    ("train", ["--steps", "few", "--version"], "--steps few has no effect beside --version"),
    ("train", ["--invert-masks", "--show-completion"], "--invert-masks has no effect beside --show-completion"),
    ("render", ["m", "--version"], "m has no effect beside --version"),
    ("doctor", ["a", "--version"], "a has no effect beside --version"),  # which no argument is for
    ("merge", ["a", "b", "--version"], "a b has no effect beside --version"),
    ("render", ["m", *WAY, "--split", "train"], "--split train has no effect with --path orbit, which is no split's"),
    ("render", ["m", *FILE, "--split", "all"], "--split all has no effect with --path way.json"),
    ("render", ["m", "--fps", "5"], "--fps 5.0 has no effect without --path: it is for free cameras; add"),
    ("render", ["m", *FILE, "--scene", "room"], "--scene room has no effect with --path way.json: the file has"),
    ("render", ["m", *FILE, "--images", "small"], "--images small has no effect with --path way.json"),
    ("render", ["m", *FILE, "--data-root", "/"], "--data-root / has no effect with --path way.json"),
    ("render", ["m", *FILE, "--set", "max_size=9"], "--set max_size=9 has no effect with --path way.json"),
    ("render", ["m", "--alpha", "--background", "white"], "--background white has no effect with --alpha: pictures"),
    ("render", ["m", "--alpha", "--set", "background=white"], "--set background=white has no effect with --alpha"),
    (
        "render",
        ["m", "--background", "black", "--set", "background=white"],
        "--set background=white has no effect beside --background black, which wins; give one of them",
    ),
    ("render", ["m", *WAY, "--out", "a.mp4", "--alpha"], "--alpha has no effect with --out a.mp4: films have"),
    ("export", ["m", "o.compressed.ply", "--pad"], "--pad has no effect in o.compressed.ply: it is for a .ply"),
    ("export", ["m", "o.ply", "--spz-version", "4"], "--spz-version 4 has no effect in o.ply: it is for a .spz"),
    ("export", ["m", "o.ply", "--spz-axes", "rub"], "--spz-axes rub has no effect in o.ply"),
    ("export", ["m", "o.SPLAT", "--sh-degree", "2"], "--sh-degree 2 has no effect in o.SPLAT: a .splat has one"),
    ("export", ["m", "o.ply", "--no-measure", "--data-root", "/"], "--data-root / has no effect with --no-measure"),
    (
        "export",
        ["m", "o.ply", "--no-measure", "--scene", "s", "--backend", "cpp"],
        "--backend cpp has no effect with --no-measure: nothing else here is rendered",
    ),
    ("prepare", [".", "out", "--fps", "2"], "--fps 2.0 has no effect on ., a folder of photos: it is of a video"),
    ("doctor", ["--backend", "auto", "--backend", "cpp"], "leave out that, or --backend cpp"),
    ("partition", [".", "out", "--set", "data_root=/"], "data_root=/ has no effect with scene="),
    ("partition", ["demo", "out", "--set", "scene=room"], "--set scene=room has no effect"),
    ("partition", ["demo", "out", "--set", "images=a"], "images=a has no effect with reader=demo"),
]  # fmt: skip


@pytest.mark.parametrize(("program", "arguments", "says"), IDLE)
def test_an_option_that_has_no_effect_is_refused(
    program: str, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        begin(program, *arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("train", ["demo", "--write", "x", "--size", "64x48", "--photos-only", "--quiet", "--progress", "plain"]),
        ("train", ["demo", "--write", "x", "--size", "64x48", "--devices", "1"]),  # the default
        ("train", ["demo", "--check", "--steps", "5", "--max-size", "40", "--resume", "--devices", "2"]),
    ],
)  # fmt: skip
def test_what_is_harmless_may_stand(
    program: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(program, *arguments)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_stands_beside_what_ends_a_command(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever prints something and ends is known to, of every command; help may be asked of any line."""
    monkeypatch.setenv("HOME", str(tmp_path))  # where a completion would be installed
    app = make_app(getattr(import_module(f"gsplat_train.cli.{program}"), program))
    command = typer.main.get_command(app)
    context = command.make_context(program, [], resilient_parsing=True)
    with_callbacks = [each for each in command.get_params(context) if each.callback]
    ending = [each for each in with_callbacks if not {"--help", "--backend"} & {*each.opts}]
    assert {"--version", "--show-completion"} <= {name for each in ending for name in each.opts}
    for each in ending:
        words = [each.opts[0], *([] if each.is_flag else ["bash"])]
        with pytest.raises(
            UserError, match=f"^x has no effect beside {each.opts[0]}, which ends the program"
        ):
            begin(program, "x", *words)


def test_help_and_what_is_harmless_may_stand_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["--list", "--help"], ["--steps", "few", "-h"], ["--help", "--version", "demo"]):
        begin("train", *line)
        assert "--clear-cache" in capsys.readouterr().out
    begin("train", "--list", "--quiet", "--progress", "plain", "--devices", "1")
    assert capsys.readouterr().out.startswith("Scenes, for gs-train SCENE:")


@pytest.mark.parametrize(
    "arguments",
    [
        ["render", "none", *WAY, "--split", "test", "--frames", "3", "--images", "a", "--background", "white"],
        ["render", "none", *FILE, "--fov", "50", "--set", "background=white"],
        ["render", "none", "--alpha", "--split", "all", "--data-root", "/"],
        ["export", "none", "o.splat", "--sh-degree", "0", "--spz-version", "3", "--no-measure", "--data-root", "/"],
        ["export", "none", "o.ply", "--no-measure", "--floaters", "--backend", "cpp", "--data-root", "/"],
        ["export", "none", "o.ply", "--pad", "--no-measure"],
    ],
)  # fmt: skip
def test_what_may_have_an_effect_goes_on_to_the_model(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="no model at none"):
        begin(*arguments)


def test_what_the_model_decides(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    run, _ = trained
    out = tmp_path / "out"
    for option in ("--images", "--data-root"):
        said = call("render", run, *WAY, option, tmp_path, "--out", out, code=2).stderr
        assert (
            f"{option} {tmp_path} has no effect with --path orbit: the cameras are in the run's check" in said
        )
    said = call("render", run, "--data-root", tmp_path, "--out", out, code=2).stderr
    assert "has no effect with scene=" in said
    (tmp_path / "alone.ply").write_bytes((run / "point_cloud.ply").read_bytes())
    for option, value in (("--backend", tiny.BACKEND), ("--data-root", "/")):
        said = call("export", "alone.ply", "o.ply", option, value, code=2, cwd=tmp_path).stderr
        assert f"{option} {value} has no effect on a model that lies in no run folder" in said
    said = call("export", run, "o.ply", "--data-root", "/", code=2, cwd=tmp_path).stderr
    assert "data_root=/ has no effect with scene=" in said
    assert [path.name for path in tmp_path.iterdir()] == ["alone.ply"]


def test_what_is_not_measured_is_told(trained: Any, tmp_path: Path) -> None:  # noqa: F811
    said = call("export", trained[0], tmp_path / "o.spz", "--spz-axes", "rub").stderr
    assert "with --spz-axes rub what it loses is not measured" in said


def test_a_process_of_several_starts_none() -> None:
    said = call("train", "demo", "--devices", 2, code=2, MLX_RANK="0").stderr
    assert "--devices 2 has no effect under mlx.launch, which has started the processes; leave it out" in said


def test_a_quiet_check_reports_and_says_nothing_else(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    done = call("train", folder, "--check", "--quiet", "--trust", cwd=tmp_path)
    assert "views" in done.stdout and done.stderr == ""


def test_one_setting_has_one_value() -> None:
    with pytest.raises(UserError, match=r"--max-size says 40 and --set max_size=50; give one of them"):
        requested_settings("demo", None, {"max_size": 40}, ["max_size=50"])
    assert requested_settings("demo", None, {"max_size": 40}, ["max_size=40"]).options == {"max_size": 40}
    assert parse_settings(["a=1", "a=2"]) == {"a": "2"}  # as an option that is given again


def test_the_root_of_the_built_ins_is_for_those_with_data() -> None:
    fern = config.configure("fern", {"data_root": "/d"})
    effects.check(fern, {"data_root": "/d"})
    assert config.has_data("fern") and not config.has_data("demo") and not config.has_data("/some/fern")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_tables_name_options(program: str) -> None:
    """Of the command that they stand beside; what they say of values they find, whatever was given."""
    module = import_module(f"gsplat_train.cli.{program}")
    command = getattr(module, program)
    tables = [value for value in vars(module).values() if isinstance(value, Idle)]
    tables += [
        idle
        for cell in command.__closure__ or ()
        if isinstance(cell.cell_contents, tuple)
        for idle in cell.cell_contents
    ]
    names = set(command.__wrapped__.__annotations__) if hasattr(command, "__wrapped__") else set()
    for idle in tables:
        for name in [*idle.options.split(), *idle.but.split()]:
            assert name in names or name == "*" or name.startswith("set_."), (program, name)
            if name.startswith("set_."):
                assert name.removeprefix("set_.") in config.GENERAL
    assert tables or program in ("view", "doctor", "partition", "merge")


def test_a_value_is_told_as_it_was_given() -> None:
    def command(source: Path, *, measure: bool = True, sets: int = 1) -> None: ...

    table = [Idle("measure sets", lambda o: True, "on {source}", "leave it out")]
    with pytest.raises(UserError, match=r"^--no-measure has no effect on --source a; leave it out$"):
        check(command, table, {"source": Path("a"), "measure": False, "sets": 1})
    check(command, table, {"source": Path("a"), "measure": True, "sets": 1})


@pytest.mark.skipif(sys.platform != "linux", reason="the age of a process is read in /proc")
def test_what_a_shell_did_before_it_became_the_program_is_not_the_programs() -> None:
    code = (
        "import os, time; from pathlib import Path\n"
        "from gsplat_train.cli import train\n"
        "train.run = lambda app, name: None\n"
        "train.main()\n"
        "ticks = int(Path('/proc/self/stat').read_text().rpartition(')')[2].split()[19])\n"
        "age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf('SC_CLK_TCK')\n"
        "print(age, train.before_now)"
    )
    words = ["sh", "-c", 'sleep 1 && exec "$0" "$@"', sys.executable, "-c", code]
    age, ours = map(float, subprocess.check_output(words, env=environment(), text=True).split())
    assert age > 1 and 0 < ours < age - 0.9
