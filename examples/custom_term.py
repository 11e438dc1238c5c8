# SPDX-License-Identifier: Apache-2.0
"""A loss term of one's own: splats shall be round, for the longest axis may be eight times the shortest.

python examples/custom_term.py [SCENE [STEPS]]
"""

import sys
from dataclasses import dataclass

import mlx.core as mx

from gsplat_train import registry
from gsplat_train.settings import number

registry.TERMS["round"] = sys.modules[__name__]  # before the settings are read


@dataclass(frozen=True)
class Settings:
    weight: float = number(0.0, 0.0)  # 0: off
    # A term may have more settings; in TOML they stand in its table, here in [round].


def term(seen) -> mx.array:
    """A scalar that MLX can differentiate; `seen` has gaussians, out (the render), view, photo and plan."""
    spread = seen.gaussians.log_scales.max(axis=1) - seen.gaussians.log_scales.min(axis=1)
    return mx.maximum(spread - mx.log(mx.array(8.0)), 0).mean()


if __name__ == "__main__":
    import gsplat_train as gs

    scene = sys.argv[1] if len(sys.argv) > 1 else "demo"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    for weight in (0.0, 0.1):
        result = gs.train(scene, steps=steps, **{"round.weight": weight})
        scales = result.gaussians.log_scales
        ratio = mx.exp(scales.max(axis=1) - scales.min(axis=1)).mean().item()
        print(
            f"weight {weight}: longest over shortest axis {ratio:.1f}, {result.metrics['test']['psnr']:.2f} dB"
        )
