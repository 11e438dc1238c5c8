# SPDX-License-Identifier: Apache-2.0
"""No wrong scene believed: do cameras, photos and points of a scene belong together?

Points are projected into each view. In a sound scene many of them lie in the picture, and the colours there are
those of the points: they correlate more with the view's own photo than with another's. Where they do not, the
mistakes of `conventions` are undone one by one; the one that helps is named. All numbers below were measured on
sound scenes and on the same scenes with mistakes put in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from ..scene import Scene
from .agreement import Agreement, SmallView, agree, correlation, small_views_of, spread, with_others_photos
from .conventions import tries
from .files import shorten
from .points import N_POINTS, company, draw_points, have_colors, with_dome, with_own_colors
from .sweep import sweep, tell, without_mistake

MAX_VIEWS = 96  # views whose photos are looked at
FEW_POINTS = 4_000  # that are projected ...
MANY_POINTS = 60_000  # ... where a view sees a small part of the scene
ENOUGH = 150  # points in a view
SOUND = 0.35  # correlation that no mistake was seen to reach; sound scenes: 0.42 to 0.97, mistakes: to 0.25
CERTAIN = 0.7  # that only a better one can put in doubt, whatever other photos have
SURE = 0.3  # above the correlation with other photos, where nothing is doubted; sound scenes: 0.33 and more
MARGIN = 0.12  # above it, for a scene to be sound
NO_MARGIN = 0.05
NO_MORE = 0.1  # correlation of what has nothing to do with one another
LEAST = 0.25  # correlation of a scene that a mistake is undone in
CLEARLY = 0.12  # better than as it is: then a mistake is named
SHARE = 0.2  # of the points in view, by which a scene without colours is judged; mistakes: to 0.05
UNSEEN = 1e-3  # share of the points that a view sees, below which it sees none
FAR = 10.0  # times the distance of most cameras from their middle
MOST_OUT = 0.2  # of the cameras: more than that are no outliers
WORSE = 0.32  # than the usual correlation: the photo shows something else; sound photos: to 0.29
TRIED_VIEWS, TRIED_POINTS = 24, 2_000  # with which mistakes are tried
SWEPT_VIEWS = 48  # with which scenes without points are judged ...
FEW_VIEWS = 6  # ... from this many on
FEWEST_POINTS = 250  # with 120 the built-in scene has 16.7 dB after 300 steps, 26.2 with drawn ones
ALONE = 1.2  # cameras that see a drawn point; one is the camera that drew it
TRUST = "--trust goes on all the same"


class Finding(NamedTuple):
    """Something to know about a scene: what, how to mend it, and the views that it is about."""

    level: str  # error: not to be trained on; warning; note
    what: str
    mend: str = ""
    names: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """All of it in one line."""
        views = f" ({shorten(list(self.names))})" if self.names else ""
        return f"{self.what}{views}" + (f"; {self.mend}" if self.mend else "")


class Verdict(NamedTuple):
    """What the check says of a scene, and the scene without what could be mended."""

    scene: Scene
    findings: list[Finding]
    agreement: Agreement | None
    indices: list[int]  # the views that `agreement` is about

    @property
    def refused(self) -> Finding | None:
        """The first error."""
        return next((finding for finding in self.findings if finding.level == "error"), None)


def checked(scene: Scene, *, trust: bool = False, log: Callable[[str], None] = lambda line: None) -> Scene:
    """The scene, mended where that is safe; UserError where its parts do not belong together.

    trust: neither refuse nor leave anything out, only say it.
    """
    verdict = judge(scene, trust=trust)
    for finding in verdict.findings:
        if finding.level == "note":
            log(finding.line)
        elif finding.level == "warning" or trust:
            log(f"warning: {finding.line}")
        else:
            raise UserError(f"{finding.line}; {TRUST}")
    return verdict.scene


def judge(scene: Scene, *, trust: bool = False) -> Verdict:
    """Looks at single cameras, then at all of them together, then at the points."""
    if not any(view.photo is not None for view in scene.views):
        return Verdict(scene, [], None, [])
    if not len(scene.points):
        scene, findings = _drawn(scene, "the scene has none", "note")
        return Verdict(scene, findings, None, [])
    if len(scene.points) < FEWEST_POINTS and len(scene.views) >= FEW_VIEWS:
        scene, findings = _drawn(scene, f"the scene has {len(scene.points)} only", "warning")
        return Verdict(scene, findings, None, [])
    far = _far_cameras(scene)
    small_views = small_views_of(scene.views, MAX_VIEWS, side=0, also=far)
    colored = have_colors(scene.colors)
    points, colors = _subset(scene, small_views)
    agreement = agree(small_views, points, colors if colored else None)
    findings = _wild_cameras(scene, far, small_views, agreement, trust)
    if findings and not trust:
        wild = set(findings[0].names)
        scene = replace(scene, views=tuple(view for view in scene.views if view.name not in wild))
        kept = [small.view not in far for small in small_views]
        small_views = [small for small, keep in zip(small_views, kept, strict=True) if keep]
        agreement = agreement.of(kept)
    names = [view.name for view in scene.views]

    def found(agreement: Agreement) -> list[Finding]:
        sight = _together(small_views, points, colors if colored else None, agreement)
        return sight or _single_photos(names, small_views, points, colors, agreement)

    more = found(agreement)
    if more and not np.isnan(agreement.usual) and not tell(small_views, dim=True):
        agreement = agreement.without_colors  # of sound plain things they correlate from -0.1 to 0.9
        more = found(agreement)
    findings += more
    if not any(finding.level == "error" for finding in findings):
        if agreement.shares.max() < UNSEEN:
            scene, drawn = _drawn(scene, "no photo shows the scene's own", "warning")
            findings += drawn
        else:
            for mend in (with_own_colors, with_dome):
                scene, what = mend(scene)
                findings += [Finding("note", what)] if what else []
    return Verdict(scene, findings, agreement, [small.view for small in small_views])


def _drawn(scene: Scene, why: str, level: str) -> tuple[Scene, list[Finding]]:
    """The scene with drawn points, and what drawing them tells about its cameras."""
    points, colors = draw_points(scene.views, N_POINTS)
    findings = [Finding(level, f"points: {len(points):,} drawn where the photos agree best, as {why}")]
    scene = replace(scene, points=points, colors=colors)
    small_views = small_views_of(scene.views, SWEPT_VIEWS)
    as_is, other = sweep(small_views), sweep(with_others_photos(small_views, len(small_views) // 2))
    own = _number(as_is.agreement)
    if len(small_views) < FEW_VIEWS or own >= min(SOUND, _number(other.agreement) + MARGIN):
        return scene, findings
    telling = tell(small_views)
    best, what, mend = without_mistake(small_views, telling, as_is)
    numbers = f"cameras: photos agree {max(0.0, own):.2f} where the cameras say they show the same"
    if best > max(LEAST, own + CLEARLY):
        findings.append(Finding("error", f"{numbers}; {what} ({best:.2f} without that mistake)", mend))
    elif company(small_views, points) < ALONE:
        mend = "look at the poses and at the focal length, which is in pixels"
        findings.append(Finding("error", "cameras: they see nothing in common", mend))
    elif telling and own < _number(other.agreement) + NO_MARGIN:
        findings.append(Finding("warning", f"cameras: they hardly fit the photos: {numbers[9:]}"))
    return scene, findings


def _far_cameras(scene: Scene) -> np.ndarray:
    """Indices of cameras that are far from all others."""
    positions = np.stack([view.camera.position for view in scene.views])
    distances = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    most = np.quantile(distances, 1 - MOST_OUT)
    far = np.flatnonzero(distances > FAR * most) if most > 0 else np.empty(0, int)
    return far if len(far) <= MOST_OUT * len(positions) else np.empty(0, int)


def _subset(scene: Scene, small_views: Sequence[SmallView]) -> tuple[np.ndarray, np.ndarray]:
    """As many points as are needed for some in each view."""
    chosen = spread(len(scene.points), FEW_POINTS)
    seen = [len(small.sees(scene.points[chosen])[0]) for small in small_views]
    if np.median(seen) < ENOUGH:
        chosen = spread(len(scene.points), MANY_POINTS)
    return scene.points[chosen], scene.colors[chosen]


def _wild_cameras(
    scene: Scene, far: np.ndarray, small_views: Sequence[SmallView], agreement: Agreement, trust: bool
) -> list[Finding]:
    """Cameras that are far from all others and whose photos do not show the points: they ruin the scale."""
    wild = []
    for small, own in zip(small_views, agreement.own, strict=True):
        if small.view in far and not own > max(0.5 * agreement.usual, NO_MARGIN):  # so that NaN is wild
            wild.append(scene.views[small.view].name)
    if not wild:
        return []
    what = f"{len(wild)} of {len(scene.views)} cameras are over {FAR:.0f} times as far out as the others"
    mend = "take them out of the model" if trust else "they are left out; --trust keeps them"
    return [Finding("warning", what, mend, tuple(wild))]


def _together(
    small_views: Sequence[SmallView], points: np.ndarray, colors: np.ndarray | None, agreement: Agreement
) -> list[Finding]:
    """An error or a warning where cameras, photos and points do not belong together; nothing otherwise."""
    own, others = agreement.usual, agreement.others
    if own >= others + SURE:
        return []
    if np.isnan(own) and agreement.share >= SHARE:
        return []
    numbers = f"{agreement.share:.0%} of the points are in a picture, "
    numbers += "their colours tell nothing" if np.isnan(own) else f"their colours correlate {own:.2f} with it"
    few, chosen = small_views[:: -(-len(small_views) // TRIED_VIEWS)], spread(len(points), TRIED_POINTS)
    best = None
    for attempt in tries(few, points[chosen]):
        found = agree(attempt.small_views, attempt.points, None if colors is None else colors[chosen])
        if _is_better(agreement, found) and (best is None or _rank(found) > _rank(best[1])):
            best = attempt, found
    if best is not None:
        attempt, found = best
        better = f"{found.share:.0%}" + ("" if np.isnan(found.usual) else f" and {found.usual:.2f}")
        what = f"cameras and photos do not fit: {numbers}; {attempt.what} ({better} without that mistake)"
        return [Finding("error", what, attempt.mend)]
    if mixed := _mixed_up(small_views, points, colors, own):
        return [mixed]
    if np.isnan(own):
        if agreement.shares.max() < UNSEEN:
            return []  # the points are elsewhere, which the cameras may be innocent of
        return [Finding("warning", f"cameras: {numbers}", "look at gs-train SCENE --check")]
    if own >= SOUND or np.isnan(others):
        return []  # many views of nearly one place fit one another's photos
    if own < others + (MARGIN if own < NO_MORE else NO_MARGIN) and len(small_views) > 3:
        what = f"cameras and photos do not fit: {numbers}, {others:.2f} with other photos"
        return [Finding("error", what, "look at the poses, the intrinsics, and which photo belongs to which")]
    return [
        Finding("warning", f"cameras: {numbers}, {others:.2f} with other photos", "are they of this scene?")
    ]


def _is_better(as_is: Agreement, found: Agreement) -> bool:
    """Whether a scene is clearly sounder without a mistake than as it is."""
    if np.isnan(found.usual):
        return bool(np.isnan(as_is.usual) and found.share > as_is.share + 2 * SHARE)
    if not found.usual > max(LEAST, found.others + MARGIN):
        return False
    margin = 0.0 if as_is.usual >= CERTAIN else found.usual - found.others - (as_is.usual - as_is.others)
    return not max(found.usual - as_is.usual, margin) <= CLEARLY  # so that NaN as it is counts


def _rank(found: Agreement) -> float:
    """Few points correlate well by chance; nearly as many as elsewhere hardly."""
    return (_number(found.usual) + 1) * max(found.share, UNSEEN) ** 0.25


def _mixed_up(
    small_views: Sequence[SmallView], points: np.ndarray, colors: np.ndarray | None, own: float
) -> Finding | None:
    """Photos that stand at one another's cameras: most views fit another photo clearly better."""
    if colors is None or len(small_views) < 3 or np.isnan(own):
        return None
    best = []
    for small in small_views[:: max(1, len(small_views) // 24)]:
        index, uv = small.shows(points)
        best.append(max(_number(correlation(colors[index], other.pixels(uv))) for other in small_views))
    if np.median(best) < own + CLEARLY:
        return None
    what = f"photos stand at the wrong cameras: colours correlate {own:.2f}, with the best photo "
    what += f"{np.median(best):.2f}"
    return Finding("error", what, "give the photos the names that the cameras have")


def _single_photos(
    names: Sequence[str],
    small_views: Sequence[SmallView],
    points: np.ndarray,
    colors: np.ndarray,
    agreement: Agreement,
) -> list[Finding]:
    """Photos that show something else than their cameras see, in a scene that is sound otherwise."""
    usual = agreement.usual
    if not usual >= SOUND / 2:  # so that NaN is not
        return []
    odd = []
    for small, own in zip(small_views, agreement.own, strict=True):
        if own < min(0.55 * usual, usual - WORSE):
            index, uv = small.shows(points)
            others = (other for other in small_views if other.view != small.view)
            if own < NO_MARGIN + max(
                _number(correlation(colors[index], other.pixels(uv))) for other in others
            ):
                odd.append(names[small.view])  # other photos fit as well
    if not odd:
        return []
    what = (
        f"{counted(len(odd), 'photo')} show{'s' if len(odd) == 1 else ''} something else than the camera sees"
    )
    return [Finding("warning", what, "take them out, or correct their poses", tuple(odd))]


def counted(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _number(value: float) -> float:
    return -1.0 if np.isnan(value) else value
