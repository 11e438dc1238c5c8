# SPDX-License-Identifier: Apache-2.0
"""The models of a scene's parts as one: of each model those splats stay that lie in its part (ownership.owners)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from ..model.splats import Splats
from ..scene import Camera
from .ownership import owners
from .write import PLAN


class Plan(NamedTuple):
    """How a scene was cut: cameras and the part of each, and which part a folder holds (-1: all)."""

    parts: int
    cameras: list[Camera]
    part_of_view: list[int]
    part: int


def read_plan(folder: Path) -> Plan:
    """The plan in the folder of a part, or of all parts. UserError where there is none or it is damaged."""
    path = folder / PLAN
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        cameras = [
            Camera(
                np.array(one["viewmat"], float),
                np.array(one["K"], float),
                int(one["width"]),
                int(one["height"]),
            )
            for one in found["cameras"]
        ]
        parts, of_views = int(found["parts"]), [int(part) for part in found["part_of_view"]]
        plan = Plan(parts, cameras, of_views, int(found.get("part", -1)))
    except FileNotFoundError:
        raise UserError(f"{folder} is no part of a scene: it has no {PLAN}; gs-partition writes it") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); write the parts again by gs-partition") from error
    if len(cameras) != len(of_views) or set(of_views) != set(range(parts)) or not -1 <= plan.part < parts:
        raise UserError(f"{path} is damaged: its views and parts do not fit; write the parts again")
    return plan


def merged(plan: Plan, models: Sequence[tuple[int, Splats]]) -> Splats:
    """One model out of those of all parts; models: (part, splats), in one frame with the plan's cameras."""
    missing = sorted(set(range(plan.parts)) - {part for part, _ in models})
    if missing or len(models) != plan.parts:
        names = ", ".join(f"part_{part + 1}" for part in missing) or "none, but one is there twice"
        raise UserError(f"a merge takes one run of each of the {plan.parts} parts; missing: {names}")
    degree = max(splats.sh_degree for _, splats in models)
    modes = {splats.antialiased for _, splats in models}
    if len(modes) > 1:
        raise UserError("some parts were trained with antialiased=true and some without; train them alike")
    kept = []
    for part, splats in models:
        own = owners(splats.arrays["means"], plan.cameras, plan.part_of_view) == part
        kept.append(splats.take(own).padded(degree))
    arrays = {name: np.concatenate([splats.arrays[name] for splats in kept]) for name in kept[0].arrays}
    if not len(arrays["means"]):
        raise UserError("no splat of any model lies in its own part: these are models of something else")
    up = next((splats.up for splats in kept if splats.up is not None), None)
    return Splats(arrays, modes.pop(), up)
