# SPDX-License-Identifier: Apache-2.0
"""The renderer: Gaussians and a camera in, an image out, on any backend; differentiable with mx.grad.

    project       each Gaussian -> an ellipse on the screen, with a depth, a colour and an opacity
    isect_tiles   which ellipses touch which 16x16 tile, front to back
    rasterize     each pixel: blend its tile's ellipses front to back over the background

Notation as in backends: N Gaussians, image [H, W, 3] with values around [0, 1], not clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from . import backends
from .backends import Backend, Projected
from .errors import UserError
from .model.gaussians import Gaussians, as_gaussians
from .model.sky import Sky
from .scene import Camera


class RenderOutput(NamedTuple):
    """What `render` returns."""

    image: mx.array  # [H, W, 3], background included, not clamped
    alpha: mx.array  # [H, W, 1], how much of the background is hidden
    projected: Projected


def render(
    gaussians: Gaussians | Mapping[str, mx.array],
    camera: Camera,
    backend: str | Backend = "auto",
    sh_degree: int | None = None,
    background: mx.array | Sequence[float] | Sky | None = None,
    antialiased: bool = False,
    *,
    means2d_probe: mx.array | None = None,
    absgrad_probe: mx.array | None = None,
) -> RenderOutput:
    """Render `gaussians` (N = 0 is legal) as `camera` sees them, over `background` [3] (black without one) or a sky.

    backend: a name of `registry.BACKENDS`, "auto", or a backend itself. sh_degree: the colour bands to use, all
    without one. antialiased: a splat smaller than a pixel fades instead of growing (Yu et al. 2024,
    Mip-Splatting's 2D filter). means2d_probe [N, 2]: zeros whose gradient is dL/dmeans2d, in pixels, for
    density control. absgrad_probe [N, 2]: zeros whose gradient is *defined* as the sum over pixels of
    |dL/dmeans2d| (Ye et al. 2024, AbsGS). UserError where an argument is wrong, BackendUnavailable where the
    backend cannot run here.
    """
    stages = backends.load(backend) if isinstance(backend, str) else backend
    gaussians = as_gaussians(gaussians)
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.sh_degree:
        raise UserError(f"sh_degree must be 0 to {gaussians.sh_degree} (what shN holds), got {sh_degree}")
    sky = background if isinstance(background, Sky) else None
    if background is None or isinstance(background, Sky):
        background = mx.zeros(3)
    elif not isinstance(background, mx.array):
        background = mx.array([float(value) for value in background])
    if background.shape != (3,):
        raise UserError(f"background must be [3], got {background.shape}")
    width, height = camera.width, camera.height

    projected = stages.project(
        gaussians, camera.viewmat, camera.K, width, height, sh_degree=degree, antialiased=antialiased
    )
    if means2d_probe is not None:
        projected = projected._replace(means2d=projected.means2d + means2d_probe)
    tiles = stages.isect_tiles(projected, width, height)
    image, alpha = stages.rasterize(projected, tiles, background, width, height, absgrad_probe=absgrad_probe)
    if sky is not None:
        image = image + (1 - alpha) * sky.behind(camera)
    return RenderOutput(image, alpha, projected)


def pixel_sums(
    gaussians: Gaussians,
    camera: Camera,
    backend: Backend,
    maps: Callable[[mx.array], mx.array],
    sh_degree: int = 0,
    antialiased: bool = False,
) -> mx.array:
    """[N, 3] float32: for each Gaussian sum_p w(p) M(p) of three maps of pixels, M [H, W, 3] = maps(the render over
    black).

    w = alpha T is what the rasterizer blends a Gaussian's colour with. The derivative of sum_p <C(p), M(p)> by its
    colour is sum_p w(p) M(p), so any backend's backward pass returns the sums, in a fixed order.
    """
    return projected_sums(gaussians, camera, backend, maps, sh_degree, antialiased)[0]


def projected_sums(
    gaussians: Gaussians,
    camera: Camera,
    backend: Backend,
    maps: Callable[[mx.array], mx.array],
    sh_degree: int = 0,
    antialiased: bool = False,
) -> tuple[mx.array, Projected]:
    """`pixel_sums`, and the ellipses that they are of."""
    width, height = camera.width, camera.height
    seen = backend.project(
        gaussians, camera.viewmat, camera.K, width, height, sh_degree=sh_degree, antialiased=antialiased
    )
    tiles = backend.isect_tiles(seen, width, height)

    def picture(colors: mx.array) -> mx.array:
        return backend.rasterize(seen._replace(colors=colors), tiles, mx.zeros(3), width, height)[0]

    weights = maps(mx.stop_gradient(picture(seen.colors)))
    _, (sums,) = mx.vjp(picture, [seen.colors], [weights])
    sums = mx.where((seen.radii > 0).all(axis=1, keepdims=True), sums, 0.0)
    mx.eval(sums)
    return sums, seen
