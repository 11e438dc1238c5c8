# SPDX-License-Identifier: Apache-2.0
"""gsplat's times on the scenes of bench_gpu.py, which runs this: one JSON line a case."""

from __future__ import annotations

import json
from typing import Any

import bench_scenes as bench
import gsplat
import numpy as np
import torch
import torch.nn.functional as F
from bench_gpu import CASES, best

try:
    from fused_ssim import fused_ssim
except ImportError:
    fused_ssim = None


def main() -> None:
    """One JSON line a case on standard output."""
    device = torch.device("cuda")
    window = torch.tensor(np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2), dtype=torch.float32, device=device)
    window = (window / window.sum()).expand(3, 1, -1)

    def dssim(image: Any, target: Any) -> Any:
        if fused_ssim:
            return 1 - fused_ssim(image, target)

        def blur(x: Any) -> Any:
            x = F.conv2d(x, window[:, :, None, :].contiguous(), padding=(0, 5), groups=3)
            return F.conv2d(x, window[:, :, :, None].contiguous(), padding=(5, 0), groups=3)

        mu, nu = blur(image), blur(target)
        s, t, c = (
            blur(image * image) - mu * mu,
            blur(target * target) - nu * nu,
            blur(image * target) - mu * nu,
        )
        ratio = (2 * mu * nu + 1e-4) * (2 * c + 9e-4) / ((mu * mu + nu * nu + 1e-4) * (s + t + 9e-4))
        return 1 - ratio.mean()

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
            "ssim": "fused" if fused_ssim else "convolutions",
            "n": n,
        }
        for name, call in (("forward", forward), ("both", both), ("step", step)):
            result[name] = best(call, torch.cuda.synchronize, count)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
