# SPDX-License-Identifier: Apache-2.0
"""What the worker does with a model that COLMAP has made: more points, another frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def thickened(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """Writes the model in job["model"] with the points and colors of the file job["points"] into job["out"]."""
    import pycolmap

    reconstruction = pycolmap.Reconstruction(job["model"])
    with np.load(job["points"]) as more:
        for place, color in zip(more["points"], more["colors"], strict=True):
            reconstruction.add_point3D(place, pycolmap.Track(), color)
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    reconstruction.write(job["out"])
    return {}


def turned(job: dict[str, Any], events: Any) -> dict[str, Any]:
    """Writes the model in job["model"] into job["out"] in another frame: job["scale"], ["rotation"],
    ["translation"].
    """
    import pycolmap

    reconstruction = pycolmap.Reconstruction(job["model"])
    matrix = [
        [job["scale"] * r for r in row] + [t]
        for row, t in zip(job["rotation"], job["translation"], strict=True)
    ]
    reconstruction.transform(pycolmap.Sim3d(matrix))
    Path(job["out"]).mkdir(parents=True, exist_ok=True)
    reconstruction.write(job["out"])
    return {"version": pycolmap.__version__}
