# SPDX-License-Identifier: Apache-2.0
"""The stages on CPU threads with SIMD, through the nanobind module `_csrc`.

Every stage is a native pass over NumPy views of MLX's memory: np.asarray of an evaluated array shares its
buffer, so nothing is copied, and the module never sees an mx.array (on a Mac MLX's DLPack capsule names the
GPU). Differentiable stages are mx.custom_functions; their VJPs run the stage again and then backwards, so
that nothing is kept between calls.
The whole step in one native call is in cpp_stepper.py.

Notation as in backends: N Gaussians, M intersections, images [H, W, C].
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .. import _csrc
from ..errors import UserError
from ..evaluate.metrics import Score, check, score_of_sums
from ..losses import check_mask
from ..losses import photometric_loss as _reference_loss
from ..model.gaussians import Gaussians
from ..training.protocol import Bounds, Stepper
from ..training.rows import TrainState
from . import Projected, Tiles
from .cpp_planes import mask_plane, photo_planes
from .cpp_stepper import NO_GROUPS, CppStepper

if TYPE_CHECKING:
    from ..training.groups import Group

_csrc.simd()  # UserError where GS_SIMD names nothing that runs here
_threads = os.environ.get("GS_THREADS", "")
if _threads and not (_threads.isdecimal() and 1 <= int(_threads) <= 1024):
    raise UserError(
        f"GS_THREADS must be a number from 1 to 1024, got {_threads!r}; unset it to use every processor"
    )


class _Own(threading.local):
    """What each thread has for itself: the pipeline owns the buffers that pass between stages."""

    def __init__(self) -> None:
        self.pipeline = _csrc.Pipeline()


_own = _Own()


def project(
    gaussians: Gaussians,
    viewmat: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    *,
    sh_degree: int,
    antialiased: bool,
) -> Projected:
    """See Backend.project."""
    means2d, conics, depths, radii, colors, opacities = _project_function(
        _key(viewmat), _key(K), width, height, sh_degree, antialiased
    )(*gaussians)
    return Projected(means2d, conics, depths, radii, colors, opacities)


@lru_cache(maxsize=64)
def _project_function(
    viewmat_key: bytes, K_key: bytes, width: int, height: int, sh_degree: int, antialiased: bool
) -> Callable[..., Any]:
    """The projection for one camera as a function of the six parameter arrays, with its VJP."""
    viewmat = np.frombuffer(viewmat_key, np.float32)
    K = np.frombuffer(K_key, np.float32)
    camera = (viewmat, K, width, height, sh_degree, antialiased)

    @mx.custom_function
    def forward(*params: mx.array) -> tuple[mx.array, ...]:
        n = params[0].shape[0]
        outputs = _empty((n, 2), (n, 3), (n,), (n, 2, mx.int32), (n, 3), (n,))
        _own.pipeline.project(_views(params), *camera, *map(np.asarray, outputs))
        return tuple(outputs)

    @forward.vjp
    def vjp(params: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        grads = _empty(*(p.shape for p in params))
        v_means2d, v_conics, v_depths, _, v_colors, v_opacities = cotangents
        _own.pipeline.project_vjp(
            _views(params),
            *camera,
            *_views([v_means2d, v_conics, v_depths, v_colors, v_opacities]),
            _views(grads),
        )
        return tuple(grads)

    return forward


def isect_tiles(projected: Projected, width: int, height: int) -> Tiles:
    """See Backend.isect_tiles."""
    means2d, conics, depths, radii, colors, opacities = projected
    _own.pipeline.load_splats(width, height, *_views([means2d, conics, depths, radii, colors, opacities]))
    count = _own.pipeline.bin()
    tiles = -(-width // 16) * -(-height // 16)
    ids, offsets = _empty((count, mx.int32), (tiles + 1, mx.int32))
    _own.pipeline.store_tiles(np.asarray(ids), np.asarray(offsets))
    return Tiles(ids, offsets)


def rasterize(
    projected: Projected,
    tiles: Tiles,
    background: mx.array,
    width: int,
    height: int,
    *,
    absgrad_probe: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """See Backend.rasterize."""
    radii = mx.stop_gradient(projected.radii)

    def run(
        means2d: mx.array,
        conics: mx.array,
        depths: mx.array,
        colors: mx.array,
        opacities: mx.array,
        bg: mx.array,
    ) -> Any:
        splats = _views([means2d, conics, depths, radii, colors, opacities])
        _own.pipeline.load_splats(width, height, *splats)
        _own.pipeline.load_tiles(*_views(tiles), splats[0].shape[0])
        image, alpha = _empty((height, width, 3), (height, width, 1))
        _own.pipeline.forward(*_views([bg]), np.asarray(image), np.asarray(alpha))
        return image, alpha

    @mx.custom_function
    def forward(*args: mx.array) -> tuple[mx.array, mx.array]:
        return run(*args[:6])

    @forward.vjp
    def vjp(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        run(*primals[:6])  # the pipeline's buffers may hold another image by now
        means2d, conics, depths, colors, opacities = primals[:5]
        grads = _empty(means2d.shape, conics.shape, colors.shape, opacities.shape)
        v_abs = _empty(primals[6].shape)[0] if len(primals) > 6 else None
        v_image, v_alpha = _views(cotangents)
        _own.pipeline.backward(
            v_image, v_alpha, *map(np.asarray, grads), None if v_abs is None else np.asarray(v_abs)
        )
        v_background = ((1.0 - outputs[1]) * cotangents[0]).sum(axis=(0, 1))
        v = (grads[0], grads[1], mx.zeros_like(depths), grads[2], grads[3], v_background)
        return v if v_abs is None else (*v, v_abs)

    args = (
        projected.means2d,
        projected.conics,
        projected.depths,
        projected.colors,
        projected.opacities,
        background,
    )
    blended: Any = forward(*args) if absgrad_probe is None else forward(*args, absgrad_probe)
    return blended[0], blended[1]


def photometric_loss(
    image: mx.array, target: mx.array, ssim_lambda: float, mask: mx.array | None = None
) -> tuple[mx.array, mx.array, mx.array]:
    """See Backend.photometric_loss. With a target that is not uint8: the reference's."""
    if target.dtype != mx.uint8 or image.shape != target.shape:
        return _reference_loss(image, target, ssim_lambda, mask)
    planes = photo_planes(*_views([target]))
    counts = None
    if mask is not None:
        check_mask(mask, image)
        counts = mask_plane(np.asarray(mask))

    # The value and its gradient come from one native pass; l1 and ssim are for the log and pass no gradient.
    @mx.custom_function
    def loss(image: mx.array) -> tuple[mx.array, ...]:
        (v_image,) = _empty(image.shape)
        values = _own.pipeline.loss(*_views([image]), planes, counts, ssim_lambda, np.asarray(v_image))
        return (*map(mx.array, values), v_image)

    @loss.vjp
    def vjp(image: Any, cotangents: Any, outputs: Any) -> mx.array:
        return outputs[3] * cotangents[0]

    values: Any = loss(image)
    return values[0], values[1], values[2]


def score(image: mx.array, photo: np.ndarray | None, mask: np.ndarray | None = None) -> Score:
    """See Backend.score."""
    picture, counts, pixels = np.empty(image.shape, np.uint8), None, None
    if photo is not None:
        check(image, photo, mask)
        pixels = np.ascontiguousarray(photo)
        counts = None if mask is None else np.ascontiguousarray(np.asarray(mask) > 0).view(np.uint8)
    squares, ssim, counting = _own.pipeline.score(*_views([image]), pixels, counts, picture)
    return score_of_sums(squares, ssim, counting, picture)


def show(gaussians: Any, background: Any, antialiased: bool) -> None:
    """See Backend.show: the stages do it."""
    return None


def adam(
    params: Gaussians, grads: Gaussians, m: Gaussians, v: Gaussians, lrs: dict[str, float], step: int
) -> tuple[Gaussians, Gaussians, Gaussians]:
    """See Backend.adam."""
    leaves = []
    for name, p, g, first, second in zip(Gaussians._fields, params, grads, m, v, strict=True):
        new = [p + 0, first + 0, second + 0]  # copies; the caller's arrays stay as they are
        _csrc.adam(*(view.reshape(-1) for view in _views([*new, g])), lrs[name], step)
        leaves.append(new)
    return (
        Gaussians(*(x[0] for x in leaves)),
        Gaussians(*(x[1] for x in leaves)),
        Gaussians(*(x[2] for x in leaves)),
    )


deterministic = True


FUSED_GROUPS = frozenset({"exposure", "poses"})


def stepper(
    state: TrainState, bounds: Bounds | None = None, groups: Mapping[str, Group] = NO_GROUPS
) -> Stepper:
    """See Backend.stepper."""
    return CppStepper(_own.pipeline, state, bounds, groups)


def thread_count() -> int:
    """How many threads work on a stage: GS_THREADS, else this process's processors or its share of them."""
    return _csrc.threads()


def statistics(reset: bool = False) -> dict[str, float]:
    """Seconds in each stage of train_step since the last reset, and counts of the last step."""
    return _own.pipeline.statistics(reset)


def _key(matrix: Any) -> bytes:
    return np.ascontiguousarray(matrix, np.float32).tobytes()


def _empty(*shapes: Any) -> list[mx.array]:
    """Evaluated arrays to be filled through np.asarray; a shape may end in a dtype."""
    arrays = []
    for shape in shapes:
        dtype = shape[-1] if isinstance(shape[-1], mx.Dtype) else mx.float32
        arrays.append(mx.zeros([s for s in shape if not isinstance(s, mx.Dtype)], dtype))
    mx.eval(arrays)
    return arrays


def _views(arrays: Any) -> list[np.ndarray]:
    """NumPy views of MLX arrays, evaluated and made contiguous (a cotangent may be a broadcast)."""
    contiguous = [mx.contiguous(a) for a in arrays]
    mx.eval(contiguous)
    return [np.asarray(a) for a in contiguous]
