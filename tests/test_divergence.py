# SPDX-License-Identifier: Apache-2.0
"""A training that goes wrong says so, names what did, and does not end as if it had gone well; one that goes well, or
was only short, is not accused.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import call

from gsplat_train.datasets.demo import make_demo, write_demo
from gsplat_train.errors import TrainingDiverged
from gsplat_train.evaluate.measure import measure
from gsplat_train.model.io import committed
from gsplat_train.scene import Photo, Scene
from gsplat_train.training.alive import beyond_sense, psnr_of_one_colour
from gsplat_train.training.api import run_training
from gsplat_train.training.callbacks import Callback
from gsplat_train.training.rows import rows
from gsplat_train.training.run_folder import RunFolder
from gsplat_train.training.trainer import Trainer

SETTINGS = {"steps": 240, "eval_every": 120, "checkpoint_every": 120, "refine_every": 20}


def trained(scene: Scene | None = None, root: Path | None = None, **changes: Any) -> Trainer:
    """A run to its end."""
    run = None if root is None else RunFolder(root)
    trainer = Trainer(tiny.settings(**SETTINGS | changes), scene or tiny.scene(), run)
    run_training(trainer)
    return trainer


def altered(change: Any, mask: np.ndarray | None = None) -> Scene:
    """The tiny scene with other photos."""
    scene = tiny.scene()
    views = tuple(replace(view, photo=Photo(change(view.pixels.image), mask)) for view in scene.views)
    return Scene(scene.name, views, scene.points, scene.colors)


FLAT = "no better than one colour a photo, or than it was at the start"
SENSELESS = {  # setting -> what is said
    "lr_means=1e30": f"means reach|{FLAT}",
    "lr_means=1000.0": f"lr_means=1000|no view shows any|{FLAT}",
    "lr_scales=100.0": f"log_scales|{FLAT}",
    "lr_quats=1e30": f"quats|{FLAT}",
    "lr_sh0=1e6": f"sh0|{FLAT}",
    "opacity_reg=1e6": f"no view shows any|{FLAT}",
    "scale_reg=1e6": f"no view shows any|{FLAT}",
    "init_opacity=0.001": "no view shows any",
}


@pytest.mark.parametrize("setting", SENSELESS)
@pytest.mark.parametrize("steps", [40, 240])
def test_rates_and_weights_beyond_sense_do_not_end_well(setting: str, steps: int, tmp_path: Path) -> None:
    name, _, value = setting.partition("=")
    try:
        work = trained(root=tmp_path / "run", steps=steps, **{name: float(value)})
    except TrainingDiverged as error:
        said = str(error)
        assert re.search(SENSELESS[setting], said), said
        assert re.search(r"step \d+", said) and "\n" not in said and error.exit_code == 4
    else:  # it learnt something all the same
        place = work.similarity.camera_to_train
        start = measure(work.start_again(), work.train_views, work.backend, place=place)["psnr"]
        assert work.metrics["train"]["psnr"] > start + (0.5 if steps == 240 else -0.25)


def test_the_parameters_that_went_wrong_are_named_with_their_rate() -> None:
    state = tiny.random_state(5)
    config = tiny.settings()
    assert beyond_sense(state.gaussians, config) == ("", f"try --set lr_means={config.lr_means / 4:g}")
    rows(state.gaussians)["log_scales"][3, 1] = 97
    output, advice = beyond_sense(state.gaussians, config)
    assert output == "log_scales reach 97 with lr_scales=0.005" and advice == "try --set lr_scales=0.00125"


def test_a_setting_that_is_far_off_is_blamed_before_what_it_carried_away() -> None:
    """Scales without end make the noise throw the means: it is not their rate that is wrong."""
    state = tiny.random_state(5)
    leaves = rows(state.gaussians)
    leaves["log_scales"][3, 1], leaves["means"][3] = np.inf, np.nan
    output, advice = beyond_sense(state.gaussians, tiny.settings(lr_scales=100.0))
    assert output == "log_scales reach inf with lr_scales=100" and advice == "try --set lr_scales=0.005"
    output, advice = beyond_sense(state.gaussians, tiny.settings(noise_lr=1e30))
    assert output.endswith("noise_lr=1e+30 is far from 500000") and advice == "try --set noise_lr=500000"
    assert beyond_sense(tiny.random_state(5).gaussians, tiny.settings(noise_lr=1e30))[1] == advice


def test_a_state_that_no_loss_tells_of_is_found_at_the_next_refinement(tmp_path: Path) -> None:
    """Splats that are not finite are culled and cost nothing; the run shall not go on with them to its checkpoint."""

    class Spoil(Callback):
        def step(self, trainer: Trainer, newest: Any) -> None:
            if trainer.step == 45:
                rows(trainer.stepper.look().gaussians)["log_scales"][7] = np.nan

    run = RunFolder(tmp_path / "run")
    settings = tiny.settings(**SETTINGS | {"checkpoint_every": 30})
    with pytest.raises(
        TrainingDiverged, match=r"log_scales not finite after step 60 \(view .*step_0000030"
    ) as caught:
        run_training(Trainer(settings, tiny.scene(), run, [Spoil()]))
    assert "lr_scales" in str(caught.value)
    assert [path.name for path in committed(run.checkpoints)] == ["step_0000030.json"]


def test_a_model_that_nobody_sees_leaves_no_result(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="no view shows any of the"):
        trained(root=tmp_path / "run", init_opacity=0.001)
    assert not (tmp_path / "run" / "point_cloud.ply").exists()


def test_nothing_learnt_is_exit_4_and_what_there_is_is_kept(tmp_path: Path) -> None:
    scene, run = tmp_path / "scene", tmp_path / "run"
    write_demo(scene, tiny.scene())
    words = ["--steps", 240, "--backend", tiny.BACKEND, "--set", "lr_sh0=1e6", "--quiet", "--out", run]
    done = call("train", scene, *words, "--set", "eval_every=240", code=4, lines=2)
    said = done.stderr.splitlines()[-1]
    assert "nothing was learnt: at step 240" in said and "try --set lr_sh0=0.0025" in said
    assert (run / "point_cloud.ply").is_file() and (run / "metrics.json").is_file()


SOUND: dict[str, tuple[Any, dict[str, Any]]] = {
    "short": (lambda image: image, {"steps": 20, "init_scale": 0.1}),
    "very short": (lambda image: image, {"steps": 3, "init_scale": 0.1}),
    "tiny splats at the start": (lambda image: image, {"steps": 200, "init_scale": 0.1}),
    "dark": (lambda image: image // 16, {}),
    "nearly black": (lambda image: image // 64, {}),
    "black": (lambda image: image * 0, {}),
    "white": (lambda image: image * 0 + 255, {}),
    "one colour": (lambda image: image * 0 + np.uint8(90), {}),
    "a lamp in the night": (lambda image: image * (np.indices(image.shape)[1] // 8 == 3), {}),
    "white background": (lambda image: image, {"background": "white"}),
    "random background": (lambda image: image, {"background": "random"}),
}


@pytest.mark.parametrize("name", SOUND)
def test_no_false_alarm(name: str) -> None:
    change, settings = SOUND[name]
    work = trained(altered(lambda image: change(image).astype(np.uint8)), **settings)
    assert not any("probably wrong" in line for line in work.warnings)


def test_no_false_alarm_where_masks_leave_little(tmp_path: Path) -> None:
    mask = np.zeros((36, 48), np.uint8)
    mask[10:14, 20:26] = 255
    assert not any("probably wrong" in line for line in trained(altered(lambda image: image, mask)).warnings)
    nothing = altered(lambda image: image, np.zeros((36, 48), np.uint8))
    assert psnr_of_one_colour(nothing.views) == np.inf


def test_one_colour_is_scored_where_the_mask_counts() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = 255
    view = replace(make_demo(n_views=2, width=4, height=4, n_points=4).views[0], photo=Photo(image))
    assert psnr_of_one_colour([view]) == pytest.approx(-10 * np.log10(0.25))
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 1
    assert psnr_of_one_colour([replace(view, photo=Photo(image, mask))]) == pytest.approx(100)
