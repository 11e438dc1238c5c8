# SPDX-License-Identifier: Apache-2.0
"""One of the processes of tests/test_devices.py: trains a small scene with the others, prints a hash.

The first argument, JSON: `settings`, and what goes wrong in which process: `spoilt` (a rank whose view number 20 has no
finite loss), `small` (a rank whose lists hold few intersections at first; on the emulated GPU).
"""

import hashlib
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import tiny

from gsplat_train.datasets.demo import make_demo
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo, Scene, View
from gsplat_train.training import company
from gsplat_train.training.company import Company
from gsplat_train.training.trainer import Trainer


def scene_of_sizes(points: int) -> Scene:
    """The demo scene; every third photo is half as large."""
    scene = make_demo(n_views=9, width=48, height=36, n_points=points)

    def sized(view: View) -> View:
        if view.index % 3 != 1:
            return view
        return replace(
            view, camera=view.camera.resized(24, 18), photo=Photo(view.pixels.image[::2, ::2].copy())
        )

    return replace(scene, views=tuple(map(sized, scene.views)))


def hashed(trainer: Trainer) -> str:
    """Of all parameters and moments."""
    state = trainer.stepper.look()
    leaves = [leaf for tree in (state.gaussians, state.m, state.v) for leaf in tree]
    return hashlib.sha256(b"".join(np.array(leaf).tobytes() for leaf in leaves)).hexdigest()


def main() -> None:
    wanted = SimpleNamespace(
        **{"settings": {}, "points": 2000, "spoilt": None, "small": None, "emulated": False}
    )
    vars(wanted).update(json.loads(sys.argv[1]))
    crew = company.join()
    if isinstance(crew, Company):
        wanted.settings["batch"] = crew.deal(wanted.settings.get("batch", 1))
    config = tiny.settings(eval=False, **wanted.settings)
    if wanted.emulated:
        from metal.emulated import backend as emulated

        from gsplat_train import backends

        gpu = emulated()
        gpu.deterministic = True
        backends.load = lambda name: gpu  # type: ignore[assignment]
        if wanted.small == crew.rank:
            gpu.engine.first_capacity = 64
    trainer = Trainer(config, scene_of_sizes(wanted.points), crew=crew)
    if wanted.spoilt == crew.rank:
        spoil(trainer)
    ended = ""
    try:
        while trainer.step < config.steps:
            trainer._one_step()
    except UserError as error:
        ended = type(error).__name__
    grown = int(trainer.backend.launcher.launched["combine"]) if wanted.emulated else 0
    found = {
        "step": trainer.step,
        "n": trainer.n_splats,
        "hash": hashed(trainer),
        "ended": ended,
        "launched": grown,
    }
    print(json.dumps(found), flush=True)
    mx.synchronize()


def spoil(trainer: Trainer) -> None:
    """From view 20 on the gradients of this process's views are not finite."""
    stepper = trainer.stepper
    gather = trainer.crew.gather

    def spoilt(rows: np.ndarray) -> np.ndarray:
        if stepper.step >= 20 and rows.shape[1] > 100:  # of gradients, not of what is agreed on
            rows[:, 0] = np.nan  # the loss, where it stands in the header
        return gather(rows)

    trainer.crew.gather = spoilt  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
