# SPDX-License-Identifier: Apache-2.0
"""Photos, masks and alpha as the native code reads them: a plane a channel, rows padded with zeros."""

from __future__ import annotations

import numpy as np

from .. import _csrc


def photo_planes(photo: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> [3, rows, stride], padded with zeros."""
    height, width, _ = photo.shape
    planes = np.zeros((3, *_csrc.plane_shape(width, height)), np.uint8)
    planes[:, :height, :width] = photo.transpose(2, 0, 1)
    return planes


def mask_plane(mask: np.ndarray) -> np.ndarray:
    """[H, W] -> uint8 [rows, stride], 1 where a pixel counts (above 0), padded with zeros."""
    height, width = mask.shape
    plane = np.zeros(_csrc.plane_shape(width, height), np.uint8)
    plane[:height, :width] = mask > 0
    return plane


def alpha_plane(alpha: np.ndarray) -> np.ndarray:
    """uint8 [H, W] -> [rows, stride], padded with 255: no background shows beyond the picture."""
    height, width = alpha.shape
    plane = np.full(_csrc.plane_shape(width, height), 255, np.uint8)
    plane[:height, :width] = alpha
    return plane
