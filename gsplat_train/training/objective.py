# SPDX-License-Identifier: Apache-2.0
"""What a step minimises: named terms, each one function and one weight.

    photometric + opacity_weight mean(opacities) + scale_weight mean(scales) + sum of weight * term

The photometric term compares the render with the pixels of the photo that count (its mask), the photo over the
render's background (its alpha). The terms of
`registry.TERMS` are functions of what a render left (`Seen`); each module has

    Settings          a dataclass with `weight`, 0 by default: off
    term(seen) -> mx.array     a scalar, differentiable in what `seen` holds
    check(views)      where it has one: UserError where a new run could learn nothing from them by this term

A backend fuses the first three. With any other term the generic stepper serves, slower and equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from .. import registry
from ..backends import Backend
from ..config import Config
from ..model.gaussians import Gaussians
from ..renderer import RenderOutput
from ..scene import Camera, Photo, View
from .groups import Group, Material, open_groups
from .plan import StepPlan, active_groups, active_terms

Term = Callable[["Seen"], mx.array]


class Seen(NamedTuple):
    """What a term may look at."""

    gaussians: Gaussians
    out: RenderOutput  # image [H, W, 3] (after the groups), alpha [H, W, 1], projected
    view: View
    photo: Photo
    plan: StepPlan


@dataclass
class Objective:
    """Terms and parameter groups of a run, beside those that every run has."""

    terms: dict[str, Term] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    def is_fused_by(self, backend: Backend) -> bool:
        """Whether it has only the terms that every run has, and groups that the backend's stepper knows."""
        return not self.terms and self.groups.keys() <= backend.FUSED_GROUPS

    def camera(self, view: View) -> Camera:
        """The camera of a view, as the groups move it."""
        camera = view.camera
        for group in self.groups.values():
            camera = group.camera(view, camera)
        return camera

    @classmethod
    def of(cls, config: Config, views: tuple[View, ...], material: Material | None = None) -> Objective:
        """The objective that the settings ask for, on these training views; groups begin with what they find in
        `material`.
        """
        modules = {name: registry.module(registry.TERMS[name]) for name in active_terms(config)}
        for module in modules.values():
            if material is not None and hasattr(module, "check"):
                module.check(views)
        terms = {name: module.term for name, module in modules.items()}
        return cls(terms, open_groups(config, active_groups(config), views, material))

    def loss(
        self, backend: Backend, seen: Seen, mask: mx.array | None, target: mx.array
    ) -> tuple[mx.array, tuple[mx.array, mx.array, mx.array]]:
        """(what is minimised, (photometric loss, l1, ssim)), scalars."""
        plan, gaussians = seen.plan, seen.gaussians
        loss, l1, ssim = backend.photometric_loss(seen.out.image, target, plan.ssim_lambda, mask)
        total = loss + plan.opacity_weight * gaussians.opacities.mean()
        total = total + plan.scale_weight * gaussians.scales.mean()
        for name, term in self.terms.items():
            total = total + plan.weights[name] * term(seen)
        return total, (loss, l1, ssim)
