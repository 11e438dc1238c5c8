# SPDX-License-Identifier: Apache-2.0
"""Config: every setting of a run, in pipeline order, with its default, unit and source; the only home of
defaults.

TOML files hold differences from these defaults; `load` merges them, the later winning, and checks every key,
type and range. Sources: [3DGS] Kerbl et al. 2023 and its code, [gsplat] gsplat's trainer, [MCMC] Kheradmand
et al. 2024, [AbsGS] Ye et al. 2024, [splatfacto] nerfstudio's. "step" counts optimiser steps, the first is 1.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import UserError


def _number(default: float, low: float, high: float = math.inf) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class Config:
    # The scene and its photos
    scene: str = ""  # a built-in's name, or a folder
    data_root: str = ""  # folder of the built-in scenes; empty: $GS_DATA, else ./data
    source: str = ""  # where a built-in scene can be had
    reader: str = _choice("auto", "colmap", "llff")  # which to read where a folder holds both
    images: str = ""  # folder of the photos inside the scene's; empty: `images`, else the only `images_*`
    max_size: int = _number(1600, 0)  # pixels, longest side of a photo; 0 keeps its size [3DGS]
    undistort: bool = True  # resample distorted photos to a pinhole camera's; false ignores the distortion
    eval: bool = True  # hold views out and measure on them; false trains on all
    test_every: int = _number(8, 0)  # every n-th view from the first is held out, 0: none [LLFF]

    # The Gaussians at the start
    init_opacity: float = _number(0.5, 0.0, 0.999)  # of each Gaussian [MCMC]
    init_scale: float = _number(0.1, 1e-6)  # times the rms distance to the 3 nearest points [MCMC]
    sh_degree: int = _number(3, 0, 3)  # of the spherical harmonics at the end [3DGS]
    sh_interval: int = _number(1000, 0)  # steps until the degree in use rises; 0: all at the start [3DGS]

    # The renderer
    backend: str = _choice("auto", "metal", "cuda", "cpp", "python")
    background: str = _choice("black", "white", "random")  # behind the splats; random: a new colour a step
    antialiased: bool = False  # splats below a pixel fade instead of growing [Mip-Splatting's 2D filter]

    # The run
    steps: int = _number(30_000, 1)  # [3DGS]
    schedule_steps: int = _number(0, 0)  # horizon of the schedules; 0: `steps`. Prolonging a run keeps it
    seed: int = _number(0, 0, 2**31 - 1)
    deterministic: bool = False  # the same bytes from the same seed; metal, cuda and cpp always give them
    downscales: int = _number(0, 0, 5)  # start with photos halved this many times [splatfacto: 2] ...
    downscale_every: int = _number(3000, 1)  # ... and double their size after this many steps [splatfacto]

    # Loss and optimiser: rates per step of Adam, for a scene whose farthest camera is at distance 1
    ssim_lambda: float = _number(0.2, 0.0, 1.0)  # loss = (1 - lambda) L1 + lambda (1 - SSIM) [3DGS]
    opacity_reg: float = _number(0.01, 0.0)  # times the mean opacity, added to the loss [MCMC]
    scale_reg: float = _number(0.01, 0.0)  # times the mean scale, added to the loss [MCMC]
    lr_means: float = _number(1.6e-4, 0.0)  # at the first step, times the extent 1.1 [3DGS] ...
    lr_means_end: float = _number(1.6e-6, 0.0)  # ... falls exponentially to this at the last [3DGS]
    lr_scales: float = _number(5e-3, 0.0)  # [3DGS]
    lr_quats: float = _number(1e-3, 0.0)  # [3DGS]
    lr_opacities: float = _number(0.05, 0.0)  # [3DGS]
    lr_sh0: float = _number(2.5e-3, 0.0)  # [3DGS]
    lr_shN: float = _number(1.25e-4, 0.0)  # lr_sh0 / 20 [3DGS]

    # Density control: which rows to duplicate, split, relocate, prune
    strategy: str = _choice("mcmc", "adc", "none")  # naming adc brings configs/adc.toml
    max_splats: int = _number(1_000_000, 1)  # never more Gaussians than this [MCMC]
    refine_start: int = _number(500, 0)  # the first step that may refine comes after this [3DGS]
    refine_every: int = _number(100, 1)  # steps [3DGS]
    refine_stop: float = _number(0.8333, 0.0, 1.0)  # of the schedule's horizon: 25,000 of 30,000 [MCMC]
    min_opacity: float = _number(0.005, 0.0, 0.5)  # below: dead (mcmc relocates it, adc prunes it) [3DGS]
    grow_rate: float = _number(0.05, 0.0)  # mcmc: new Gaussians per refinement, of those there are [MCMC]
    noise_lr: float = _number(5e5, 0.0)  # mcmc: exploration noise, times the means' learning rate [MCMC]
    grow_gradient: float = _number(2e-4, 0.0)  # adc: mean screen-space gradient above which to grow [3DGS]
    absgrad: bool = False  # adc: compare the sum of absolute per-pixel gradients instead [AbsGS]
    grow_absgradient: float = _number(8e-4, 0.0)  # adc: its threshold [gsplat]
    split_scale: float = _number(0.01, 0.0)  # adc: largest scale, of the extent, above which to split [3DGS]
    split_shrink: float = _number(
        1.6, 1.0
    )  # adc: the parts of a split have the scales divided by this [3DGS]
    prune_scale: float = _number(0.1, 0.0)  # adc: prune above this scale, of the extent, after a reset [3DGS]
    reset_every: int = _number(3000, 1)  # adc: steps from one opacity reset to the next [3DGS]
    reset_opacity: float = _number(0.01, 1e-4, 0.999)  # adc: a reset lowers all opacities to this [3DGS]

    # What is written, and how often
    eval_every: int = _number(1000, 1)  # steps; the last step is always measured
    eval_train_views: int = _number(8, 0)  # training views measured beside the held-out ones; 0: all
    preview_views: int = _number(1, 0)  # held-out views pictured at each evaluation
    checkpoint_every: int = _number(5000, 1)  # steps; the last step is always saved
    checkpoint_keep: int = _number(2, 1)  # the newest that are kept
    log_every: int = _number(10, 1)  # steps from one line of log.jsonl to the next

    @property
    def horizon(self) -> int:
        """Steps over which the schedules run."""
        return self.schedule_steps or self.steps


# What a resumed run may change: none of it alters what is trained; another backend rounds otherwise.
FREE_ON_RESUME = frozenset(
    {
        "backend",
        "eval_every",
        "eval_train_views",
        "preview_views",
        "checkpoint_every",
        "checkpoint_keep",
        "log_every",
        "data_root",
    }
)


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
    checked = [read(layer) if isinstance(layer, Path) else check(layer, "settings") for layer in layers]
    own: dict[str, Any] = {}  # what the strategy brought
    for layer in [*checked, check(overrides or {}, "--set")]:
        before = merged.get("strategy", Config.strategy)
        if layer.get("strategy", before) != before:
            merged = {key: value for key, value in merged.items() if key not in own}
            path = find(layer["strategy"])
            own = read(path) if path else {}
            merged |= own
        merged |= layer
    return Config(**merged)


def read(path: Path) -> dict[str, Any]:
    """The checked settings in a TOML file."""
    try:
        return check(tomllib.loads(path.read_text("utf-8")), str(path))
    except OSError as error:
        raise UserError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from None


def check(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`settings` with every value of its field's type and in range; strings are parsed.

    UserError otherwise.
    """
    known = {f.name: f for f in fields(Config)}
    checked = {}
    for key, value in settings.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else "see gsplat_train/config.py for all settings"
            raise UserError(f"{where}: unknown setting {key!r}; {hint}")
        checked[key] = _value(known[key].default, known[key].metadata, value, f"{where}: {key}")
    return checked


def to_toml(config: Config) -> str:
    """Every setting, one a line."""
    # Not in ASCII, where JSON writes what lies beyond 16 bits as two halves: TOML forbids these, and DEL.
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in asdict(config).items()}
    text = "".join(f"{key} = {value}\n" for key, value in values.items()).replace("\x7f", "\\u007f")
    return text.encode("utf-8", "backslashreplace").decode()  # a path may hold bytes that are no UTF-8


def find(name: str) -> Path | None:
    """The configuration file of that name that comes with the program, or None."""
    return next((path for path in files() if path.stem == name), None)


def files() -> list[Path]:
    """The configuration files that come with the program."""
    package = Path(__file__).parent
    installed = sorted((package / "configs").glob("*.toml"))
    return installed or sorted((package.parent / "configs").glob("*.toml"))  # of a checkout


def _value(default: Any, limits: Mapping[str, Any], value: Any, what: str) -> Any:
    kind = type(default)
    if kind is not str and isinstance(value, str):
        value = _parse(kind, value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
        raise UserError(f"{what} must be {names[kind]}, got {value!r}")
    if "choices" in limits and value not in limits["choices"]:
        raise UserError(f"{what} must be one of {', '.join(limits['choices'])}, got {value!r}")
    if "low" in limits and not limits["low"] <= value <= min(
        limits["high"], 1e300
    ):  # phrased so that NaN fails
        allowed = f"at least {limits['low']:g}"
        if limits["high"] < math.inf:
            allowed = f"from {limits['low']:g} to {limits['high']:g}"
        raise UserError(f"{what} must be {allowed}, got {value!r}")
    return value


def _parse(kind: type, text: str) -> Any:
    """`text` as a value of that type; the text itself where it is none."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text
