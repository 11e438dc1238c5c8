# SPDX-License-Identifier: Apache-2.0
"""gsplat's times on the scenes of bench_gpu.py, which runs this: one JSON line a case."""

from __future__ import annotations

import json
from typing import Any

import bench_scenes as bench
import gsplat
import numpy as np
import torch
from bench_gpu import CASES, best
from gsplat_loss import KIND, dssim


def main() -> None:
    """One JSON line a case on standard output."""
    device = torch.device("cuda")
    for n, width, height in CASES:
        gaussians, camera, photo = bench.random_scene(n, width, height, 0)
        p = [torch.tensor(np.array(leaf), device=device, requires_grad=True) for leaf in gaussians]
        target = torch.tensor(photo, device=device).permute(2, 0, 1)[None] / 255.0
        weight = torch.tensor(
            np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32), device=device
        )
        view = torch.tensor(camera.viewmat, dtype=torch.float32, device=device)[None]
        k = torch.tensor(camera.K, dtype=torch.float32, device=device)[None]
        adam = torch.optim.Adam([{"params": [x], "lr": 1e-4} for x in p], eps=1e-15, fused=True)

        def picture(p: Any = p, view: Any = view, k: Any = k, size: Any = (width, height)) -> Any:
            colors = torch.cat([p[4], p[5]], 1)
            scene = (p[0], p[1], p[2].exp(), p[3].sigmoid(), colors)
            return gsplat.rasterization(*scene, view, k, *size, sh_degree=3, packed=False)[0][0]

        def forward(picture: Any = picture) -> None:
            with torch.no_grad():
                picture()

        def both(picture: Any = picture, weight: Any = weight, adam: Any = adam) -> None:
            adam.zero_grad(set_to_none=True)
            (picture() * weight).sum().backward()

        def step(picture: Any = picture, target: Any = target, adam: Any = adam) -> None:
            adam.zero_grad(set_to_none=True)
            image = picture().permute(2, 0, 1)[None]
            (0.8 * (image - target).abs().mean() + 0.2 * dssim(image, target)).backward()
            adam.step()

        count = 100 if n < 500_000 else 20
        result = {
            "peer": f"gsplat {gsplat.__version__}",
            "ssim": KIND,
            "n": n,
        }
        for name, call in (("forward", forward), ("both", both), ("step", step)):
            result[name] = best(call, torch.cuda.synchronize, count)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
