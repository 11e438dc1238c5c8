# SPDX-License-Identifier: Apache-2.0
"""Settings: what wins, what is refused and how, and that a run's config.toml brings them all back."""

import itertools
import re
from dataclasses import fields
from pathlib import Path

import pytest

from gsplat_train import config, lengths
from gsplat_train.config import Config
from gsplat_train.errors import UserError


def test_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("steps = 100\nseed = 3\nlr_means = 1\n")
    loaded = config.load([{"steps": 50, "images": "photos"}, file], {"seed": "4"})
    assert (loaded.steps, loaded.seed, loaded.images, loaded.lr_means) == (100, 4, "photos", 1.0)
    assert loaded.max_size == Config.max_size


@pytest.mark.parametrize("key", [f.name for f in fields(Config)])
def test_a_run_keeps_every_setting(key: str, tmp_path: Path) -> None:
    before = config.load(
        [], {"strategy": "adc", "lr_means_end": "1e-16", "scene": 'a "b" \\ é 😀 \x7f', "eval": "false"}
    )
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(before), "utf-8")
    assert getattr(config.load([file]), key) == getattr(before, key)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1_000", 1000),
        ("lr_means", "1e-3", 1e-3),
        ("undistort", "False", False),
        ("images", "007", "007"),
    ],
)
def test_text_becomes_the_type_of_its_setting(key: str, text: str, value: object) -> None:
    assert getattr(config.load([], {key: text}), key) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": "1"}, "unknown setting 'step'; did you mean steps?"),
        ({"qqqq": "1"}, "unknown setting 'qqqq'; see gsplat_train/config.py"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": "1.5"}, "steps must be a whole number, got '1.5'"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": "0"}, "steps must be at least 1, got 0"),
        ({"steps": 1.0}, "steps must be a whole number, got 1.0"),
        ({"ssim_lambda": "1.01"}, "ssim_lambda must be from 0 to 1, got 1.01"),
        ({"lr_means": "nan"}, "lr_means must be at least 0, got nan"),
        ({"lr_means": "inf"}, "lr_means must be at least 0, got inf"),
        ({"undistort": "yes"}, "undistort must be true or false, got 'yes'"),
        ({"strategy": "mcm"}, "strategy must be one of mcmc, adc, igs, none, got 'mcm'"),
    ],
)
def test_bad_settings_are_one_line(settings: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        config.load([], settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"steps = ", b"\xff\xff", b"[table]\nsteps = 1\n", b"steps = [1]\n"])
def test_bad_files_are_one_line_that_names_them(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(file))) as caught:
        config.load([file])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        config.load([tmp_path / "none.toml"])


def test_naming_adc_brings_its_settings_above_the_scenes_and_below_what_is_given_with_it() -> None:
    adc = config.load([], {"strategy": "adc"})
    assert (adc.init_opacity, adc.own.opacity_reg, adc.own.noise_lr) == (0.1, 0.0, 0.0)
    fern = config.find("fern")
    assert fern is not None
    assert config.load([fern]).own.refine_stop != adc.own.refine_stop
    adc_fern = config.load([fern], {"strategy": "adc"})
    assert (adc_fern.own.refine_stop, adc_fern.init_scale) == (adc.own.refine_stop, adc.init_scale)
    assert (adc_fern.steps, adc_fern.max_splats) == (7000, 100_000)  # the scene's own
    assert config.load([fern], {"strategy": "adc", "refine_stop": 0.7}).own.refine_stop == 0.7
    assert config.load([{"strategy": "adc", "init_opacity": 0.3}, {"steps": 5}]).init_opacity == 0.3
    assert config.load([{"strategy": "adc", "init_opacity": 0.3}], {"strategy": "adc"}).init_opacity == 0.3
    assert config.load([{"strategy": "adc", "steps": 5}], {"strategy": "mcmc"}) == Config(steps=5)
    assert config.load().init_opacity == Config.init_opacity


def test_every_configuration_loads_and_says_why() -> None:
    found = config.find("fern")
    assert found is not None
    files = sorted(found.parent.glob("*.toml"))
    assert {"adc", "demo", "demo_fast", "fern", "fern_fast"} <= {file.stem for file in files}
    for file in files:
        config.load([file])
        for line in file.read_text().splitlines():
            named = line.startswith(("scene", "source", "strategy"))  # these need no reason
            assert line.startswith("#") or named or "  # " in line, f"{file.name}: {line}"


def test_defaults_of_ones_own_folder() -> None:
    own = config.load([{"scene": "/somewhere"}])
    assert (own.strategy, own.steps, own.max_splats, own.max_size, own.test_every) == (
        "mcmc",
        30_000,
        10**6,
        1600,
        8,
    )


def test_a_short_name_is_the_strategys_in_use_and_the_long_one_any() -> None:
    loaded = config.load([], {"grow_rate": "0.1", "mcmc.min_opacity": "0.01"})
    assert (loaded.own.grow_rate, loaded.own.min_opacity) == (0.1, 0.01)
    adc = config.load([{"grow_rate": 0.1, "refine_every": 50}], {"strategy": "adc", "min_opacity": 0.02})
    assert (adc.own.refine_every, adc.own.min_opacity) == (100, 0.02)  # the layer below was chosen for mcmc
    assert config.value_of(adc, "min_opacity") == config.value_of(adc, "adc.min_opacity") == 0.02
    assert config.value_of(adc, "grow_rate") is None


def test_a_setting_of_another_strategy_is_refused() -> None:
    with pytest.raises(UserError, match="grow_rate is a setting of strategy mcmc; the strategy is adc"):
        config.load([], {"strategy": "adc", "grow_rate": "0.1"})
    with pytest.raises(UserError, match=r"unknown setting 'mcmc\.grow_rat'; did you mean mcmc\.grow_rate"):
        config.load([], {"mcmc.grow_rat": 1})


def test_the_mode_of_a_group_is_set_by_its_name() -> None:
    loaded = config.load([], {"exposure": "affine", "exposure.lr": "0.01"})
    assert (loaded.sections["exposure"].mode, loaded.sections["exposure"].lr) == ("affine", 0.01)
    with pytest.raises(UserError, match="must be one of auto, off, gain, affine, got 'on'"):
        config.load([], {"exposure": "on"})


def test_settings_of_version_0_1_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'scene = "demo"\nstrategy = "mcmc"\ngrow_rate = 0.1\nsplit_scale = 0.02\nopacity_reg = 0.5\n'
    )
    loaded = config.load([file])
    assert (loaded.own.grow_rate, loaded.own.opacity_reg) == (0.1, 0.5)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b"\xef\xbb\xbfsteps = 7\n")
    assert config.load([file]).steps == 7


def test_a_changed_configuration_keeps_the_rest() -> None:
    before = config.load([], {"strategy": "adc", "reset_every": 10, "seed": 3})
    after = config.changed(before, config.check({"min_opacity": 0.1, "steps": 9}, "test"))
    assert (after.own.reset_every, after.own.min_opacity, after.seed, after.steps) == (10, 0.1, 3, 9)


def test_what_depends_on_the_length_follows_it_unless_given(tmp_path):
    def of(steps=None, *files, **args):
        settings = config.configure(str(tmp_path), args | ({} if steps is None else {"steps": steps}), files)
        return {name: config.value_of(settings, name) for name in lengths.NAMES}

    usual = {name: config.value_of(config.load(), name) for name in lengths.NAMES}
    assert of() == of(30_000) == of(50_000) == usual
    short = of(200)
    assert short["init_scale"] == 0.6 and short["sh_interval"] == short["refine_start"] == 20
    assert short["lr_means_end"] == pytest.approx(0.1 * short["lr_means"])
    assert all(short[name] != usual[name] for name in usual)
    for few, more in itertools.pairwise((1, 20, 200, 1000, 3000, 7000, 30_000)):
        before, after = of(few), of(more)
        assert all(before[name] >= after[name] for name in lengths.POWERS)
        assert all(before[name] <= after[name] for name in lengths.IN_STEPS)
    assert of(200, init_scale=0.1) == short | {"init_scale": 0.1}
    assert of(200, **{"mcmc.refine_start": 50}) == short | {"refine_start": 50}
    assert of(200, lr_means=1e-5)["lr_means_end"] == usual["lr_means_end"]  # never above what was given ...
    file = tmp_path / "own.toml"
    file.write_text("steps = 200\nsh_interval = 0\n")
    assert of(None, file) == short | {"sh_interval": 0}
    assert of(200, strategy="adc")["init_scale"] == 1.0  # which it brings


@pytest.mark.parametrize("name", ["demo", "fern"])
def test_a_built_in_configuration_is_of_its_own_length(name):
    def of(settings):
        return {key: config.value_of(settings, key) for key in lengths.NAMES}

    plain = config.load([config.find(name)])
    assert of(config.configure(name, {})) == of(plain)
    fast = config.find(f"{name}_fast")
    assert of(config.configure(name, {}, [fast])) == of(config.load([config.find(name), fast]))
    assert config.configure(name, {"steps": 200}).init_scale > 2 * plain.init_scale
