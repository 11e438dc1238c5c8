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


def write_metashape(
    root, scene, chunk_transform=None, lens="", kind="frame", extra_cameras="", label=lambda v: v.name
):
    """cameras.xml as Metashape exports it; lens: the calibration's elements beyond the pinhole's."""
    camera = scene.views[0].camera
    K = camera.K.tolist()
    f, b1 = K[1][1], K[0][0] - K[1][1]
    size = f'<resolution width="{camera.width}" height="{camera.height}"/>'
    cx, cy = K[0][2] - camera.width / 2, K[1][2] - camera.height / 2
    cameras = "".join(
        f'<camera id="{i}" sensor_id="3" component_id="0" label="{label(view)}"><transform>'
        + " ".join(repr(float(x)) for x in view.camera.camtoworld.ravel())
        + "</transform></camera>"
        for i, view in enumerate(scene.views)
    )
    placed = ""
    if chunk_transform is not None:
        rotation, translation, scale = chunk_transform
        words = [
            " ".join(repr(float(x)) for x in np.ravel(values)) for values in (rotation, translation, scale)
        ]
        placed = f"<transform><rotation>{words[0]}</rotation><translation>{words[1]}</translation>"
        placed += f"<scale>{words[2]}</scale></transform>"
    root.mkdir(parents=True, exist_ok=True)
    (root / "cameras.xml").write_text(
        f'''<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0"><chunk label="Chunk 1" enabled="true">
<sensors next_id="4"><sensor id="3" label="unknown" type="{kind}">{size}
<calibration type="{kind}" class="initial">{size}<f>7</f></calibration>
<calibration type="{kind}" class="adjusted">{size}
<f>{f!r}</f><cx>{cx!r}</cx><cy>{cy!r}</cy><b1>{b1!r}</b1>{lens}</calibration>
</sensor></sensors>
<components><component id="0" label="Component 1"/></components>
<cameras><group id="1">{cameras}</group>{extra_cameras}</cameras>{placed}</chunk></document>'''
    )


def write_realitycapture(root, scene, delimiter=",", name=lambda view: view.name):
    """The CSV of camera parameters, angles solved from the matrices."""
    lines = [delimiter.join("#name x y alt heading pitch roll f px py k1 k2 k3 k4 t1 t2".split())]  # noqa: SIM905
    for view in scene.views:
        camera = view.camera
        m = opengl(camera)  # = Rz(-heading) Rx(pitch) Ry(roll)
        pitch = math.degrees(math.asin(m[2, 1]))
        heading = -math.degrees(math.atan2(-m[0, 1], m[1, 1]))
        roll = math.degrees(math.atan2(-m[2, 0], m[2, 2]))
        longer = max(camera.width, camera.height)
        px, py = (camera.K[0, 2] - camera.width / 2) / longer, (camera.K[1, 2] - camera.height / 2) / longer
        numbers = [*m[:3, 3], heading, pitch, roll, camera.K[0, 0] * 36 / longer, px, py, 0, 0, 0, 0, 0, 0]
        lines.append(delimiter.join([name(view), *(repr(float(x)) for x in numbers)]))
    root.mkdir(parents=True, exist_ok=True)
    (root / "cameras.csv").write_text("\n".join(lines) + "\n")
