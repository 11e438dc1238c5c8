# SPDX-License-Identifier: Apache-2.0
"""Trains gsplat's own MCMC (torch) on a scene as this program reads it; one JSON line at the end. For compare.py.

    python scripts/train_gsplat.py fern '{"seed": 0}'

The second argument holds settings by name, of which photos, hold-out, cap, steps, seed and background count. All else
is what gsplat's trainer has for MCMC: opacity 0.5 and size 0.1 at first, regularisers 0.01, a degree of the harmonics
each 1,000 steps, the means' rate from 1.6e-4 to a hundredth of it, refinement each 100 steps from 500 on, to the same
share of the run as 25,000 of its 30,000. Scores are taken as `gs-render` takes them, of renders in 8 bits. `seconds`
are those of the steps alone.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import gsplat
import numpy as np
import torch
from gsplat.strategy import MCMCStrategy
from gsplat_loss import KIND, dssim

from gsplat_train.config import Config, check, configure
from gsplat_train.datasets import read_scene
from gsplat_train.evaluate.measure import BACKGROUNDS
from gsplat_train.evaluate.metrics import score
from gsplat_train.evaluate.perceptual import ms_ssim
from gsplat_train.model.initialize import gaussians_from_points
from gsplat_train.scene import View

DEVICE = "cuda"
RATES = {"scales": 5e-3, "quats": 1e-3, "opacities": 0.05, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
MEANS, MEANS_FALL, EXTENT = 1.6e-4, 0.01, 1.1
REGULARISER, SSIM = 0.01, 0.2
STOP = 25_000 / 30_000


def main() -> None:
    """See the module."""
    settings = check(json.loads(sys.argv[2]), "settings")
    config = configure(sys.argv[1], settings)
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    scene = read_scene(config).normalized()[0]
    train, test = scene.split(config.test_every)
    ground = torch.tensor(BACKGROUNDS[config.background], device=DEVICE)
    random = np.random.default_rng(config.seed)
    chosen = np.arange(len(scene.points))
    if len(chosen) > config.max_splats:
        chosen = np.sort(random.choice(len(chosen), config.max_splats, replace=False))
    params, optimizers = start(scene.points[chosen], scene.colors[chosen])
    strategy = MCMCStrategy(cap_max=config.max_splats, refine_stop_iter=round(STOP * config.steps))
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    falling = torch.optim.lr_scheduler.ExponentialLR(optimizers["means"], MEANS_FALL ** (1.0 / config.steps))
    shots = [shot(view, config) for view in train]
    torch.cuda.synchronize()
    began, order = time.monotonic(), []
    for step in range(config.steps):
        order = order or list(random.permutation(len(shots)))
        camera, photo = shots[order.pop()]
        degree = min(step // 1000, 3)
        image, info = picture(params, camera, degree, ground)
        both = (x.permute(2, 0, 1)[None] for x in (image, photo))
        loss = (1 - SSIM) * (image - photo).abs().mean() + SSIM * dssim(*both)
        loss = loss + REGULARISER * torch.sigmoid(params["opacities"]).mean()
        loss = loss + REGULARISER * torch.exp(params["scales"]).mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        rate = falling.get_last_lr()[0]
        falling.step()
        strategy.step_post_backward(params, optimizers, state, step, info, lr=rate)
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    found = [scored(params, view, config, ground) for view in test]
    names = ("psnr", "ssim", "ms_ssim")
    print(
        json.dumps(
            {
                "version": f"gsplat {gsplat.__version__}",
                "ssim": KIND,
                "n_splats": len(params["means"]),
                "seconds": seconds,
                "test": {name: float(np.mean([each[i] for each in found])) for i, name in enumerate(names)},
            }
        )
    )


def start(points: np.ndarray, colors: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """(parameters by gsplat's names, an Adam for each)."""
    first = gaussians_from_points(points, colors, init_opacity=0.5, init_scale=0.1)
    leaves = {
        "means": first.means, "scales": first.log_scales, "quats": first.quats,
        "opacities": first.logit_opacities, "sh0": first.sh0, "shN": first.shN,
    }  # fmt: skip
    params = torch.nn.ParameterDict(
        {
            name: torch.nn.Parameter(torch.tensor(np.array(leaf), device=DEVICE))
            for name, leaf in leaves.items()
        }
    )
    rates = RATES | {"means": MEANS * EXTENT}
    return params, {
        name: torch.optim.Adam(
            [{"params": params[name], "lr": rates[name], "name": name}], eps=1e-15, fused=True
        )
        for name in leaves
    }


def shot(view: View, config: Config) -> tuple[Any, Any]:
    """((view matrix [1, 4, 4], K [1, 3, 3], width, height), photo [H, W, 3])."""
    camera = view.camera
    view_matrix = torch.tensor(camera.viewmat, dtype=torch.float32, device=DEVICE)[None]
    inner = torch.tensor(camera.K, dtype=torch.float32, device=DEVICE)[None]
    photo = view.pixels.over(BACKGROUNDS[config.background])
    return (view_matrix, inner, camera.width, camera.height), torch.tensor(photo, device=DEVICE)


def picture(params: Any, camera: Any, degree: int, ground: Any) -> tuple[Any, Any]:
    """(render [H, W, 3], what gsplat tells of it)."""
    image, _, info = gsplat.rasterization(
        params["means"], params["quats"], torch.exp(params["scales"]), torch.sigmoid(params["opacities"]),
        torch.cat([params["sh0"], params["shN"]], 1), *camera, sh_degree=degree, packed=False,
        backgrounds=ground[None],
    )  # fmt: skip
    return image[0], info


def scored(params: Any, view: View, config: Config, ground: Any) -> tuple[float, float, float]:
    """(PSNR, SSIM, MS-SSIM) of a held-out view."""
    camera, _ = shot(view, config)
    with torch.no_grad():
        image = picture(params, camera, 3, ground)[0].cpu().numpy()
    photo = view.pixels.shown(BACKGROUNDS[config.background])
    found = score(image, photo)
    return found.psnr, found.ssim, ms_ssim(found.picture, photo)


if __name__ == "__main__":
    main()
