# SPDX-License-Identifier: Apache-2.0
"""Agisoft Metashape's cameras (File > Export > Export Cameras, XML) and the photos -> Scene.

Enters: a folder with the XML file and the photos, and a PLY of the tie points or the dense cloud where there is
one. Leaves: views in the chunk's own frame, whose numbers are small; a cloud exported in world coordinates is
brought into it. Lens: x' = x (1 + K1 r2 + K2 r4 + K3 r6 + K4 r8) + P1 (r2 + 2 x2) + 2 P2 x y, y' likewise with P2
first; u = w/2 + cx + x' f + x' B1 + y' B2, v = h/2 + cy + y' f (Metashape's manual, appendix on camera models).
So COLMAP's p1 is P2, and its p2 is P1.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..scene import Camera, Scene
from ..storage import text_of
from .agreement import in_picture
from .colmap_records import CameraRecord, intrinsics
from .files import find_photos, shorten
from .images import PhotoFile, load_photos, with_masks
from .names import as_name
from .options import LoadOptions
from .point_ply import cloud_beside

HEAD = 4096  # bytes of a file that are looked at
MAX_SKEW = 0.5  # pixels that a skew may move the border by, which no camera here has
TOLERANCE = 0.02  # of rotations
INSIDE = (
    0.3  # of a cloud's points lie in pictures of the cameras in the chunk's frame; else it is the world's
)

LOOKED_FOR = "Metashape's cameras.xml"


def recognise(root: Path) -> bool:
    """Whether the folder holds cameras that Metashape exported."""
    return _file(root) is not None


def load(root: Path, options: LoadOptions) -> Scene:
    """The scene in `root`; UserError where the file is broken or no camera is aligned."""
    log = options.log
    path = _file(root)
    if path is None:
        raise UserError(f"{root} holds no cameras of Metashape; export them as Agisoft XML")
    chunk = _chunk(path)
    cameras = read_cameras(chunk, path, log)
    files = find_photos(cameras, root, options.images, log)
    photos = [cameras[name]._replace(path=file) for name, file in files.items()]
    views, undistorted = load_photos(with_masks(photos, root, options), options)
    scene = Scene(root.resolve().name, tuple(views), np.empty((0, 3)), np.empty((0, 3)), undistorted)
    cloud = cloud_beside(root, log)
    if cloud is None:
        return scene
    points, colors = cloud
    world = chunk_to_world(chunk, path)
    if world is not None and _share(scene, points) < INSIDE:
        there = (points - world[:3, 3]) @ np.linalg.inv(world[:3, :3]).T
        if _share(scene, there) > _share(scene, points):
            log("points: brought from the world's coordinates into the chunk's")
            points = there
    return replace(scene, points=points, colors=colors)


def read_cameras(chunk: ElementTree.Element, path: Path, log: Callable[[str], None]) -> dict[str, PhotoFile]:
    """The aligned cameras by label, without the files of their photos."""
    sensors = {
        sensor.get("id", ""): sensor
        for sensor in chunk.iterfind("sensors/sensor")
        if sensor.get("id") is not None
    }
    read: dict[str, CameraRecord] = {}
    found: dict[str, PhotoFile] = {}
    unaligned, twice = [], []
    components = {
        c.get("id", ""): _similarity(c.find("transform"), path)
        for c in chunk.iterfind("components/component")
    }
    for camera in chunk.iterfind("cameras//camera"):
        label, transform = as_name(camera.get("label", "")), camera.find("transform")
        if not label or camera.get("enabled") in ("0", "false"):
            continue
        if transform is None:
            unaligned.append(label)
            continue
        if label in found:
            twice.append(label)
            continue
        sensor_id = camera.get("sensor_id", "")
        if sensor_id not in sensors:
            raise UserError(f"{path}: camera {label!r} needs the sensor {sensor_id!r}, which is not there")
        if sensor_id not in read:
            read[sensor_id] = sensor_record(sensors[sensor_id], path, log)
        record = read[sensor_id]
        matrix = _numbers(transform, 16, f"{path}: the transform of camera {label!r}").reshape(4, 4)
        component = components.get(camera.get("component_id", ""))
        if component is not None and len(components) > 1:
            matrix = _rigid_times(component, matrix)
        viewmat = _viewmat(matrix, label, path)
        K, distortion = intrinsics(record, f"sensor {sensor_id} of {path}")
        found[label] = PhotoFile(label, Path(), Camera(viewmat, K, record.width, record.height), distortion)
    if unaligned:
        log(f"warning: {len(unaligned)} photos are not aligned ({shorten(unaligned)}) and are left out")
    if twice:
        log(f"warning: {len(twice)} labels are there more than once ({shorten(twice)}); the first counts")
    if not found:
        raise UserError(f"{path} has no aligned cameras; align the photos and export the cameras again")
    return found


def sensor_record(sensor: ElementTree.Element, path: Path, log: Callable[[str], None]) -> CameraRecord:
    """The sensor's lens in COLMAP's words; UserError where it has none of today's."""
    what = f"{path}: sensor {sensor.get('id')!r}"
    if sensor.get("master_id") not in (None, sensor.get("id")):
        raise UserError(
            f"{what} belongs to a rig; export the cameras of one sensor, or undistorted photos with COLMAP's format"
        )
    kind = sensor.get("type", "frame")
    calibrations = sensor.findall("calibration")
    calibration = next(
        (c for c in calibrations if c.get("class") == "adjusted"), calibrations[0] if calibrations else None
    )
    resolution = sensor.find("resolution")
    if resolution is None and calibration is not None:
        resolution = calibration.find("resolution")
    if resolution is None:
        raise UserError(f"{what} has no resolution; export the cameras again")
    width, height = (_attribute(resolution, name, what) for name in ("width", "height"))
    size = int(width), int(height)
    if kind == "spherical":
        return CameraRecord("EQUIRECTANGULAR", *size, (width, height))
    if calibration is None:
        raise UserError(f"{what} has no calibration; align the photos first")
    if kind not in ("frame", "fisheye"):
        raise UserError(f"{what} is of the type {kind!r}; supported are frame, fisheye, spherical")
    named = {name: _value(calibration, name, what) for name in ("f", "cx", "cy", "b1", "b2")}
    k1, k2, k3, k4 = (_value(calibration, f"k{i}", what) for i in range(1, 5))
    p1, p2 = _value(calibration, "p2", what), _value(calibration, "p1", what)  # COLMAP's p1 is Metashape's P2
    f = named["f"] or _value(calibration, "fx", what)
    if not f > 0:
        raise UserError(f"{what} has no focal length; align the photos first")
    if abs(named["b2"]) * height / (2 * f) > MAX_SKEW:
        log(
            f"warning: {what} has a skew b2 = {named['b2']}, which is ignored; undistort the photos in Metashape"
        )
    pinhole = (f + named["b1"], f, width / 2 + named["cx"], height / 2 + named["cy"])
    if kind == "fisheye":
        if p1 or p2:
            return CameraRecord("THIN_PRISM_FISHEYE", *size, (*pinhole, k1, k2, p1, p2, k3, k4, 0.0, 0.0))
        return CameraRecord("OPENCV_FISHEYE", *size, (*pinhole, k1, k2, k3, k4))
    if k4:
        log(f"warning: {what} has k4 = {k4}, which is ignored; undistort the photos in Metashape")
    if k3:
        return CameraRecord("FULL_OPENCV", *size, (*pinhole, k1, k2, p1, p2, k3, 0.0, 0.0, 0.0))
    if any((k1, k2, p1, p2)):
        return CameraRecord("OPENCV", *size, (*pinhole, k1, k2, p1, p2))
    return CameraRecord("PINHOLE", *size, pinhole)


def chunk_to_world(chunk: ElementTree.Element, path: Path) -> np.ndarray | None:
    """[4, 4] from the chunk's frame to the world's; None where the chunk has no place in it."""
    return _similarity(chunk.find("transform"), path)


def _file(root: Path) -> Path | None:
    """The XML file in the folder that is Metashape's, `cameras.xml` before others."""
    for path in sorted(root.glob("*.xml"), key=lambda path: (path.name.lower() != "cameras.xml", path.name)):
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError:
            continue
        text = text_of(head, "replace")
        if "<document" in text and "<chunk" in text:
            return path
    return None


def _chunk(path: Path) -> ElementTree.Element:
    try:
        chunk = ElementTree.parse(path).getroot().find("chunk")
    except (
        ElementTree.ParseError,
        OSError,
        ValueError,
        LookupError,
    ) as error:  # LookupError: no such encoding
        raise UserError(f"{path} is no XML: {error}; export the cameras again") from error
    if chunk is None:
        raise UserError(f"{path} has no chunk; export the cameras again")
    return chunk


def _similarity(element: ElementTree.Element | None, path: Path) -> np.ndarray | None:
    if element is None or element.find("rotation") is None or element.find("translation") is None:
        return None
    scale = element.find("scale")
    matrix = np.eye(4)
    matrix[:3, :3] = _numbers(element.find("rotation"), 9, f"{path}: a rotation").reshape(3, 3)
    matrix[:3, :3] *= 1.0 if scale is None else _numbers(scale, 1, f"{path}: a scale")[0]
    matrix[:3, 3] = _numbers(element.find("translation"), 3, f"{path}: a translation")
    return matrix


def _rigid_times(similarity: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A camera's matrix moved by a similarity: its place grows with it, its axes only turn."""
    moved = similarity @ matrix
    moved[:3, :3] /= np.cbrt(np.linalg.det(similarity[:3, :3]))
    return moved


def _viewmat(camtoworld: np.ndarray, label: str, path: Path) -> np.ndarray:
    rotation = camtoworld[:3, :3]
    if not np.abs(rotation.T @ rotation - np.eye(3)).max() <= TOLERANCE or np.linalg.det(rotation) < 0:
        raise UserError(f"{path}: the transform of camera {label!r} is no rotation and translation")
    left, _, right = np.linalg.svd(rotation)
    viewmat = np.eye(4)
    viewmat[:3, :3] = (left @ right).T
    viewmat[:3, 3] = -viewmat[:3, :3] @ camtoworld[:3, 3]
    return viewmat


def _numbers(element: ElementTree.Element | None, n: int, what: str) -> np.ndarray:
    try:
        values = np.array(
            [float(word) for word in (element.text or "").split()] if element is not None else []
        )
    except ValueError:
        values = np.empty(0)
    if len(values) != n or not np.isfinite(values).all():
        raise UserError(f"{what} must be {n} finite numbers; export the cameras again")
    return values


def _attribute(element: ElementTree.Element, name: str, what: str) -> float:
    try:
        value = float(element.get(name, ""))
    except ValueError:
        value = 0.0
    if not 1 <= value <= 1 << 20:
        raise UserError(f"{what} must have a resolution in pixels, got {name} = {element.get(name)!r}")
    return value


def _value(calibration: ElementTree.Element, name: str, what: str) -> float:
    """A parameter; those that are 0 are not written."""
    element = calibration.find(name)
    return 0.0 if element is None else float(_numbers(element, 1, f"{what}: {name}")[0])


def _share(scene: Scene, points: np.ndarray) -> float:
    """How many of the points lie in the picture, the median over views."""
    return float(np.median([len(in_picture(view.camera, points)[0]) / len(points) for view in scene.views]))
