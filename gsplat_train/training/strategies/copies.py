# SPDX-License-Identifier: Apache-2.0
"""Copies of Gaussians that together show what one showed: which rows are drawn, and what is divided among them.

When a Gaussian of opacity o becomes n in one place, each gets (Kheradmand et al. 2024, equation 9)
    o_new = 1 - (1 - o)^(1/n)                                    so that together they are as opaque as it was
    s_new = s * o / sum_{k=1..n} C(n, k) (-1)^(k-1) o_new^k / sqrt(k)     so that together they are as large
(the paper's double sum over binomials, summed over its outer index; here an integral, see `shrinking`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...model.quaternions import rotate
from .. import draws
from ..draws import Key
from ..rows import Edit, Population
from . import adc, taken

FAINTEST, NEARLY_OPAQUE = 1e-6, 1.0 - 1e-6  # opacities of 0 and 1 have no logit


def draw(xp: Any, weights: Any, n: int, key: Key, split: float) -> Any:
    """The rows to copy, in rising order, drawn by `weights`: none where all are 0; where copies are set apart none
    comes twice.
    """
    if split:
        return draws.distinct(xp, weights, n, key)
    return draws.multinomial(xp, weights, n if bool((weights > 0).any()) else 0, key)


def shared(
    population: Population, source: Any, drawn: Any, copies: Any, min_opacity: float, split: float = 0
) -> Edit:
    """The edit that makes the rows `copies` of the rows `drawn`, which rise: opacity and scale are divided among
    the copies of one and itself, and the moments of all become zero.
    """
    least = max(min_opacity, FAINTEST)
    if split:  # copies that are set apart are of one row each
        halve = getattr(population, "halves", partial(halves, population))
        shorter = 0.5 * math.log(1 - split * split)
        columns = halve(drawn, Halving(split, shorter, least, NEARLY_OPAQUE))
    else:
        columns = together(population, drawn, least)
    return Edit(source, population.xp.concatenate([drawn, copies]), columns)


def together(population: Population, drawn: Any, least: float) -> dict[str, Any]:
    """Columns of the rows `drawn` [S], which rise, and of a copy for each, in one place. least: opacity."""
    xp, logits = population.xp, taken(population, "logit_opacities", drawn)
    n = draws.mentions(xp, drawn) + 1
    log_scales = taken(population, "log_scales", drawn) + shrinking(xp, logits, n)[:, None]
    columns = {"logit_opacities": fainter(xp, logits, n, (least, NEARLY_OPAQUE)), "log_scales": log_scales}
    return {name: xp.concatenate([column, column]) for name, column in columns.items()}


class Halving(NamedTuple):
    """How one becomes two: `split` standard deviations to either side, the logarithm of the axis so much `shorter`, the
    `least` and the `largest` opacity.
    """

    split: float
    shorter: float
    least: float
    largest: float


def halves(population: Population, index: Any, how: Halving) -> dict[str, Any]:
    """Columns [2 S, ...] of the two halves of Gaussians, set apart along the longest axis: two of the standard
    deviation s sqrt(1 - split^2) at +- split s have the variance s^2 of one. On a GPU: csrc/kernels/halve.metal.
    """
    xp, log_scales = population.xp, taken(population, "log_scales", index)
    unit = (xp.arange(3)[None] == xp.argmax(log_scales, axis=1)[:, None]).astype(xp.float32)
    reach = how.split * xp.exp(adc.largest(xp, log_scales)[:, None])
    means = taken(population, "means", index)
    offset = rotate(taken(population, "quats", index), reach * unit, xp)
    logits = fainter(xp, taken(population, "logit_opacities", index), xp.array([2]), (how.least, how.largest))
    log_scales = log_scales + unit * how.shorter
    return {
        "means": xp.concatenate([means - offset, means + offset]),
        "log_scales": xp.concatenate([log_scales, log_scales]),
        "logit_opacities": xp.concatenate([logits, logits]),
    }


def fainter(xp: Any, logits: Any, n: Any, within: tuple[float, float]) -> Any:
    """The logit [S] of each of `n` [S] Gaussians that replace one, float32; of an opacity `within` two."""
    new = xp.clip(_divided(xp, logits, n), *within)
    return xp.log(new) - xp.log1p(-new)


def shrinking(xp: Any, logits: Any, n: Any) -> Any:
    """What is added to the log scales [S] of each of `n` [S] Gaussians that replace one, float32.

    Equation 9's sum over k without its alternating terms, and for any n: with 1/sqrt(k) = 2/sqrt(pi) integral of
    exp(-k t^2) it is 2/sqrt(pi) times the integral over t >= 0 of 1 - (1 - o_new exp(-t^2))^n.
    """
    new, n, total = _divided(xp, logits, n), n.astype(xp.float32), xp.zeros_like(logits)
    for weight, fall in QUADRATURE:
        total = total - weight * xp.expm1(n * xp.log1p(-new * fall))
    return logits - _thickness(xp, logits) - xp.log(total)


def _divided(xp: Any, logits: Any, n: Any) -> Any:
    """o_new of equation 9."""
    return -xp.expm1(-_thickness(xp, logits) / n.astype(xp.float32))


def _thickness(xp: Any, logits: Any) -> Any:
    """-log(1 - o)."""
    return xp.logaddexp(xp.zeros_like(logits), logits)


def _quadrature() -> list[tuple[float, float]]:
    """(weight times 2/sqrt(pi), exp(-t^2)) at the nodes of Gauss and Legendre on [0, 4], beyond which exp(-t^2) is
    below 2e-7.
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    falls = np.exp(-((2 * nodes + 2) ** 2))
    return [(4 / math.sqrt(math.pi) * float(w), float(fall)) for w, fall in zip(weights, falls, strict=True)]


QUADRATURE = _quadrature()
