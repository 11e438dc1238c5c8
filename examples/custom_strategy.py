# SPDX-License-Identifier: Apache-2.0
"""A strategy of one's own: from time to time the faintest splats go, and none come.

python examples/custom_strategy.py [SCENE [STEPS]]
"""

import sys
from dataclasses import dataclass

import numpy as np

from gsplat_train import registry
from gsplat_train.settings import number

registry.STRATEGIES["thin"] = sys.modules[__name__]  # before the settings are read

from gsplat_train.training.plan import Statistics  # noqa: E402
from gsplat_train.training.rows import Edit  # noqa: E402

BRINGS: dict = {}  # what it needs of the general settings, as {"init_opacity": 0.1}


@dataclass(frozen=True)
class Settings:
    every: int = number(100, 1)  # steps
    share: float = number(0.02, 0.0, 1.0)  # of the splats, that go each time


class Strategy:
    statistics = Statistics.NONE

    def __init__(self, config) -> None:
        self.own = config.own

    def weights(self, number: int) -> tuple[float, float]:
        return 0.0, 0.0  # of regularisers

    def noise(self, number: int, rate: float) -> float:
        return 0.0

    def due(self, step: int) -> bool:
        return step % self.own.every == 0

    def refine(self, population, step: int) -> dict[str, int]:
        faint = int(self.own.share * population.n)
        kept = np.sort(np.argsort(np.asarray(population.column("logit_opacities")))[faint:])
        population.apply(Edit(source=kept))
        return {"pruned": faint}


if __name__ == "__main__":
    import gsplat_train as gs

    scene = sys.argv[1] if len(sys.argv) > 1 else "demo"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    result = gs.train(scene, steps=steps, strategy="thin", every=50)
    print(f"{result.metrics['n_splats']:,} splats, {result.metrics['test']['psnr']:.2f} dB")
