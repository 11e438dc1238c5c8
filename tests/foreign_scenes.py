# SPDX-License-Identifier: Apache-2.0
"""Writers of other programs' scenes for the tests, from the built-in scene; they share nothing with the readers."""

import functools
import json
import math

import numpy as np
from PIL import Image

from gsplat_train.datasets.demo import make_demo

WIDTH, HEIGHT = 96, 72


@functools.cache
def small_demo(n_views=12, n_points=900):
    """The built-in scene in small; a second to make."""
    return make_demo(n_views, WIDTH, HEIGHT, n_points)


def opengl(camera):
    """Camera-to-world [4, 4] with x right, y up, z back."""
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1], matrix[:3, 2] = rotation[0], -rotation[1], -rotation[2]
    matrix[:3, 3] = -rotation.T @ translation
    return matrix


def lens(camera):
    K = camera.K.tolist()
    return {
        "fl_x": K[0][0],
        "fl_y": K[1][1],
        "cx": K[0][2],
        "cy": K[1][2],
        "w": camera.width,
        "h": camera.height,
    }


def write_photos(folder, views, shrink=1, name=lambda view: view.name):
    for view in views:
        path = folder / name(view)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(view.image)
        if shrink > 1:
            picture = picture.reduce(shrink)
        picture.save(path)


def frames(views, path=lambda view: f"images/{view.name}", matrix=opengl, **more):
    return [
        {"file_path": path(view), "transform_matrix": matrix(view.camera).tolist(), **more} for view in views
    ]


def write_json(path, top, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**top, "frames": frames}))
    return path.parent


def write_transforms(root, scene=None, **more):
    """A folder as instant-ngp's colmap2nerf leaves it: one lens for all at the top."""
    scene = scene or small_demo()
    write_photos(root / "images", scene.views)
    return write_json(root / "transforms.json", lens(scene.views[0].camera) | more, frames(scene.views))


def angle_x(camera):
    return 2 * math.atan(camera.width / 2 / camera.K[0, 0])


def write_ascii_ply(path, points, colors):
    lines = ["ply", "format ascii 1.0", f"element vertex {len(points)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")] + ["end_header"]
    rows = (
        " ".join([*(f"{x:.9g}" for x in point), *(str(int(c)) for c in color)])
        for point, color in zip(points, colors, strict=True)
    )
    path.write_text("\n".join([*lines, *rows]) + "\n")


def same_cameras(scene, wanted, tolerance=1e-9, names=None):
    """Asserts that views have the cameras of the wanted views, which may have other names."""
    assert len(scene.views) == len(wanted)
    for view, other in zip(scene.views, wanted, strict=True):
        np.testing.assert_allclose(view.camera.viewmat, other.camera.viewmat, atol=tolerance)
        np.testing.assert_allclose(view.camera.K, other.camera.K, atol=max(tolerance, 1e-7))
        assert view.pixels.image.shape == (other.camera.height, other.camera.width, 3)
