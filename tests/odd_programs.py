# SPDX-License-Identifier: Apache-2.0
"""Odd sets of other programs: transforms.json in its dialects, Metashape, RealityCapture."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

import foreign_scenes as foreign
import numpy as np
from odd_corpus import add, add_reference
from odd_makers import (
    HEIGHT,
    WIDTH,
    blotted,
    colmap,
    moved,
    similarity,
    sound,
    through,
    truth,
    write_masks,
    write_photos,
)

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
OBLIQUE = similarity(2.5, 0.7, (3, -1, 2))
CAST: dict[str, Any] = {"like": "cast", "options": ("--max-size", str(WIDTH))}


# ---- transforms.json ----


def transforms(
    root,
    scene=None,
    *,
    top=None,
    file="transforms.json",
    path=lambda view: f"images/{view.name}",
    photos="images",
    photo=str,
    matrix=foreign.opengl,
    ply="sparse_pc.ply",
    each=lambda view: {},
    frames=lambda frames: frames,
):
    """A folder with transforms.json. each: what a frame says beside; frames: what becomes of them."""
    scene = scene or sound()
    write_photos(root / photos, scene, photo)
    if ply:
        foreign.write_ascii_ply(root / ply, scene.points, scene.colors)
    listed = [
        {"file_path": path(v), "transform_matrix": matrix(v.camera).tolist()} | each(v) for v in scene.views
    ]
    top = foreign.lens(scene.views[0].camera) if top is None else top
    (root / file).write_text(json.dumps(top | {"frames": frames(listed)}))


def made(**how):
    return lambda root: transforms(root, **how)


def changed_json(change, **how):
    def make(root):
        transforms(root, **how)
        path = root / "transforms.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return make


def own_lens(view):
    return foreign.lens(view.camera)


def matrix_of(view):
    return {"K": view.camera.K.tolist()}


def nerfstudio(root):
    """The frame that ns-process-data turns COLMAP's to; both cameras and points are in it."""
    top = foreign.lens(sound().views[0].camera) | {
        "camera_model": "OPENCV",
        "applied_transform": OBLIQUE[:3].tolist(),
        "ply_file_path": "points/cloud.ply",
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
    }
    scene = moved(sound(), OBLIQUE)
    transforms(root, scene, top=top, ply=None, each=lambda view: {"colmap_im_id": 3})
    (root / "points").mkdir()
    foreign.write_ascii_ply(root / "points/cloud.ply", scene.points, scene.colors)


def blender(root, *, test=True):
    """transforms_train.json and _test.json; paths without .png; the lens as an angle."""
    angle = {"camera_angle_x": foreign.angle_x(sound().views[0].camera)}
    write_photos(root / "train", sound())
    parts = {"train": sound().views, "val": truth()[:2], "test": truth()[::8]}
    for part, views in parts.items():
        listed = foreign.frames(views, lambda view, part=part: f"./{part}/{view.name[:-4]}")
        foreign.write_json(root / f"transforms_{part}.json", angle, listed)
        write_photos(root / part, replace(sound(), views=tuple(views)))
    foreign.write_ascii_ply(root / "sparse_pc.ply", sound().points, sound().colors)


def smaller(root):
    """Photos of 120x90, of which the file says 480x360."""
    camera = sound().views[0].camera.resized(4 * WIDTH, 4 * HEIGHT)
    transforms(root, top=foreign.lens(camera))


def fewer_photos(root):
    transforms(root)
    for i in (5, 13, 20):
        (root / f"images/view_{i:02d}.png").unlink()


def model_beside(root):
    """The file has one lens for all, as old converters, and a wrong one; the model has the right."""
    wrong = foreign.lens(sound().views[0].camera.resized(WIDTH, HEIGHT))
    wrong["fl_x"] *= 1.5
    transforms(root, top=wrong, ply=None)
    colmap(root, model="colmap_sparse/0")


def broken_model_beside(root):
    transforms(root)
    (root / "sparse/0").mkdir(parents=True)
    (root / "sparse/0/cameras.bin").write_bytes(bytes(8))


def mirrored(camera):
    """Of a left-handed world: its z turned round."""
    return np.diag([1.0, 1.0, -1.0, 1.0]) @ foreign.opengl(camera)


def up_to_scale(camera):
    return foreign.opengl(camera) / 844


def through_json(model, coefficients, keys):
    def make(root):
        scene, row = through(model, coefficients)
        fx, fy, cx, cy = row[4][:4]
        top = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": row[2], "h": row[3], **keys}
        transforms(root, scene, top=top)

    return make


def with_masks_named(root):
    transforms(root, blotted(), each=lambda view: {"mask_path": f"m/{view.name}"})
    write_masks(root / "m")


def k3x3(root):
    transforms(root, top={"w": float(WIDTH), "h": float(HEIGHT)}, each=matrix_of)


ANGLE = {"camera_angle_x": foreign.angle_x(sound().views[0].camera), "aabb_scale": 16}
add_reference("oblique", lambda root: colmap(root, moved(sound(), OBLIQUE)), frame=OBLIQUE)
add("transforms.json", "nerfstudio, applied_transform and ply", nerfstudio, frame=OBLIQUE, like="oblique")
add("transforms.json", "instant-ngp, no points", made(ply=None), like="drawn", says="20,000 drawn")
add("transforms.json", "instant-ngp, a lens in each frame", made(top={"aabb_scale": 16}, each=own_lens))
add(
    "transforms.json",
    "a wrong lens at the top, the right in frames",
    made(top=ANGLE | {"fl_x": 50}, each=own_lens),
)
add("transforms.json", "camera_angle_x only", made(top=ANGLE))
add("transforms.json", "K in each frame", k3x3)
add(
    "transforms.json",
    "sizes as width and height, floats",
    made(top={**ANGLE, "width": 120.0, "height": 90.0}),
)
add("transforms.json", "Blender's parts", blender, says="transforms_test.json held out")
add("transforms.json", "backslashes", made(path=lambda view: f".\\images\\{view.name}"))
add("transforms.json", "a Windows path in part", made(path=lambda view: f"./uploads\\images/{view.name}"))
add("transforms.json", "absolute paths, gone", made(path=lambda view: f"/home/user/job/images/{view.name}"))
add("transforms.json", "a folder renamed", made(photos="rgb"))
add("transforms.json", "paths with ../", made(path=lambda view: f"../set/images/{view.name}", photos="."))
add("transforms.json", "photos in the folder itself", made(photos="."))
add("transforms.json", "no endings", made(path=lambda view: f"./images/{view.name[:-4]}"))
add("transforms.json", "photos a quarter of w and h", smaller)
add("transforms.json", "three photos are gone", fewer_photos, loses=0.9, says="3 of 21 photos are not there")
add("transforms.json", "a COLMAP model beside", model_beside)
add("transforms.json", "part of a COLMAP model beside", broken_model_beside)
add("transforms.json", "frames not sorted", made(frames=lambda frames: frames[::-1]))
add(
    "transforms.json",
    "frames twice",
    made(frames=lambda frames: [*frames, *frames[:4]]),
    says="4 photos more than once",
)
add("transforms.json", "matrices up to scale", made(matrix=up_to_scale))
add(
    "transforms.json",
    "a left-handed world",
    made(matrix=mirrored, ply=None),
    frame=np.diag([1.0, 1.0, 1.0, 1.0]),
    like="drawn",
    says="the world's z was turned round",
)
add(
    "transforms.json",
    "OpenCV's axes, against the format",
    made(matrix=lambda camera: foreign.opengl(camera) @ FLIP, ply=None),
    like="drawn",
    says="warning: the matrices are read in OpenCV's axes",
)
add(
    "transforms.json",
    "world to camera, against the format",
    made(matrix=lambda camera: np.linalg.inv(foreign.opengl(camera))),
    code=2,
    says="the poses are inverted",
)
add(
    "transforms.json",
    "OPENCV",
    through_json("OPENCV", (-0.1, 0.05, 0.01, -0.02), {"k1": -0.1, "k2": 0.05, "p1": 0.01, "p2": -0.02}),
    loses=0.5,
    **CAST,
)
add(
    "transforms.json",
    "OPENCV_FISHEYE",
    through_json(
        "OPENCV_FISHEYE",
        (0.05, -0.02, 0.01, -0.003),
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k2": -0.02, "k3": 0.01, "k4": -0.003},
    ),
    loses=0.5,
    **CAST,
)
add(
    "transforms.json",
    "is_fisheye",
    through_json("OPENCV_FISHEYE", (0.05, -0.02, 0, 0), {"is_fisheye": True, "k1": 0.05, "k2": -0.02}),
    loses=0.5,
    **CAST,
)
add("transforms.json", "mask_path", with_masks_named, loses=0.6, says="21 have the mask that the file names")
add(
    "transforms.json",
    "depth_file_path",
    made(each=lambda v: {"depth_file_path": "d/1.png"}),
    says="depth pictures are not used",
)
add(
    "transforms.json",
    "a byte-order mark, a bare list",
    None
    or changed_json(
        lambda data: [f | {k: v for k, v in data.items() if k != "frames"} for f in data["frames"]]
    ),
)
add(
    "transforms.json",
    "points that are not there",
    changed_json(lambda data: data | {"ply_file_path": "x.ply"}, ply=None),
    like="drawn",
    says="warning: the points x.ply are not there",
)
add("transforms.json", "no frames", made(frames=lambda frames: []), code=2, says="has no frames")
add(
    "transforms.json",
    "an unknown camera_model",
    made(top=ANGLE | {"camera_model": "VR180_L"}),
    code=2,
    says="camera_model VR180_L; supported are",
)
add("transforms.json", "k2 = -3690", changed_json(lambda data: data | {"k1": 30.0, "k2": -3690.0}), code=2)
add(
    "transforms.json",
    "fl_y 27 times fl_x",
    changed_json(lambda data: data | {"fl_y": 27 * data["fl_x"]}),
    code=2,
    says="fx and fy are far apart, and fy is the wrong one",
)
add(
    "transforms.json",
    "none of the photos",
    made(
        path=lambda view: f"images/{view.name}x.exr", photo=lambda name: None if name > "view_01" else "q.png"
    ),
    code=2,
    says=r"none of the 21 photos .* is in a folder of",
)
add(
    "transforms.json",
    "a matrix of text",
    changed_json(lambda data: data | {"frames": [data["frames"][0] | {"transform_matrix": "x"}]}),
    code=2,
    says="transform_matrix",
)
add(
    "transforms.json",
    "no JSON",
    lambda root: (root / "transforms.json").write_text("{"),
    code=2,
    says="is not JSON",
)


# ---- Metashape, RealityCapture ----


def metashape(root, *, cloud=None, **how):
    foreign.write_metashape(root, sound(), **how)
    write_photos(root / "images", sound())
    points = sound().points if cloud is None else cloud
    foreign.write_ascii_ply(root / "cloud.ply", points, sound().colors)


WORLD = similarity(12.5, 0.7, (500, -200, 30))
PLACED = (similarity(1, 0.7)[:3, :3], (500, -200, 30), 12.5)
UNALIGNED = '<camera id="90" sensor_id="3" label="new.png"/>'


def realitycapture(root, cloud=True, **how):
    foreign.write_realitycapture(root, sound(), **how)
    write_photos(root / "images", sound())
    if cloud:
        foreign.write_ascii_ply(root / "points.ply", sound().points, sound().colors)


add("Metashape", "cameras.xml and a cloud", metashape)
add("Metashape", "labels without endings", functools.partial(metashape, label=lambda view: view.name[:-4]))
add(
    "Metashape",
    "a cloud in the world's coordinates",
    functools.partial(metashape, cloud=moved(sound(), WORLD).points, chunk_transform=PLACED),
    says="brought from the world's coordinates",
)
add(
    "Metashape",
    "a camera that is not aligned",
    functools.partial(metashape, extra_cameras=UNALIGNED),
    says="1 photos are not aligned",
)
add("RealityCapture", "CSV and PLY", realitycapture)
add(
    "RealityCapture",
    "semicolons, paths of Windows",
    functools.partial(realitycapture, delimiter=";", name=lambda v: f"C:\\shots\\{v.name}"),
)
add("RealityCapture", "no points", functools.partial(realitycapture, cloud=False), like="drawn")
