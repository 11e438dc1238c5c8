# SPDX-License-Identifier: Apache-2.0
"""Load a scene and look at what is in it: views, cameras, points.

python examples/load.py [SCENE]
"""

import sys

import gsplat_train as gs

scene = gs.open_scene(sys.argv[1] if len(sys.argv) > 1 else "demo")
train, test = scene.split(test_every=8)
print(f"{scene.name}: {len(train)} views to train on, {len(test)} held out, {len(scene.points):,} points")
for view in test:
    camera = view.camera
    print(
        f"{view.name}: {camera.width}x{camera.height}, focal {camera.K[0, 0]:.0f} px, at {camera.position.round(2)}"
    )
