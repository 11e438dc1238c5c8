# SPDX-License-Identifier: Apache-2.0
"""The scene whose views gs-export looks at and measures on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import config as config_module
from .. import effects
from ..config import Config
from ..datasets import read_scene
from ..errors import UserError
from ..scene import Scene, View
from ..storage import home_expanded
from .progress import Progress


def scene_of(
    run_folder: Path | None, scene: str | None, data_root: Path | None, report: Progress
) -> tuple[Config | None, Scene | None]:
    """(settings, scene) of what is named, else of the run; none where there is none, with the reason told. UserError
    where what somebody named cannot be read.
    """
    if run_folder is None and scene is None:
        return None, None
    explicit = {} if data_root is None else {"data_root": str(home_expanded(data_root).resolve())}
    try:
        if run_folder is None:
            settings = config_module.configure(scene or "", explicit)
        else:
            layers: list[Any] = [run_folder / "config.toml"]
            if scene is not None:
                named = config_module.configure(scene, {})
                layers.append({"scene": named.scene, "reader": named.reader})
            settings = config_module.load(layers, explicit)
        effects.check(settings, explicit)
        return settings, read_scene(settings, lambda line: None, report.at)
    except UserError as error:
        if scene is not None or explicit:
            raise
        report.tell(f"the scene of the run cannot be read, so nothing is measured: {error}")
        return None, None


def views_of(settings: Config | None, data: Scene | None) -> tuple[tuple[View, ...], tuple[View, ...]]:
    """(to train on, held out) of a scene that was read."""
    if settings is None or data is None:
        return (), ()
    return data.split(settings.test_every if settings.eval else 0)
