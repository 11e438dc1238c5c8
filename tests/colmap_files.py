# SPDX-License-Identifier: Apache-2.0
"""COLMAP folders for the tests, written byte by byte from COLMAP's format description, not with the program's
own writer.
"""

import struct

import numpy as np
from PIL import Image

MODELS = (
    "SIMPLE_PINHOLE PINHOLE SIMPLE_RADIAL RADIAL OPENCV OPENCV_FISHEYE FULL_OPENCV FOV SIMPLE_RADIAL_FISHEYE "
    "RADIAL_FISHEYE THIN_PRISM_FISHEYE RAD_TAN_THIN_PRISM_FISHEYE SIMPLE_DIVISION DIVISION SIMPLE_FISHEYE "
    "FISHEYE EUCM EQUIRECTANGULAR"
)
MODEL_IDS = {model: i for i, model in enumerate(MODELS.split())}
CAMERAS = [(1, "PINHOLE", 40, 30, [50.0, 52.0, 19.0, 16.0])]
IMAGES = [  # id, quaternion wxyz, translation, camera, name
    (7, [1.0, 0, 0, 0], [0.0, 0, 4], 1, "b.png"),
    (2, [0.5, 0.5, 0.5, 0.5], [1.0, 2, 3], 1, "a.png"),
    (9, [0.0, 0, 2, 0], [0.0, 1, 5], 1, "sub/c.png"),
]
POINTS = [([0.1, 0.2, 0.3], [1, 2, 3], 2), ([-1.0, 5, 2], [255, 0, 128], 0), ([4.0, 4, 4], [9, 8, 7], 5)]


def binary_files(cameras, images, points):
    data = struct.pack("<Q", len(cameras))
    for camera_id, model, width, height, params in cameras:
        data += struct.pack("<iiQQ", camera_id, MODEL_IDS[model], width, height)
        data += struct.pack(f"<{len(params)}d", *params)
    files = {"cameras.bin": data}
    data = struct.pack("<Q", len(images))
    for image_id, quat, translation, camera_id, name in images:
        data += struct.pack("<i7di", image_id, *quat, *translation, camera_id) + name.encode() + b"\0"
        data += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.5, 2.5, 1, 3.5, 4.5, -1)
    files["images.bin"] = data
    data = struct.pack("<Q", len(points))
    for i, (position, color, track) in enumerate(points):
        data += struct.pack("<Q3d3Bd", i + 1, *position, *color, 0.5)
        data += struct.pack("<Q", track) + struct.pack(f"<{2 * track}i", *range(2 * track))
    files["points3D.bin"] = data
    return files


def text_files(cameras, images, points):
    def line(*parts):
        return " ".join(str(p) for part in parts for p in (part if isinstance(part, list) else [part])) + "\n"

    camera_lines = [line(*camera) for camera in cameras]
    image_lines = []
    for i, (image_id, quat, translation, camera_id, name) in enumerate(images):
        image_lines += [line(image_id, quat, translation, camera_id, name), "1.5 2.5 1\n" if i else "\n"]
    point_lines = [
        line(i + 1, position, color, 0.5, *range(2 * n)) for i, (position, color, n) in enumerate(points)
    ]
    parts = {"cameras": camera_lines, "images": image_lines, "points3D": point_lines}
    return {f"{name}.txt": ("# a comment\n\n" + "".join(lines)).encode() for name, lines in parts.items()}


def write_scene(root, files, photos=("a.png", "b.png", "sub/c.png"), size=(40, 30), model="sparse/0"):
    (root / model).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / model / name).write_bytes(data)
    for i, name in enumerate(photos):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 100, 200)).save(path)
    return root


def check_good(scene):
    assert [view.name for view in scene.views] == ["a.png", "b.png", "sub/c.png"]
    a, b, c = (view.camera for view in scene.views)
    np.testing.assert_array_equal(b.viewmat, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])
    np.testing.assert_allclose(
        a.viewmat, [[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]], atol=1e-15
    )
    np.testing.assert_allclose(c.viewmat[:3, :3], np.diag([-1.0, 1, -1]), atol=1e-15)
    np.testing.assert_array_equal(a.K, [[50, 0, 19], [0, 52, 16], [0, 0, 1]])
    np.testing.assert_array_equal(scene.points, [position for position, _, _ in POINTS])
    np.testing.assert_array_equal(scene.colors, [color for _, color, _ in POINTS])
    assert [int(view.image[0, 0, 0]) for view in scene.views] == [0, 1, 2]
    assert scene.name == "scene"
    assert scene.undistort is None
