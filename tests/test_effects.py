# SPDX-License-Identifier: Apache-2.0
"""Settings that cannot have any effect: those that somebody gave are refused, of defaults nothing is said."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_cli import SHORT, call

from gsplat_train import config, effects, registry
from gsplat_train.cli.devices import begun
from gsplat_train.config import GENERAL, Config, check, load
from gsplat_train.datasets.demo import write_demo
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo
from gsplat_train.training.api import train
from gsplat_train.training.trainer import Trainer

IDLE: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "none", "floaters_every": 500}, "floaters_every=500 has no effect with strategy=none"),
    ({"refine_stop": 0.0, "floaters_every": 500}, "floaters_every=500 has no effect with mcmc.refine_stop=0"),
    ({"refine_stop": 0.0, "grow_rate": 0.2}, "grow_rate=0.2 has no effect with mcmc.refine_stop=0"),
    (
        {"strategy": "adc", "refine_stop": 0, "reset_every": 9},
        "reset_every=9 has no effect with adc.refine_stop=0",
    ),
    ({"mcmc.least_share": 0, "mcmc.weigh_every": 0.2}, "it needs least_share above 0"),
    ({"error_floor": 0.0}, "error_floor=0 has no effect with mcmc.error_views=0"),
    ({"select_stop": 0.8}, "it needs final_share below 1; give that, or leave select_stop out"),
    ({"stage_cap": 0.5}, "stage_cap=0.5 has no effect with downscales=0"),
    ({"noise_lr": 0, "noise_stop": 0.5}, "it needs noise_lr above 0"),
    ({"strategy": "adc", "grow_absgradient": 1e-3}, "it needs absgrad=true"),
    ({"strategy": "adc", "absgrad": True, "grow_gradient": 1e-3}, "it needs absgrad=false"),
    ({"strategy": "adc", "lr_rest_from": 0.5}, "lr_rest_from=0.5 has no effect with lr_rest_end=1"),
    ({"strategy": "igs", "reset_stop": 0, "recover": 9}, "recover=9 has no effect with igs.reset_stop=0"),
    ({"adc.reset_every": 9}, "adc.reset_every is a setting of another strategy; the strategy is mcmc"),
    (
        {"late_from": 0.5},
        "late_from=0.5 has no effect with late_batch=1: it needs late_batch above 1; give that",
    ),
    ({"late_from": 0.0}, "late_from=0 has no effect with late_batch=1"),
    ({"late_batch": 3, "batch": 2}, "late_batch=3 has no effect with batch=2: it needs batch=1"),
    ({"late_batch": 3, "late_from": 1}, "it needs late_from below 1"),
    ({"downscale_every": 100}, "it needs downscales above 0"),
    ({"sh_degree": 0, "sh_interval": 10}, "it needs sh_degree above 0"),
    ({"lr_means_end": 1e-3}, "it needs lr_means to be as high"),
    ({"poses.lr": 1e-3}, "poses.lr=0.001 has no effect with poses=fixed: it needs poses=refine"),
    ({"exposure": "off", "exposure.lr": 1e-2}, "exposure.lr=0.01 has no effect with exposure=off"),
    ({"sky.lr": 1e-3}, "sky.lr=0.001 has no effect with background=auto: it needs background=sh"),
    ({"undistort": False, "fov": 60}, "fov=60 has no effect with undistort=false"),
    ({"mask_mode": "off", "invert_masks": True}, "invert_masks=true has no effect with mask_mode=off"),
    ({"reader": "demo", "images": "images_4"}, "images=images_4 has no effect with reader=demo"),
    (
        {"time_budget": 60, "steps": 500},
        "steps=500 has no effect with time_budget=60: it needs time_budget=0",
    ),
]


@pytest.mark.parametrize(("settings", "says"), IDLE)
def test_what_was_given_and_cannot_have_any_effect_is_refused(settings: dict[str, Any], says: str) -> None:
    requested = check(settings, "--set")
    with pytest.raises(UserError) as caught:
        effects.check(load([], requested), requested)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "none", "floaters_every": 0},
        {"floaters_every": 500, "late_batch": 3, "late_from": 0.0, "downscales": 1, "stage_cap": 0.5},
        {"eval": False, "eval_every": 100, "test_every": 4, "preview_views": 2},
        {"test_every": 0, "preview_views": 2},
        {"backend": "cpp", "gpu_memory": 0.5},
        {"strategy": "none"},
        {"strategy": "adc", "absgrad": True, "grow_absgradient": 1e-3},
        {"backend": "auto", "gpu_memory": 0.5},
        {"poses": "refine", "poses.lr": 1e-3, "lr_rest_end": 1.0, "lr_rest_from": 1.0},
    ],
)
def test_what_has_an_effect_or_asks_for_nothing_may_be_given(settings: dict[str, Any]) -> None:
    requested = check(settings, "--set")
    effects.check(load([], requested), requested)


@pytest.mark.parametrize("strategy", registry.STRATEGIES)
def test_of_defaults_nothing_is_said(strategy: str) -> None:
    """Though many have no effect, neither where nobody gave them nor where somebody gave all."""
    made = load([], {"strategy": strategy})
    own = {f"{owner}.{f.name}": getattr(s, f.name) for owner, s in made.sections.items() for f in fields(s)}
    effects.check(made, {key: getattr(made, key) for key in GENERAL} | own)


def test_the_table_names_settings() -> None:
    for need in effects.NEEDS:
        for key in [*need.keys.split(), need.other]:
            strategy = key.partition(".")[0] if key.partition(".")[0] in registry.STRATEGIES else "mcmc"
            assert config.value_of(load([], {"strategy": strategy}), key) is not None, key
    assert {f.name for f in fields(Config)} >= effects.LOADING


def test_files_of_ones_own_are_looked_at_each_by_itself(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("strategy = 'none'\nfloaters_every = 500\n")
    with pytest.raises(UserError, match="floaters_every=500 has no effect with strategy=none"):
        effects.check_files("demo", [own])
    own.write_text("downscales = 1\ndownscale_every = 100\n[mcmc]\ngrow_rate = 0.2\n[adc]\nreset_every = 9\n")
    effects.check_files("demo", [own])  # what --set changes of it is no fault of the file
    effects.check_files("demo", config.files())
    record = tmp_path / "config.toml"  # of a run: nobody chose each
    record.write_text(config.to_toml(load([], {"strategy": "none", "floaters_every": "100"})))
    effects.check_files("demo", [record])


def test_the_command_says_it_before_there_is_a_run(tmp_path: Path) -> None:
    write_demo(tmp_path / "room", tiny.scene())
    said = call(
        "train", "room", "--set", "strategy=none", "--set", "floaters_every=500", code=2, cwd=tmp_path
    ).stderr
    assert said.startswith("gs-train: floaters_every=500 has no effect with strategy=none: it needs")
    assert said.count("\n") == 1 and not (tmp_path / "runs").exists()
    (tmp_path / "own.toml").write_text("late_from = 0.5\n")
    said = call("train", "room", "--config", "own.toml", code=2, cwd=tmp_path).stderr
    assert "late_from=0.5 has no effect" in said


def test_a_resumed_run_is_asked_only_what_it_takes(tmp_path: Path) -> None:
    write_demo(tmp_path / "room", tiny.scene())
    where = ["room", "--out", "run", "--no-eval"]
    call("train", *where, *SHORT, cwd=tmp_path)
    call("train", *where, "--resume", "--set", "eval_every=10", cwd=tmp_path)
    budgeted = replace(tiny.settings(), time_budget=60.0, schedule_steps=40)
    effects.check_resumed(budgeted, {"steps": 9000})  # prolongs it


def test_what_only_loads_takes_settings_of_loading(tmp_path: Path) -> None:
    said = call("partition", "demo", "parts", "--set", "strategy=adc", code=2, cwd=tmp_path).stderr
    assert said.startswith(
        "gs-partition: --set strategy has no effect on gs-partition, which does not train; it takes"
    )
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_frames_are_of_a_video(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    said = call("prepare", "photos", "out", "--fps", 2, code=2, cwd=tmp_path).stderr
    assert "--fps 2.0 has no effect on photos, a folder of photos: it is of a video; leave it out" in said


def test_a_scene_in_memory_is_loaded() -> None:
    with pytest.raises(
        UserError, match="max_size says how a scene is loaded, and this one is; give it to open_scene"
    ):
        train(tiny.scene(), tiny.settings(), max_size=20)
    with pytest.raises(UserError, match="floaters_every=5 has no effect with strategy=none"):
        train(tiny.scene(), tiny.settings(strategy="none"), floaters_every=5)


def test_a_trainer_finds_what_the_scene_decides() -> None:
    with pytest.raises(UserError, match="floaters_every=5 has no effect with strategy=none"):
        Trainer(tiny.settings(strategy="none", floaters_every=5), tiny.scene())
    with pytest.raises(UserError, match="needs held-out views to measure on; set test_every above 0"):
        Trainer(tiny.settings(stop_when_converged=True, test_every=0), tiny.scene())
    weighed = tiny.settings(**{"alpha.weight": 0.1})
    with pytest.raises(UserError, match=r"alpha\.weight needs photos with alpha, and none of these has any"):
        Trainer(weighed, tiny.scene())
    alpha = np.full((36, 48), 200, np.uint8)
    last = tiny.scene().views[-2]  # -1 is held out
    views = [
        view if view is not last else replace(view, photo=Photo(view.pixels.image, alpha=alpha))
        for view in tiny.scene().views
    ]
    Trainer(weighed, replace(tiny.scene(), views=tuple(views)))


def test_steps_over_devices_have_their_views() -> None:
    with pytest.raises(UserError, match="late_batch is for the training of one device"):
        begun(2, tiny.settings(late_batch=3), False, None)
