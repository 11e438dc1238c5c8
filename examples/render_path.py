# SPDX-License-Identifier: Apache-2.0
"""Render a model along a path around what its cameras look at, as a film (needs gsplat-train[video]) or PNGs.

python examples/render_path.py MODEL SCENE OUT.mp4|FOLDER
"""

import sys
from pathlib import Path

import numpy as np

import gsplat_train as gs
from gsplat_train.evaluate.metrics import to_uint8
from gsplat_train.evaluate.paths import make_path
from gsplat_train.evaluate.pictures import write_png
from gsplat_train.evaluate.video import Video

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, scene, out = sys.argv[1:]
gaussians = gs.load_model(model)
cameras = [view.camera for view in gs.open_scene(scene).views]
path = make_path("orbit", cameras, np.asarray(gaussians.means), frames=24)
pictures = (to_uint8(gs.render(gaussians, camera).image) for camera in path)
if out.endswith((".mp4", ".webm")):
    with Video(Path(out), 24, path[0].width, path[0].height) as video:
        for picture in pictures:
            video.add(picture)
else:
    for number, picture in enumerate(pictures):
        write_png(Path(out) / f"{number:05d}.png", picture)
print(f"{len(path)} frames in {out}")
