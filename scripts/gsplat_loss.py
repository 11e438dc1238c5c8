# SPDX-License-Identifier: Apache-2.0
"""The D-SSIM of gsplat's runs, for train_gsplat.py and bench_gsplat.py: fused_ssim where it is installed, otherwise
convolutions with the same window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

try:
    from fused_ssim import fused_ssim
except ImportError:
    fused_ssim = None

KIND = "fused" if fused_ssim else "convolutions"
WINDOW = torch.tensor(np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2), dtype=torch.float32, device="cuda")
WINDOW = (WINDOW / WINDOW.sum()).expand(3, 1, -1)


def dssim(image: Any, photo: Any) -> Any:
    """1 - SSIM of [1, 3, H, W]."""
    if fused_ssim:
        return 1 - fused_ssim(image, photo)

    def blur(x: Any) -> Any:
        x = F.conv2d(x, WINDOW[:, :, None, :].contiguous(), padding=(0, 5), groups=3)
        return F.conv2d(x, WINDOW[:, :, :, None].contiguous(), padding=(5, 0), groups=3)

    mu, nu = blur(image), blur(photo)
    s, t = blur(image * image) - mu * mu, blur(photo * photo) - nu * nu
    c = blur(image * photo) - mu * nu
    return 1 - ((2 * mu * nu + 1e-4) * (2 * c + 9e-4) / ((mu * mu + nu * nu + 1e-4) * (s + t + 9e-4))).mean()
