# SPDX-License-Identifier: Apache-2.0
"""What a training on each backend takes of the host's memory, in bytes: scripts/bench_memory.py measures it.

The splats' own 236 bytes (at SH degree 3) and twice that for Adam's moments come on top.
"""

from __future__ import annotations

from typing import NamedTuple


class Costs(NamedTuple):
    """Bytes of the host's memory."""

    program: int  # the interpreter, MLX and what they compile, a little to spare
    splat_work: int  # the workspace of a step, for each splat: with 2 tiles that it touches
    pixel_work: int  # ... and for each pixel of the largest photo
    splat_rest: int  # beside it while evaluating, refining, saving or writing, for each splat
    pixel_rest: int  # ... and for each pixel: a render beside its photo, two at once with more scores
    keeps_photos: bool = False  # the stepper has photos in a form of its own


COSTS = {
    "cpp": Costs(130_000_000, 300, 70, 500, 230, True),
    "python": Costs(220_000_000, 5_400, 1_350, 500, 230),
    # Not measured, counted: unpacked rows while a checkpoint is written, a render beside its photo.
    "cuda": Costs(150_000_000, 0, 30, 300, 200),
    # The device's memory is the host's: design texts of others and our kernels' arrays say 1.7 kB a splat.
    "metal": Costs(150_000_000, 1_000, 900, 300, 200),
}
GENERIC = {"cpp": Costs(130_000_000, 1_400, 210, 500, 230)}  # where no backend fuses the objective


LOOK = 300  # more of splat_rest where a refinement looks at photos (training/scores.py)
BATCH = 240, 60  # a splat's gradients where a step is over several views: the sum's, and each view's


def costs(backend: str, fused: bool, batch: int = 1) -> Costs:
    """Those of a backend; of one that is not known here, the reference's."""
    estimate = COSTS.get(backend, COSTS["python"])
    if not fused:
        estimate = GENERIC.get(backend, estimate)
    more = BATCH[0] + BATCH[1] * batch if batch > 1 else 0
    return estimate._replace(splat_work=estimate.splat_work + more)
