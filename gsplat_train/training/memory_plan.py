# SPDX-License-Identifier: Apache-2.0
"""How a run divides the host's memory, before its first step: what it will take, what there is, and what gives way.

Photos kept in the stepper's own form give way first, then the splats that there may be (max_splats). What a run
under the same budget, settings and scene may take depends on nothing else, so that it trains to the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..backends.costs import LOOK, Costs, costs
from ..config import Config
from ..datasets.images import EAGER_SHARE
from ..errors import UserError
from ..machine import Budget, budget, give_back, in_words, resident_bytes
from ..model import sh
from ..scene import Photo, View
from .strategies import Strategy

KEPT_PHOTOS = 4 << 30  # bytes of photos that a stepper may keep in a form of its own
RING_SHARE = 8  # photos read ahead may take one part in so many of the budget ...
LEAST_DEPTH, DEPTH = 2, 12  # ... but for so few, and no more of them: a GPU takes its steps in fours
PIXEL = 3.1  # bytes of a photo's pixel, with what its rows are padded by
STEP = 50_000_000  # a program larger than foreseen is rounded up to these
SPARE = 1.07  # of the splats' own bytes: the arrays behind them
DIGITS = 2  # of max_splats where it is lowered
IN_USE = 4  # photos that are in use while others are read ahead
LEAST_SIDE, LEAST_SPLATS = 100, 1000  # of what is proposed
# Settings of strategies whose refinements look at photos, and the value with which they do not.
LOOKING = {"least_share": 0.0, "error_views": 0, "edge_views": 0, "final_share": 1.0, "screen_split": 1.0}


@dataclass(frozen=True)
class Need:
    """Bytes of the host's memory that a run takes."""

    program: int
    photos: int
    splats: int
    moments: int
    workspace: int
    evaluation: int

    @property
    def total(self) -> int:
        return self.program + self.photos + self.splats + self.moments + self.workspace + self.evaluation


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes, and may take."""

    budget: Budget
    costs: Costs
    program: int
    in_memory: int  # bytes of photos that are in memory as they are
    largest: int  # pixels of the largest photo
    splat: int  # bytes of a splat's parameters
    depth: int = 0  # photos read ahead; 0: all are in memory
    kept: int = 0  # bytes of photos in the stepper's own form
    most: int = 0  # splats that there may be
    reached: int = 0  # splats that the run can have at its end
    lowered: bool = False  # because of the budget
    growth_ended: bool = False  # that growth has ended

    def need(self, n: int) -> Need:
        """With `n` splats."""
        costs = self.costs
        return Need(
            self.program,
            self.in_memory + self.kept + self.ahead,
            int(SPARE * self.splat * n),
            int(SPARE * 2 * self.splat * n),
            costs.splat_work * n + costs.pixel_work * self.largest,
            costs.splat_rest * n + costs.pixel_rest * self.largest,
        )

    @property
    def ahead(self) -> int:
        """Bytes of photos read ahead, those in use, and what decoding takes."""
        return (self.depth + IN_USE) * 3 * self.largest if self.depth else 0

    def on_disk(self, config: Config) -> int:
        """Bytes of files that the run has at once, at most: checkpoints (each with two moments a parameter) with the
        one that is being written, the last and the best model.
        """
        written = (config.steps - 1) // config.checkpoint_every + 1
        return (3 * min(config.checkpoint_keep + 1, written) + 2) * self.splat * self.reached

    def fitting(self, room: int) -> int:
        """Splats that fit in `room` bytes, in round numbers."""
        each = self.need(1_000_000).total - self.need(0).total
        n = max(0, 1_000_000 * (room - self.need(0).total) // each)
        unit = 10 ** max(0, len(str(n)) - DIGITS)
        return int(n // unit * unit)

    def over(self, n: int) -> int:
        """How many bytes more are resident with `n` splats than was foreseen, at a time when none is saved."""
        rows = min(n + n // 2, max(self.most, n))  # arrays have spare rows
        foreseen = self.need(rows).total - self.costs.splat_rest * rows
        if resident_bytes() > foreseen:
            give_back()  # what the last refinement has freed
        return max(resident_bytes() - foreseen, 0)

    def line(self, n: int) -> str:
        """What is told before the first step."""
        need = self.need(n)
        parts = (
            f"program {in_words(need.program)}, photos {in_words(need.photos)}, {n:,} splats {in_words(need.splats)}, "
            f"moments {in_words(need.moments)}, workspace {in_words(need.workspace)}, evaluation "
            f"{in_words(need.evaluation)}"
        )
        return f"memory: up to {in_words(need.total)} of {in_words(self.budget.bytes)} ({self.budget.why}): {parts}"


def planned(
    config: Config, strategy: Strategy, views: Sequence[View], n: int, fused: bool, first: int | None
) -> tuple[MemoryPlan, list[str]]:
    """The plan of a run that begins (or goes on) with `n` splats, and what is to be said of it.

    first: the step that the run goes on after; None: it is new. UserError where photos, these splats and the
    workspace do not fit, with what would.
    """
    found = budget(config.memory_budget)
    takes = costs(config.backend, fused, max(config.batch, config.late_batch))
    if config.floaters_every or any(
        getattr(config.own, name, usual) != usual for name, usual in LOOKING.items()
    ):
        takes = takes._replace(splat_rest=takes.splat_rest + LOOK)
    photos = [view.photo for view in views if isinstance(view.photo, Photo)]
    planes = [plane for p in photos for plane in (p.image, p.mask, p.alpha) if plane is not None]
    in_memory = sum(plane.nbytes for plane in planes)
    sizes = [view.camera.width * view.camera.height for view in views]
    here = resident_bytes() - in_memory
    program = takes.program if here <= takes.program else -(-here // STEP) * STEP
    rest = 3 * (sh.num_coefficients(config.sh_degree) - 1)
    paged = len(photos) < sum(view.photo is not None for view in views)
    depth = _depth(found.bytes, max(sizes)) if paged else 0
    plan = MemoryPlan(found, takes, program, in_memory, max(sizes), 4 * (14 + rest), depth)
    if plan.need(n).total > found.bytes and first is None:
        raise UserError(
            _too_small(plan, n, sum(sizes), max(max(v.camera.width, v.camera.height) for v in views))
        )
    wanted = reach(config, strategy, n, first or 0)
    fits = max(plan.fitting(found.bytes), n)
    lowered = fits < wanted and (first is None or config.memory_budget != "auto")
    plan = replace(plan, most=fits if lowered else config.max_splats, lowered=lowered)
    most = min(plan.most, wanted)
    own = int(PIXEL * sum(sizes)) if takes.keeps_photos else 0
    left = found.bytes - plan.need(most).total
    plan = replace(plan, kept=max(0, min(own, left, KEPT_PHOTOS)), reached=most)
    lines = [plan.line(most)]
    if lowered:
        lines.insert(
            0,
            f"warning: memory: {wanted:,} splats would take {in_words(plan.need(wanted).total)}; at most {fits:,} fit "
            f"in {in_words(found.bytes)} ({found.why}): max_splats is lowered to that",
        )
    elif left < 0:
        lines.append(
            "warning: memory may run out; what it needs is saved before that is tried, and going on is possible"
        )
    return plan, lines


def reach(config: Config, strategy: Strategy, n: int, first: int) -> int:
    """Splats that there can be at most at the end of a run that has `n` after step `first`."""
    rate = getattr(config.own, "grow_rate", None)
    for step in range(first + 1, config.steps + 1):
        if n >= config.max_splats:
            break
        if strategy.due(step):
            n = config.max_splats if rate is None else min(n + math.ceil(rate * n), config.max_splats)
    return n


def watched(plan: MemoryPlan, n: int, most: int, spare: int = 0) -> tuple[MemoryPlan, list[str]]:
    """The plan now that `n` splats are there and what they take is seen, and what is to be said of it.

    most: splats that there may be by the settings. spare: bytes resident that are no part of the plan, and can go.
    """
    lines = []
    over = max(plan.over(n) - spare, 0)
    fits = max(n, plan.fitting(plan.budget.bytes - over)) if over else most
    if fits < min(most, plan.most):
        if not plan.lowered:
            lines.append(
                f"warning: memory: the steps take {in_words(over)} more than foreseen ({plan.budget.why}); max_splats "
                f"is lowered from {most:,} to {fits:,}"
            )
        plan = replace(plan, most=fits, lowered=True)
    if plan.lowered and n >= plan.most and not plan.growth_ended:
        lines.append(f"memory: growth ends at {n:,} splats, as many as the memory holds ({plan.budget.why})")
        plan = replace(plan, growth_ended=True)
    return plan, lines


def _depth(have: int, largest: int) -> int:
    """Photos read ahead under a budget, where they are not all in memory."""
    return min(DEPTH, max(LEAST_DEPTH, have // RING_SHARE // (3 * largest) - IN_USE))


def _reduced(plan: MemoryPlan, pixels: int, share: float) -> MemoryPlan:
    """The plan with all sides times `share`. pixels: of all photos as they are; smaller ones may fit into memory."""
    largest, size, have = int(share**2 * plan.largest), 4 * share**2 * pixels, plan.budget.bytes
    in_memory = int(share**2 * plan.in_memory if not plan.depth else size)
    if plan.depth and EAGER_SHARE * size > have:
        return replace(plan, largest=largest, depth=_depth(have, largest))
    return replace(plan, largest=largest, depth=0, in_memory=in_memory)


def _too_small(plan: MemoryPlan, n: int, pixels: int, longest: int) -> str:
    """The line for a budget in which a run cannot even begin. pixels: of all photos."""
    need, have = plan.need(n), plan.budget.bytes
    helps = []
    for side in range((longest - 1) // 10 * 10, LEAST_SIDE - 1, -10):
        if _reduced(plan, pixels, side / longest).need(n).total <= have:
            helps.append(f"--max-size {side} fits")
            break
    if (fewer := plan.fitting(have)) >= LEAST_SPLATS:
        helps.append(f"--max-splats {fewer} fits")
    helps.append(f"--memory-budget {-(-need.total // 1_000_000)}M is enough")
    return f"too little memory: {plan.line(n).removeprefix('memory: up to ')}; {', or '.join(helps)}"
