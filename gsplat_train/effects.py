# SPDX-License-Identifier: Apache-2.0
"""Settings that somebody gave and that cannot have any effect beside the others: they are refused, not ignored.

Of what nobody gave nothing is said, nor of a value that is the default or asks for nothing (0, false). Nor is how often
something is measured where nothing is, or a GPU's memory on a processor: scripts give both to all their runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import registry
from .config import FREE_ON_RESUME, GENERAL, Config, configure, files, has_data, is_record, read, value_of
from .errors import UserError

# Settings that say how a scene is loaded; one that is in memory already has had its own.
LOADING = frozenset(
    "reader images max_size trust init undistort fov mask_mode invert_masks alpha_mode data_root source".split()  # noqa: SIM905
)
ALSO_OF_LOADING = ("memory_budget", "eval", "test_every")  # where it is told what to load
# Of these 0 asks for something.
COUNT_AT_0 = frozenset(
    "late_from lr_means_end lr_rest_from sh_interval refine_start min_opacity error_floor select_stop "  # noqa: SIM905
    "noise_stop reg_stop grow_gradient grow_absgradient".split()
)


class Need(NamedTuple):
    """What another setting must be, so that some have an effect."""

    keys: str  # of the settings, with spaces between
    other: str
    holds: Callable[[Any, Any], bool]  # of the value of `other` and the setting's own
    allowed: str  # in words


def _above(low: float) -> Callable[[Any, Any], bool]:
    return lambda other, own: bool(other > low)


def _below_1(other: Any, own: Any) -> bool:
    return bool(other < 1)


def _below_1_or_off(other: Any, own: Any) -> bool:
    return bool(other < 1 or own == 1)


def _from_above(first: Any, last: Any) -> bool:
    return bool(last <= first)


def _is_built_in(scene: Any, own: Any) -> bool:
    return has_data(scene)


def _is(*words: Any) -> Callable[[Any, Any], bool]:
    return lambda other, own: other in words


def _is_not(*words: Any) -> Callable[[Any, Any], bool]:
    return lambda other, own: other not in words


REFINED = {  # what each strategy does at refinements alone
    "mcmc": "refine_start refine_every min_opacity grow_rate stage_cap opacity_decay scale_decay error_views "
    "error_floor least_share weigh_every weigh_cost screen_split split",
    "adc": "refine_start refine_every min_opacity grow_gradient absgrad grow_absgradient split_scale split_shrink "
    "prune_scale reset_every reset_opacity",
    "igs": "refine_start refine_every min_opacity grow_absgradient edge_views",
}
REFINING = " or ".join(f"strategy={name}" for name in REFINED)

OF_FILES = "images undistort fov mask_mode invert_masks alpha_mode"
OF_RESETS = "igs.reset_every igs.reset_opacity igs.recover igs.recover_share"

NEEDS = (
    Need("data_root", "scene", _is_built_in, "a built-in scene that has data, as fern"),
    Need(OF_FILES, "reader", _is_not(*registry.MADE), "a scene of files"),
    Need("fov", "undistort", _is(True), "undistort=true"),
    Need("invert_masks", "mask_mode", _is_not("off"), "mask_mode=ignore or transparent"),
    Need("steps schedule_steps", "time_budget", _is(0), "time_budget=0, for a budget decides the steps"),
    Need("sh_interval lr_shN", "sh_degree", _above(0), "sh_degree above 0"),
    Need("late_batch", "batch", _is(1), "batch=1"),
    Need("late_batch", "late_from", _below_1, "late_from below 1"),
    Need("late_from", "late_batch", _above(1), "late_batch above 1"),
    Need("downscale_every mcmc.stage_cap", "downscales", _above(0), "downscales above 0"),
    Need("lr_means_end", "lr_means", _from_above, "lr_means to be as high, for it never rises"),
    Need("lr_rest_from", "lr_rest_end", _below_1_or_off, "lr_rest_end below 1"),
    Need("lr_rest_end", "lr_rest_from", _below_1_or_off, "lr_rest_from below 1"),
    Need("sky.lr sky.lr_end", "background", _is("sh"), "background=sh"),
    Need("exposure.lr exposure.lr_end", "exposure.mode", _is_not("off"), "exposure=auto, gain or affine"),
    Need("poses.lr poses.lr_end", "poses.mode", _is("refine"), "poses=refine"),
    Need("floaters_every", "strategy", _is_not("none"), REFINING),
    *(
        Need(
            " ".join(["floaters_every", *(f"{strategy}.{name}" for name in keys.split())]),
            f"{strategy}.refine_stop",
            _above(0),
            f"{strategy}.refine_stop above 0",
        )
        for strategy, keys in REFINED.items()
    ),
    Need("mcmc.weigh_every mcmc.weigh_cost", "mcmc.least_share", _above(0), "least_share above 0"),
    Need("mcmc.error_floor", "mcmc.error_views", _above(0), "error_views above 0"),
    Need("mcmc.select_stop", "mcmc.final_share", _below_1, "final_share below 1"),
    Need("mcmc.noise_stop", "mcmc.noise_lr", _above(0), "noise_lr above 0"),
    Need("mcmc.noise_lr", "mcmc.noise_stop", _above(0), "noise_stop above 0"),
    Need("mcmc.opacity_reg mcmc.scale_reg", "mcmc.reg_stop", _above(0), "reg_stop above 0"),
    Need("adc.grow_absgradient", "adc.absgrad", _is(True), "absgrad=true"),
    Need("adc.grow_gradient", "adc.absgrad", _is(False), "absgrad=false"),
    Need(OF_RESETS, "igs.reset_stop", _above(0), "reset_stop above 0"),
    Need("igs.recover", "igs.recover_share", _above(0), "recover_share above 0"),
)  # fmt: skip


def check(config: Config, requested: Mapping[str, Any]) -> None:
    """UserError where one of the settings `requested`, by any of their names, cannot have any effect in `config`."""
    for key in requested:
        owner, _, name = key.rpartition(".")
        if not owner and name not in GENERAL:
            owner = config.strategy
        if not _is_in_use(config, key):
            raise UserError(f"{key} is a setting of another strategy; the strategy is {config.strategy}")
        whole = f"{owner}.{name}" if owner else name
        value = value_of(config, whole)
        default = getattr(type(config.sections[owner]) if owner else Config, name)
        if value == default or (not value and name not in COUNT_AT_0):
            continue
        for need in NEEDS:
            other = value_of(config, need.other)
            if whole in need.keys.split() and other is not None and not need.holds(other, value):
                beside = f"{need.other.removesuffix('.mode')}={_text(other)}"
                raise UserError(
                    f"{key}={_text(value)} has no effect with {beside}: it needs {need.allowed}; give that, or leave "
                    f"{key} out"
                )


def check_files(scene: str, paths: Sequence[Path]) -> None:
    """`check` of a user's own files of settings for a scene, each by itself: what the command line changes they were
    not written for.
    """
    for path in paths:
        settings = read(path)
        if path not in files() and not is_record(settings):
            alone = configure(scene, {}, [path])
            check(alone, {key: value for key, value in settings.items() if _is_in_use(alone, key)})


def check_resumed(config: Config, requested: Mapping[str, Any]) -> None:
    """`check` of what a resumed run takes from the command line."""
    check(config, {key: value for key, value in requested.items() if key in FREE_ON_RESUME})


def check_loaded(requested: Mapping[str, Any]) -> None:
    """UserError where one of the settings `requested` says how to load a scene that is in memory already."""
    if late := [key for key in requested if key in LOADING]:
        raise UserError(
            f"{late[0]} says how a scene is loaded, and this one is; give it to open_scene, or leave it out"
        )


def check_loading(requested: Mapping[str, Any], program: str, *more: str) -> None:
    """UserError where one of the settings `requested` is no matter to a program that only loads a scene. more: others
    that it takes.
    """
    takes = {*LOADING, *ALSO_OF_LOADING, *more}
    if training := [key for key in requested if key not in takes]:
        raise UserError(
            f"--set {training[0]} has no effect on {program}, which does not train; it takes {', '.join(sorted(takes))}"
        )


def _is_in_use(config: Config, key: str) -> bool:
    """Whether the owner of a setting is; a file may hold those of several strategies."""
    owner, _, name = key.rpartition(".")
    return (not owner and name in GENERAL) or name in _names_of(config, owner or config.strategy)


def _names_of(config: Config, owner: str) -> set[str]:
    return set(getattr(type(config.sections.get(owner)), "__dataclass_fields__", ()))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
