# SPDX-License-Identifier: Apache-2.0
"""The backends: modules of functions that compute the same thing on different machines, and how to get one.

Notation: N Gaussians, M intersections of a splat with a tile, tiles of 16x16 pixels in rows, pixel centres at
+0.5. This module imports no MLX, so that a missing or doubled MLX can be said in one line (`check_mlx`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata, util
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from .. import registry
from ..errors import BackendUnavailable, UserError

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np

    from ..evaluate.metrics import Score
    from ..model.gaussians import Gaussians
    from ..training.groups import Group
    from ..training.protocol import Bounds
    from ..training.rows import TrainState
    from ..training.stepper import Stepper

MLX_BUILDS = ("mlx-cpu", "mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")  # each installs the same libmlx.so


class Projected(NamedTuple):
    """The Gaussians on the screen. Rows of culled ones have radii 0 and are never read."""

    means2d: mx.array  # [N, 2] px
    conics: mx.array  # [N, 3] (xx, xy, yy) of the inverse 2D covariance, 1/px^2
    depths: mx.array  # [N] camera-space z
    radii: mx.array  # [N, 2] int32 px; 0 = culled
    colors: mx.array  # [N, 3]
    opacities: mx.array  # [N] activated; compensated in the antialiased mode


class Tiles(NamedTuple):
    """Which splats touch which tile."""

    ids: mx.array  # [M] int32: the splat of each intersection, tile by tile, front to back in each
    offsets: mx.array  # [tiles + 1] int32: where a tile's ids begin; the last is M


class Backend(Protocol):
    """What a backend module defines."""

    deterministic: bool  # whether the same seed gives the same bytes
    FUSED_GROUPS: frozenset[str]  # the parameter groups that its own stepper trains

    def stepper(
        self, state: TrainState, bounds: Bounds | None = None, groups: Mapping[str, Group] = ...
    ) -> Stepper | None:
        """A stepper (training.stepper.Stepper) that fuses the plain objective: the photometric loss, masks and
        see-through photos included, and the regularisers. None where the backend has none: the generic one
        serves. `bounds` hold for the device from then on, whoever takes the steps; UserError where they are too
        narrow. groups: only those of FUSED_GROUPS, and only in steps over one view.
        """
        ...

    def project(
        self,
        gaussians: Gaussians,
        viewmat: np.ndarray,
        K: np.ndarray,
        width: int,
        height: int,
        *,
        sh_degree: int,
        antialiased: bool,
    ) -> Projected:
        """Gaussians -> ellipses with colours; differentiable with respect to `gaussians`."""
        ...

    def isect_tiles(self, projected: Projected, width: int, height: int) -> Tiles:
        """The splats of each tile, by depth, then index; no gradient passes."""
        ...

    def rasterize(
        self,
        projected: Projected,
        tiles: Tiles,
        background: mx.array,
        width: int,
        height: int,
        *,
        absgrad_probe: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Ellipses -> image [H, W, 3], alpha [H, W, 1].

        Differentiable with respect to `projected`'s float leaves and `background`. The VJP of absgrad_probe
        [N, 2] is defined as the sum over pixels of |dL/dmeans2d|.
        """
        ...

    def photometric_loss(
        self, image: mx.array, target: mx.array, ssim_lambda: float, mask: mx.array | None = None
    ) -> tuple[mx.array, mx.array, mx.array]:
        """(loss, l1, ssim) as losses.photometric_loss; the gradient of `loss` reaches `image`."""
        ...

    def score(self, image: mx.array, photo: np.ndarray | None, mask: np.ndarray | None = None) -> Score:
        """PSNR and SSIM of a render beside its uint8 photo, and the render in 8 bits: evaluate.metrics.score.

        PSNR is the same number, SSIM in float32. No gradient passes.
        """
        ...

    def show(
        self, gaussians: Gaussians, background: Sequence[float], antialiased: bool
    ) -> Callable[..., Score] | None:
        """A function of (viewmat, K, width, height, photo, mask), which renders these Gaussians at all SH degrees over
        a colour and gives the score: what the stages and `score` would, sooner. None where the backend has none.
        """
        ...

    def adam(
        self,
        params: Gaussians,
        grads: Gaussians,
        m: Gaussians,
        v: Gaussians,
        lrs: dict[str, float],
        step: int,
    ) -> tuple[Gaussians, Gaussians, Gaussians]:
        """(params, m, v) after step number `step` (from 1) of Adam: betas 0.9, 0.999, eps 1e-15."""
        ...


def load(name: str = "auto") -> Backend:
    """The backend module `name`, or with "auto" the one that `choose` names.

    UserError for an unknown name, BackendUnavailable with the reason where it cannot run here.
    """
    return _import(choose(name))


def choose(name: str = "auto", log: Callable[[str], None] = lambda line: None) -> str:
    """`name` itself if it is a backend's; for "auto" the first of registry.BACKENDS that runs here. A GPU is taken
    only if it renders eight splats as the reference does; where one does not, `log` gets a line.
    """
    if name == "auto":
        return _first(log)
    if name not in registry.BACKENDS:
        raise UserError(f"backend must be auto, {', '.join(registry.BACKENDS)}, got {name}")
    return name


_chosen: list[str] = []  # what "auto" found, once a process


def _first(log: Callable[[str], None]) -> str:
    if not _chosen:
        for name, reason in available().items():
            if reason is None and name in ("metal", "cuda"):
                reason = import_module(f"{__name__}.probe").verdict_on(name)
                if reason is not None:
                    log(f"warning: {name} is here but gives wrong results ({reason}); not taken")
            if reason is None:
                _chosen.append(name)
                break
    return _chosen[0]


def available() -> dict[str, str | None]:
    """For each backend None if it runs here, else the sentence that says why not; UserError without MLX."""
    check_mlx()
    reasons: dict[str, str | None] = {}
    for name in registry.BACKENDS:
        try:
            _import(name)
            reasons[name] = None
        except BackendUnavailable as error:
            reasons[name] = str(error)
    return reasons


def check_mlx() -> None:
    """UserError in one line if MLX is missing or several of its builds lie over each other."""
    if util.find_spec("mlx") is None or util.find_spec("mlx.core") is None:
        extra = "" if platform.system() == "Darwin" else "[cpu] (or [cuda12], [cuda13])"
        raise UserError(f"MLX is not installed; run: pip install gsplat-train{extra}")
    builds = [name for name in MLX_BUILDS if _installed(name)]
    if len(builds) > 1:
        raise UserError(
            f"{' and '.join(builds)} are installed together and overwrite each other's files; keep one: "
            f"pip uninstall -y {' '.join(builds)}, then pip install --force-reinstall one of them"
        )
    if platform.system() == "Linux":
        try:
            import_module("mlx.core")
        except ImportError as error:
            if builds and "cuda" in builds[0]:  # it loads only where there is a GPU
                raise BackendUnavailable(
                    f"{builds[0]} needs an NVIDIA GPU and does not load here ({error}); "
                    "for the processor: pip install gsplat-train[cpu]"
                ) from error
            # Plain mlx on Linux brings no libmlx.so; a build of one's own does.
            raise UserError(
                f"MLX does not load ({error}); run: pip install gsplat-train[cpu] (or [cuda12], [cuda13])"
            ) from error


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _import(name: str) -> Backend:
    """The module; BackendUnavailable if it or its compiled module is not here. Bugs in it come through."""
    compiled = f"{__package__.rpartition('.')[0]}._csrc"
    if name == "cpp" and not util.find_spec(compiled):
        raise unavailable(name)
    try:
        return cast(Backend, registry.module(registry.BACKENDS[name]))
    except ImportError as error:
        if error.name != compiled:
            raise
        raise unavailable(name, str(error)) from None


def unavailable(name: str, why: str = "") -> BackendUnavailable:
    """The error that says what backend `name` needs, and what to take instead."""
    others = "cpp or python" if name in ("metal", "cuda") else "python"
    detail = f": {why}" if why else ""
    machine = f"{platform.system()} {platform.machine()}"
    return BackendUnavailable(
        f"{name} needs {registry.NEEDS[name]}; this is {machine}{detail}. Try --backend {others}."
    )
