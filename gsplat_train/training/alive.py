# SPDX-License-Identifier: Apache-2.0
"""Whether there is still something to train: a model whose splats are all culled has no gradient and no use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..backends import Backend
from ..config import Config
from ..model.gaussians import Gaussians
from ..scene import Camera, View
from .rows import TrainState, rows

LOOKED_AT = 8  # views
# What no parameter reaches in training's frame, whose farthest camera is at distance 1; 100 times what scenes need.
SENSE = {"means": 1e6, "quats": 1e6, "log_scales": 14.0, "logit_opacities": 200.0, "sh0": 1e3, "shN": 1e3}
RATES = {
    "means": "lr_means", "quats": "lr_quats", "log_scales": "lr_scales", "logit_opacities": "lr_opacities",
    "sh0": "lr_sh0", "shN": "lr_shN",
}  # fmt: skip

WEIGHTS = ("opacity_reg", "scale_reg", "noise_lr", "init_scale")  # that carry parameters away as rates do
FAR = 100  # times a default: short runs take up to eight times some rates


def is_seen(gaussians: Gaussians, views: Sequence[View], backend: Backend) -> bool:
    """Whether any view shows any splat, a few that are evenly chosen first; gaussians and views are in one frame."""
    few = np.linspace(0, len(views) - 1, min(LOOKED_AT, len(views))).round().astype(int).tolist()
    return any(
        _shows_any(gaussians, views[i].camera, backend) for i in dict.fromkeys([*few, *range(len(views))])
    )


def _shows_any(gaussians: Gaussians, camera: Camera, backend: Backend) -> bool:
    seen = backend.project(
        gaussians, camera.viewmat, camera.K, camera.width, camera.height, sh_degree=0, antialiased=False
    )
    return bool((np.asarray(seen.radii) > 0).all(axis=1).any())


def not_finite(state: TrainState) -> list[str]:
    """The leaves of the parameters and moments that hold a number that is not finite, in words."""
    trees = {"": state.gaussians, "first moment of ": state.m, "second moment of ": state.v}
    return [
        words + name
        for words, tree in trees.items()
        for name, leaf in rows(tree).items()
        if not np.isfinite(leaf).all()
    ]


def far_off(config: Config) -> list[tuple[str, float, float]]:
    """Rates and weights that are beyond FAR times their default: (name, value, default), the farthest first."""
    found = []
    for owner in (config, config.own):
        usual = type(owner)()
        for name in (*RATES.values(), *WEIGHTS):
            value, default = getattr(owner, name, 0.0), getattr(usual, name, 0.0)
            if default > 0 and value > FAR * default:
                found.append((name, value, default))
    return sorted(found, key=lambda item: item[2] / item[1])


def beyond_sense(gaussians: Gaussians, config: Config) -> tuple[str, str]:
    """(which parameters have gone where no photo asks for them, what to try), in words; ("", what is tried first)
    where none has. A setting that is far off is to blame before all others.
    """
    reached = {}
    values = rows(gaussians)
    for name, limit in SENSE.items():
        leaf = np.abs(values[name])
        largest = float(np.where(np.isnan(leaf), np.inf, leaf).max(initial=0.0))
        if largest > limit:
            reached[name] = largest
    odd = far_off(config)
    worst = max(reached, key=lambda name: reached[name] / SENSE[name], default="")
    blamed = next((name for rate, *_ in odd for name in reached if RATES[name] == rate), worst)
    if odd and (not blamed or RATES[blamed] != odd[0][0]):
        setting, value, usual = odd[0]
        cause = f"{worst} reach {reached[worst]:.3g}, " if worst else ""
        return f"{cause}{setting}={value:g} is far from {usual:g}", f"try --set {setting}={usual:g}"
    if not blamed:
        return "", f"try --set lr_means={config.lr_means / 4:g}"
    rate = RATES[blamed]
    value, usual = getattr(config, rate), getattr(Config(), rate)
    advice = f"{value / 4:g}" if value <= 4 * usual else f"{usual:g}"
    return f"{blamed} reach {reached[blamed]:.3g} with {rate}={value:g}", f"try --set {rate}={advice}"


def suspect(gaussians: Gaussians, config: Config) -> str:
    """What is probably wrong where nothing was learnt."""
    if far_off(config):
        return "; ".join(beyond_sense(gaussians, config))
    return "cameras, points, rates or weights are probably wrong; see gs-train --check"


def _variance(channel: np.ndarray) -> float:
    """Of uint8 numbers, as shares of 255: by how often there is each."""
    often, values = np.bincount(channel, minlength=256) / len(channel), np.arange(256) / 255
    return float(often @ np.square(values - often @ values))


def psnr_of_one_colour(views: Sequence[View], background: Sequence[float] = (0.0, 0.0, 0.0)) -> float:
    """The PSNR, in dB, of pictures that show each photo's mean colour everywhere, over the pixels that count: the
    mean over the views; infinite where none counts.
    """
    errors = []
    for view in views:
        photo = view.pixels
        pixels = photo.shown(background).reshape(-1, 3)
        if photo.mask is not None:
            pixels = pixels[photo.mask.reshape(-1) != 0]
        if len(pixels):
            errors.append(sum(map(_variance, pixels.T)) / 3)
    return float(np.mean([-10 * np.log10(max(error, 1e-10)) for error in errors])) if errors else math.inf
