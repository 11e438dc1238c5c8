# SPDX-License-Identifier: Apache-2.0
"""Config: every setting of a run, in pipeline order, with its default, unit and source; the only home of
defaults, beside the settings that a strategy, a loss term or a parameter group owns (its module's `Settings`).

TOML files hold differences from these defaults; `load` merges them, the later winning, and checks every key,
type and range. What an owner owns is a table of its name there, `mcmc.grow_rate` on the command line, or just
`grow_rate` for the strategy in use. Sources: [3DGS] Kerbl et al. 2023 and its code, [gsplat] gsplat's trainer,
[MCMC] Kheradmand et al. 2024, [splatfacto] nerfstudio's. "step" counts the views trained on, the first is 1; a step of
the optimiser is over `batch` of them.
The defaults suit the default number of steps; in shorter runs those that `lengths` names follow, unless given.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from . import lengths, registry
from .errors import UserError
from .settings import checked, choice, names, number, size
from .storage import home_expanded, text_of

OPTIONS = "options"  # where settings come from that a command has options for: see check


@dataclass(frozen=True)
class Config:
    # The scene and its photos
    scene: str = ""  # a built-in's name, or a folder
    data_root: str = ""  # folder of the built-in scenes; empty: $GS_DATA, else ./data
    source: str = ""  # where a built-in scene can be had
    reader: str = choice("auto", table=registry.READERS)  # which to read where a folder holds several
    images: str = ""  # folder of the photos inside the scene's; empty: the one with the model's names
    max_size: int = number(1600, 0)  # pixels, longest side of a photo; 0 keeps its size [3DGS]
    trust: bool = False  # train on what the check of cameras, photos and points would refuse
    init: str = ""  # a PLY of points or splats to start from, in the scene's frame; empty: the scene's points
    undistort: bool = True  # resample distorted photos to a pinhole camera's; false ignores the distortion
    fov: float = number(0.0, 0.0, 150.0)  # degrees of the longer side then, from 10; 0: as the lens allows
    mask_mode: str = choice("ignore", "transparent", "off")  # pixels masked out: do not count, or see-through
    invert_masks: bool = False  # in a mask black is what counts
    alpha_mode: str = choice(
        "transparent", "mask", "ignore"
    )  # photos' alpha: see-through, a mask, or nothing
    eval: bool = True  # hold views out and measure on them; false trains on all
    test_every: int = number(8, 0)  # every n-th view from the first is held out, 0: none [LLFF]

    # The Gaussians at the start
    init_opacity: float = number(0.5, 0.0, 0.999)  # of each Gaussian [MCMC]
    init_scale: float = number(0.1, 1e-6)  # times the rms distance to the 3 nearest points [MCMC]
    sh_degree: int = number(3, 0, 3)  # of the spherical harmonics at the end [3DGS]
    sh_interval: int = number(1000, 0)  # steps until the degree in use rises; 0: all at the start [3DGS]

    # The renderer
    backend: str = choice("auto", table=registry.BACKENDS)  # where to compute; auto: the first that runs here
    memory_budget: str = size("auto")  # of the host, for all of the process; auto: most of what is free
    gpu_memory: float = number(0.0, 0.0)  # bytes, up to 1 a share of the GPU's; 0: what keeps it busy
    # Behind the splats. random: a new colour each step; random-first: that in the first half, then each fourth step;
    # auto: this, but black where photos are see-through or end in black; sh: a sky, learnt
    background: str = choice("auto", "black", "white", "random", "random-first", "sh")
    antialiased: bool = False  # splats below a pixel fade instead of growing [Mip-Splatting's 2D filter]

    # The run
    steps: int = number(30_000, 1)  # [3DGS]
    time_budget: float = number(
        0.0, 0.0
    )  # seconds, from the command to the model; decides `steps`, once. 0: no budget
    stop_when_converged: bool = False  # end before `steps` when held-out PSNR rises no more; see README
    schedule_steps: int = number(0, 0)  # horizon of the schedules; 0: `steps`. Prolonging a run keeps it
    seed: int = number(0, 0, 2**31 - 1)  # of all that is drawn; the same seed, the same model
    batch: int = number(1, 1, 64)  # views a step; all that counts steps then counts views [Grendel-GS]
    # Views a step late in a run of batch=1, from late_from of the horizon on [Improved-GS: from 0.5]
    late_batch: int = number(1, 1, 64)
    late_from: float = number(0.75, 0.0, 1.0)
    deterministic: bool = False  # the same bytes from the same seed; metal, cuda and cpp always give them
    downscales: int = number(0, 0, 5)  # start with photos halved this many times [splatfacto: 2] ...
    downscale_every: int = number(3000, 1)  # ... and double their size after this many steps [splatfacto]

    # Loss and optimiser: rates per step of Adam, for a scene whose farthest camera is at distance 1
    ssim_lambda: float = number(0.2, 0.0, 1.0)  # loss = (1 - lambda) L1 + lambda (1 - SSIM) [3DGS]
    lr_means: float = number(1.6e-4, 0.0)  # at the first step, times the extent 1.1 [3DGS] ...
    # ... falls exponentially to this at the last. 3DGS ends at 1.6e-6; ten times as high is better with MCMC, by 0.2 to
    # 0.5 dB on photos (BENCHMARKS.md), also after 30,000 steps [LiteGS]
    lr_means_end: float = number(1.6e-5, 0.0)
    lr_scales: float = number(5e-3, 0.0)  # [3DGS]
    lr_quats: float = number(1e-3, 0.0)  # [3DGS]
    lr_opacities: float = number(0.05, 0.0)  # [3DGS]
    lr_sh0: float = number(2.5e-3, 0.0)  # [3DGS]
    lr_shN: float = number(1.25e-4, 0.0)  # lr_sh0 / 20 [3DGS]
    # What all rates but the means' fall to at the last step, of themselves, exponentially from lr_rest_from of the
    # schedule's horizon on; 1: they stay. An earlier fall takes from runs that are short of steps (BENCHMARKS.md)
    lr_rest_end: float = number(0.2, 1e-4, 1.0)
    lr_rest_from: float = number(0.85, 0.0, 1.0)

    # Density control; the strategy's own settings are in training/strategies/<name>.py
    strategy: str = choice(
        "mcmc", table=registry.STRATEGIES
    )  # naming one brings what it needs of the settings above
    max_splats: int = number(1_000_000, 1)  # never more Gaussians than this [MCMC]
    # Steps after which a refinement first makes floaters and faint plates (evaluate/floaters.py) so faint that the
    # strategy takes them; a multiple of its refine_every. 0: never
    floaters_every: int = number(0, 0)

    # What is written, and how often
    eval_every: int = number(1000, 1)  # steps; the last step is always measured
    eval_train_views: int = number(8, 0)  # training views measured beside the held-out ones; 0: all
    preview_views: int = number(1, 0)  # held-out views pictured at each evaluation
    checkpoint_every: int = number(5000, 1)  # steps; the last step is always saved
    checkpoint_keep: int = number(2, 1)  # the newest that are kept
    log_every: int = number(10, 1)  # steps from one line of log.jsonl to the next

    # What owners own: their `Settings` by the owner's name. Absent ones get their defaults.
    sections: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sections = {name: self.sections.get(name) or _settings_of(name)() for name in _owners(self.strategy)}
        object.__setattr__(self, "sections", sections)

    @property
    def own(self) -> Any:
        """The settings of the strategy in use."""
        return self.sections[self.strategy]

    @property
    def horizon(self) -> int:
        """Steps over which the schedules run."""
        return self.schedule_steps or self.steps

    def begun(self) -> Config:
        """The settings of a new run: prolonging it keeps its schedules. A time budget settles them later."""
        return self if self.time_budget else replace(self, schedule_steps=self.horizon)


# What a resumed run may change: none of it alters what is trained; another backend rounds otherwise.
FREE_ON_RESUME = frozenset(
    {
        "backend",
        "gpu_memory",
        "memory_budget",
        "eval_every",
        "eval_train_views",
        "preview_views",
        "checkpoint_every",
        "checkpoint_keep",
        "log_every",
        "data_root",
        "stop_when_converged",
    }
)
OF_SCENE = ("reader", "source", "images", "data_root", "init")  # they belong to one scene, and to no other
PLACES = ("data_root", "init")  # paths; relative ones are from the working directory, as SCENE is
FILE_URL = "file://"
GENERAL = [name for name in names(Config) if name != "sections"]


def load(
    layers: Sequence[Path | Mapping[str, Any]] = (), overrides: Mapping[str, Any] | None = None
) -> Config:
    """The defaults, changed by each layer in turn and last by `overrides`.

    A layer is a TOML file or a mapping; `overrides` may hold strings, as `--set` does. A layer that changes
    the strategy brings that strategy's own settings, in the place of the former's; they win against earlier
    layers', which were chosen for another. UserError for an unreadable file, an unknown key ("did you mean"),
    a wrong type, or a value out of range.
    """
    merged: dict[str, Any] = {}
    brought: Mapping[str, Any] = {}
    strategy = Config.strategy
    read_layers = [read(layer) if isinstance(layer, Path) else check(layer, "settings") for layer in layers]
    for i, layer in enumerate([*read_layers, check(overrides or {}, "--set")]):
        if layer.get("strategy", strategy) != strategy:
            strategy = layer["strategy"]
            merged = {key: value for key, value in merged.items() if key not in brought}
            brought = _brings(strategy)
            merged |= brought
        merged |= _placed(layer, strategy, strict=i == len(read_layers))
    general = {key: value for key, value in merged.items() if "." not in key}
    return Config(**general, sections=_sections(merged, strategy))


def read(path: Path) -> dict[str, Any]:
    """The checked settings in a TOML file."""
    try:
        return check(_with_paths(tomllib.loads(text_of(path.read_bytes()))), str(path))
    except OSError as error:
        raise UserError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from None


def _with_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with paths as they are, where they stood as URLs because TOML cannot hold their bytes."""
    return {
        key: os.fsdecode(unquote_to_bytes(value.removeprefix(FILE_URL)))
        if isinstance(value, str) and value.startswith(FILE_URL)
        else value
        for key, value in settings.items()
    }


def check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`settings` flat, with every value of its field's type and in range; strings are parsed.

    Keys are those of Config, `owner.key`, or `key` alone for a strategy's. Paths are made absolute: a run may go on
    elsewhere. UserError otherwise, which calls a value of the options of a command by its option.
    """
    result = {}
    for key, value in _flat(settings):
        called = option_of(key) if where == OPTIONS else f"{where}: {key}"
        owner, _, name = key.rpartition(".")
        if not owner and name in GENERAL:
            result[key] = checked(Config, name, value, called)
            if name in PLACES and value:
                result[key] = str(home_expanded(value).absolute())
            continue
        homes = [owner] if owner else _strategies_with(name)
        if not homes or homes[0] not in _all_owners() or name not in names(_settings_of(homes[0])):
            raise UserError(f"{where}: unknown setting {key!r}; {_hint(key)}")
        result[key] = checked(_settings_of(homes[0]), name, value, called)
    return result


def option_of(key: str) -> str:
    """The option of a command that sets `key`."""
    return "--" + key.rpartition(".")[2].replace("_", "-")


def value_of(config: Config, key: str) -> Any:
    """The value of a setting by any of its names; None where the strategy in use has no such setting."""
    owner, _, name = key.rpartition(".")
    if not owner and name in GENERAL:
        return getattr(config, name)
    return getattr(config.sections.get(owner or config.strategy), name, None)


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with other values of checked `settings`, by any of their names."""
    now = {key: getattr(config, key) for key in GENERAL}
    now |= {
        f"{owner}.{key}": getattr(section, key)
        for owner, section in config.sections.items()
        for key in names(type(section))
    }
    now |= _placed(settings, settings.get("strategy", config.strategy), strict=False)
    general = {key: value for key, value in now.items() if "." not in key}
    return Config(**general, sections=_sections(now, general["strategy"]))


def to_toml(config: Config) -> str:
    """Every setting, one a line; a table for each owner."""
    lines = [_line(key, getattr(config, key)) for key in GENERAL]
    for owner, section in config.sections.items():
        if own := names(type(section)):
            lines += ["", f"[{owner}]", *(_line(key, getattr(section, key)) for key in own)]
    return "".join(f"{line}\n" for line in lines)


def find(name: str) -> Path | None:
    """The configuration file of that name that comes with the program, or None."""
    return next((path for path in files() if path.stem == name), None)


def files() -> list[Path]:
    """The configuration files that come with the program."""
    package = Path(__file__).parent
    installed = sorted((package / "configs").glob("*.toml"))
    return installed or sorted((package.parent / "configs").glob("*.toml"))  # of a checkout


# ---- scenes that come with a configuration ----


def builtin_scenes() -> list[str]:
    """The names of the scenes that come with a configuration."""
    return [path.stem for path in files() if is_builtin(path.stem)]


def is_builtin(scene: str) -> bool:
    """Whether a bare word names a scene that comes with a configuration."""
    path = find(scene) if scene.isidentifier() else None
    return path is not None and _scene_of(path) == scene


def has_data(scene: str) -> bool:
    """Whether it is a built-in that is read from files."""
    return is_builtin(scene) and "source" in read(find(scene) or Path())


@cache
def _scene_of(path: Path) -> object:
    """The scene of a configuration that comes with the program."""
    return read(path).get("scene")


def data_folder(scene: str, data_root: str) -> Path:
    """Where the data of a built-in lies, or is to be put."""
    return home_expanded(data_root or os.environ.get("GS_DATA") or "data") / scene


def _is_meant(folder: Path, layer: Path, explicit: Mapping[str, Any]) -> bool:
    """Whether the name of a built-in means the folder of that name here: nobody has the built-in's data."""
    needs_data = "source" in read(layer) and not explicit.get("data_root")
    return needs_data and folder.is_dir() and not data_folder(folder.name, "").is_dir()


def configure(scene: str, explicit: Mapping[str, Any], more_files: Sequence[Path] = ()) -> Config:
    """The settings for a scene, a built-in's name or a folder: defaults, then its own, then those of the
    files given, then those given by name. A scene given here always wins over a file's. What nobody gave
    follows the number of steps; so does a file's horizon that is its own steps, where others are given by name.
    """
    chosen: list[Path] = []
    layer = find(scene) if is_builtin(scene) else None
    more = [read(path) for path in more_files]
    together = {
        key: value for each in more if each.get("scene", scene) == scene for key, value in each.items()
    }
    if layer is not None and not _is_meant(Path(scene), layer, together | dict(explicit)):
        chosen = [layer]
    else:
        folder = home_expanded(scene)
        if not folder.exists():  # of a file the readers say what to do with it
            raise UserError(
                f"scene {scene} is not there; give a folder or one of {', '.join(builtin_scenes())}"
            )
        scene = str(folder.resolve())
    layers = [settings_for(scene, each) for each in more]
    for each in layers if "steps" in explicit else ():
        if each.get("schedule_steps") == each.get("steps") or is_record(each):
            each.pop("schedule_steps", None)
    config = load([*chosen, *layers, {"scene": scene}], explicit)
    brought: dict[str, Any] = {}
    fixed = set(explicit)
    for path, settings in zip((*chosen, *more_files), (*map(read, chosen), *layers), strict=True):
        if path in files():
            brought |= settings
        else:
            fixed |= settings.keys()
    return fitted(config, fixed, brought)


def is_record(settings: Mapping[str, Any]) -> bool:
    """Whether these are all settings of a run, as its config.toml has them: nobody chose each of them."""
    return 2 * len(settings.keys() & set(GENERAL)) > len(GENERAL)


def settings_for(scene: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a file that are for a scene, a built-in's name or an absolute path: where the file names another one,
    what belongs to that one stays out.
    """
    named = settings.get("scene")
    if not named or named == scene:
        return dict(settings)
    if not is_builtin(scene) and "\0" not in named:
        path = os.path.realpath(home_expanded(named))
        if scene == (
            os.path.dirname(path) if os.path.isfile(path) else path
        ):  # that of a video is where it lies
            return dict(settings)
    return {key: value for key, value in settings.items() if key not in ("scene", *OF_SCENE)}


def fitted(config: Config, explicit: Collection[str], brought: Mapping[str, Any] | None = None) -> Config:
    """`config` with what depends on the length made to suit a run that is shorter than its settings are for.

    explicit: settings that stay. brought: by a configuration of the program; they suit its steps, and in runs of
    these and more nothing changes. All others are the defaults', which suit the default steps.
    """
    brought = brought or {}
    length = brought.get("steps", Config.steps)
    if config.horizon >= length:
        return config
    fixed, own = ({key.rpartition(".")[2] for key in keys} for keys in (explicit, brought))
    homes = {name: length if name in own else Config.steps for name in lengths.NAMES if name not in fixed}
    values = {name: value_of(config, name) for name in lengths.NAMES}
    present = {name: value for name, value in values.items() if value is not None}
    return changed(config, lengths.shortened(present, config.horizon, homes))


# ---- whose settings ----


def _all_owners() -> dict[str, registry.Entry]:
    return registry.STRATEGIES | registry.TERMS | registry.GROUPS


def _owners(strategy: str) -> list[str]:
    """Whose settings a run has: its strategy's, and those of every loss term and parameter group."""
    return [strategy, *registry.TERMS, *registry.GROUPS]


def _settings_of(owner: str) -> type:
    settings: type = registry.module(_all_owners()[owner]).Settings
    return settings


def _strategies_with(name: str) -> list[str]:
    return [strategy for strategy in registry.STRATEGIES if name in names(_settings_of(strategy))]


def _brings(strategy: str) -> Mapping[str, Any]:
    """What a strategy needs of the settings that are not its own."""
    brings: Mapping[str, Any] = registry.module(registry.STRATEGIES[strategy]).BRINGS
    return brings


def _placed(layer: Mapping[str, Any], strategy: str, strict: bool) -> dict[str, Any]:
    """`layer` with every key of an owner as `owner.key`. A key without owner is the strategy's in use; where
    that has none of the name it is its owners' if it comes from a file, and refused if `strict`.
    """
    placed = {}
    for key, value in layer.items():
        if "." in key or key in GENERAL:
            placed[key] = value
            continue
        homes = _strategies_with(key)
        if strategy in homes:
            homes = [strategy]
        elif strict:
            raise UserError(
                f"{key} is a setting of strategy {' and '.join(homes)}; the strategy is {strategy}"
            )
        placed |= {f"{home}.{key}": value for home in homes}
    return placed


def _sections(merged: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """The owners' settings out of `owner.key` values."""
    return {
        owner: _settings_of(owner)(
            **{key.partition(".")[2]: value for key, value in merged.items() if key.startswith(f"{owner}.")}
        )
        for owner in _owners(strategy)
    }


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if key in registry.GROUPS and not isinstance(value, Mapping):
            yield f"{key}.mode", value
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", item) for inner, item in value.items())
        else:
            yield key, value


def _hint(key: str) -> str:
    allowed = [
        *GENERAL,
        *(f"{owner}.{name}" for owner in _all_owners() for name in names(_settings_of(owner))),
    ]
    allowed += [name.partition(".")[2] for name in allowed if name.partition(".")[0] in registry.STRATEGIES]
    if family := [
        name for name in allowed if key and name.startswith(f"{key}_")
    ]:  # lr: lr_means, lr_scales ...
        return f"did you mean one of {', '.join(family)}?"
    close = difflib.get_close_matches(key, allowed, 1, 0.5)
    return f"did you mean {close[0]}?" if close else "see gsplat_train/config.py for all settings"


def _line(key: str, value: Any) -> str:
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        value = FILE_URL + quote_from_bytes(os.fsencode(value))  # a path with bytes that are no UTF-8
    # Not in ASCII, where JSON writes what lies beyond 16 bits as two halves: TOML forbids these, and DEL.
    return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
