# SPDX-License-Identifier: Apache-2.0
"""What is in a scene, in numbers: the table of gs-train --check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..scene import Scene, View
from .agreement import in_picture, small_views_of, spread
from .blank import KINDS, blank
from .check import Finding, Verdict, counted

MAX_VIEWS = 500  # whose pictures are looked at
THUMBNAIL = 32  # pixels, for finding the same picture twice
SAME = 0.5  # of 255, mean difference of copies of one picture
PLAIN = 12.0  # of 255, spread of a thumbnail in which a copy can be known
SHARP_SIDE = 512  # pixels; blur is judged at one size
BLURRED = 0.1  # of the usual contrast of neighbouring pixels, squared
FEW_VIEWS = 3  # that must see a point for its depth to be known well
SAMPLED_POINTS = 4000
BYTES_PER_SPLAT = 4 * 59 * 4  # parameters of SH degree 3, their gradients and two moments, float32


def table(verdict: Verdict, test_every: int, max_splats: int) -> dict[str, Any]:
    """The numbers of a scene, by name, in the order of the table."""
    scene = verdict.scene
    views = scene.views
    sizes = Counter(f"{view.camera.width}x{view.camera.height}" for view in views)
    lenses = {(*np.round(view.camera.K.ravel(), 3), view.camera.width, view.camera.height) for view in views}
    held = len(scene.split(test_every)[1]) if len(views) > 1 else 0
    pixels = sum(view.camera.width * view.camera.height for view in views)
    numbers: dict[str, Any] = {
        "scene": scene.name,
        "views": len(views),
        "held out": held,
        "cameras": len(lenses),
        "sizes": dict(sizes.most_common()),
        "undistorted": scene.undistort,
        "points": len(scene.points),
        "extent": float(f"{scene.extent:.6g}"),
    }
    if (agreement := verdict.agreement) is not None:
        numbers["points in a view"] = _rounded(agreement.share)
        numbers["correlation of colours"] = _rounded(agreement.usual)
        numbers["correlation with other photos"] = _rounded(agreement.others)
    numbers["points seen by three views"] = _rounded(coverage(scene))
    numbers["memory of photos, MB"] = round(3 * pixels / 1e6, 1)
    numbers["memory of splats at most, MB"] = round(max_splats * BYTES_PER_SPLAT / 1e6, 1)
    return numbers


def coverage(scene: Scene) -> float:
    """The share of the points that at least three views see; NaN without points."""
    if not len(scene.points):
        return float("nan")
    points = scene.points[spread(len(scene.points), SAMPLED_POINTS)]
    seen = np.zeros(len(points), int)
    for view in scene.views:
        seen[in_picture(view.camera, points)[0]] += 1
    return float((seen >= FEW_VIEWS).mean())


def pictures(views: Sequence[View]) -> list[Finding]:
    """Pictures that are black or of one colour, there twice, or blurred, each kind a finding."""
    small_views = small_views_of(views, MAX_VIEWS, side=SHARP_SIDE)
    names = [views[small_view.view].name for small_view in small_views]
    greys = [small_view.image.astype(np.float32).mean(axis=2) for small_view in small_views]
    small = [
        np.asarray(Image.fromarray(small_view.image).convert("L").resize((THUMBNAIL, THUMBNAIL)), np.float32)
        for small_view in small_views
    ]
    groups = [
        views[small_view.view].group or name for small_view, name in zip(small_views, names, strict=True)
    ]
    found = [blank(views[small_view.view].pixels) for small_view in small_views]
    showing = {group for group, kind in zip(groups, found, strict=True) if not kind}
    kinds_of = dict(zip(names, found, strict=True))
    empty = [name for name, group in zip(names, groups, strict=True) if group not in showing]
    twice = sorted(
        {
            names[i]
            for i in range(len(small))
            if small[i].std() > PLAIN and names[i] not in empty
            for j in range(i)
            if np.abs(small[i] - small[j]).mean() < SAME and _same(small_views[i].image, small_views[j].image)
        }
    )
    contrast = _best([_contrast(grey) for grey in greys], groups)
    usual = np.median(contrast) if len(contrast) else 0.0
    blurred = [
        name
        for name, value in zip(names, contrast, strict=True)
        if value < BLURRED * usual and name not in empty
    ]
    kinds = (
        *(([name for name in empty if kinds_of[name] == kind], kind, "take them out") for kind in KINDS),
        (twice, "there twice", "take one of each out"),
        (blurred, "much less sharp than the others", "take them out if others show the same"),
    )
    findings = []
    for found, what, mend in kinds:
        if found:
            said = f"{counted(len(found), 'picture')} {'is' if len(found) == 1 else 'are'} {what}"
            findings.append(Finding("warning", said, mend, tuple(found)))
    return findings


def _best(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """The largest value in each one's group: sky and floor of a panorama are no blurred photos."""
    best: dict[str, float] = {}
    for value, group in zip(values, groups, strict=True):
        best[group] = max(value, best.get(group, value))
    return [best[group] for group in groups]


def text(numbers: dict[str, Any], findings: Sequence[Finding]) -> str:
    """The table and the findings, as lines."""
    width = max(map(len, numbers)) + 2
    lines = [f"{name:{width}}{_shown(value)}" for name, value in numbers.items() if value is not None]
    lines += [f"{finding.level}: {finding.line}" for finding in findings]
    if not findings:
        lines.append("nothing is wrong with it, as far as this check sees")
    return "\n".join(lines)


def as_json(numbers: dict[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs; names of views are complete."""
    listed = [{"level": f.level, "what": f.what, "mend": f.mend, "views": list(f.names)} for f in findings]
    return {**numbers, "findings": listed, "refused": any(f.level == "error" for f in findings)}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(np.int16) - b).mean()) < SAME


def _contrast(grey: np.ndarray) -> float:
    """Mean square of the Laplacian."""
    if min(grey.shape) < 3:
        return 0.0
    inner = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float((inner * inner).mean())


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        parts = [
            f"{key} ({count})" if isinstance(count, int) else f"{key} {count}" for key, count in value.items()
        ]
        return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
    return f"{value:,}" if isinstance(value, int) else str(value)
