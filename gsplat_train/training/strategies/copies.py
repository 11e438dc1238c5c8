# SPDX-License-Identifier: Apache-2.0
"""Copies of Gaussians that together show what one showed: which rows are drawn, and what is divided among them.

When a Gaussian of opacity o becomes n in one place, each gets (Kheradmand et al. 2024, equation 9)
    o_new = 1 - (1 - o)^(1/n)                                    so that together they are as opaque as it was
    s_new = s * o / sum_{k=1..n} C(n, k) (-1)^(k-1) o_new^k / sqrt(k)     so that together they are as large
(the paper's double sum over binomials, summed over its outer index; here an integral, see `shrinking`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...model.quaternions import rotate
from .. import draws
from ..draws import Key
from ..rows import Edit, Population
from . import adc, taken

FAINTEST, NEARLY_OPAQUE = 1e-6, 1.0 - 1e-6  # opacities of 0 and 1 have no logit


def draw(xp: Any, weights: Any, n: int, key: Key, split: float, alive: int) -> Any:
    """The rows to copy, in rising order, drawn by `weights`, of which `alive` are above 0. Where copies are set apart
    none comes twice: what was drawn again is drawn once more among the others, and a few less than `n` may come of it.
    """
    drawn = draws.multinomial(xp, weights, n, key)
    if not split:
        return drawn
    drawn = distinct(xp, drawn)
    if len(drawn) < min(n, alive):
        left = draws.with_rows(xp, weights + 0, drawn, 0)
        more = draws.multinomial(xp, left, n - len(drawn), key._replace(purpose=draws.AGAIN + key.purpose))
        drawn = xp.sort(xp.concatenate([drawn, distinct(xp, more)]))
    return drawn


def distinct(xp: Any, drawn: Any) -> Any:
    """Rows in rising order, each once."""
    first = xp.concatenate([xp.ones(1) > 0, drawn[1:] != drawn[:-1]])
    return draws.rows_of(xp, drawn, draws.positions(xp, first, int(first.sum())))


def shared(
    population: Population, source: Any, drawn: Any, copies: Any, min_opacity: float, split: float = 0
) -> Edit:
    """The edit that makes the rows `copies` of the rows `drawn`, which rise: opacity and scale are divided among
    the copies of one and itself, and the moments of all become zero.
    """
    xp = population.xp
    logits = taken(population, "logit_opacities", drawn)
    once: dict[str, Any] = {}
    if split:
        n = xp.array([2])  # copies that are set apart are of one row each
        once["log_scales"], offset = halves(population, drawn, split)
        means = taken(population, "means", drawn)
    else:
        n = draws.mentions(xp, drawn) + 1
        shrink = shrinking(xp, logits, n)
        once["log_scales"] = taken(population, "log_scales", drawn) + shrink[:, None]
    once["logit_opacities"] = fainter(xp, logits, n, min_opacity)
    columns = {name: xp.concatenate([column, column]) for name, column in once.items()}
    if split:
        columns["means"] = xp.concatenate([means - offset, means + offset])
    return Edit(source, xp.concatenate([drawn, copies]), columns)


def halves(population: Population, index: Any, split: float) -> tuple[Any, Any]:
    """(log scales [S, 3] of either half of Gaussians, offset [S, 3] of one half from the middle): two of the standard
    deviation s sqrt(1 - split^2) at +- split s have the variance s^2 of one.
    """
    xp, log_scales = population.xp, taken(population, "log_scales", index)
    unit = (xp.arange(3)[None] == xp.argmax(log_scales, axis=1)[:, None]).astype(xp.float32)
    reach = split * xp.exp(adc.largest(xp, log_scales)[:, None])
    offset = rotate(taken(population, "quats", index), reach * unit, xp)
    return log_scales + unit * (0.5 * math.log(1 - split * split)), offset


def fainter(xp: Any, logits: Any, n: Any, min_opacity: float) -> Any:
    """The logit [S] of each of `n` [S] Gaussians that replace one, float32."""
    new = xp.clip(_divided(xp, logits, n), max(min_opacity, FAINTEST), NEARLY_OPAQUE)
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
