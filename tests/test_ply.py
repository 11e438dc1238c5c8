# SPDX-License-Identifier: Apache-2.0
"""PLY of splats: what is written is what others expect, what is read is splats or one line of error."""

import errno
from pathlib import Path

import numpy as np
import plyfile
import pytest

from gsplat_train import storage
from gsplat_train.errors import StorageError, UserError
from gsplat_train.model.formats import ply


def splats(n: int = 5, degree: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,), "sh0": (n, 1, 3),
        "shN": (n, (degree + 1) ** 2 - 1, 3),
    }  # fmt: skip
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write_vertices(path: Path, names: list[str], columns: dict[str, np.ndarray], **options: object) -> None:
    """A PLY by plyfile, with these properties in this order."""
    n = len(next(iter(columns.values())))
    table = np.zeros(n, [(name, columns[name].dtype if name in columns else "f4") for name in names])
    for name in names:
        if name in columns:
            table[name] = columns[name]
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")], **options).write(path)


def vertices(path: Path) -> dict[str, np.ndarray]:
    data = plyfile.PlyData.read(path)["vertex"].data
    return {name: np.array(data[name]) for name in data.dtype.names}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_round_trip(degree: int, antialiased: bool, tmp_path: Path) -> None:
    before = splats(degree=degree)
    ply.write(tmp_path / "a.ply", before, antialiased=antialiased)
    after = ply.read(tmp_path / "a.ply")
    assert after.antialiased == antialiased
    for name, array in before.items():
        assert after.arrays[name].shape == array.shape and (after.arrays[name] == array).all(), name
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_another_reader_finds_the_names_and_the_order_of_the_colours(tmp_path: Path) -> None:
    written = splats()
    ply.write(tmp_path / "a.ply", written, antialiased=True)
    file = plyfile.PlyData.read(tmp_path / "a.ply")
    assert file.byte_order == "<" and not file.text and file.comments == ["antialiased 1"]
    names = file["vertex"].data.dtype.names
    expected = [
        "x",
        "y",
        "z",
        "nx",
        "ny",
        "nz",
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(45)),
    ]
    assert list(names) == [
        *expected,
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]
    data = file["vertex"].data
    assert (data["f_rest_14"] == written["shN"][:, 14, 0]).all()  # the last of R
    assert (data["f_rest_15"] == written["shN"][:, 0, 1]).all()  # the first of G
    assert (data["f_rest_44"] == written["shN"][:, 14, 2]).all()  # the last of B
    assert (data["rot_0"] == written["quats"][:, 0]).all() and (
        data["opacity"] == written["logit_opacities"]
    ).all()
    assert not data["nx"].any()


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": ">"}, {"byte_order": "<"}])
def test_any_order_of_properties_and_bytes_is_read(options: dict, tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(degree=1), antialiased=False)
    columns = vertices(tmp_path / "a.ply")
    columns["x"] = columns["x"].astype("f8")
    shuffled = ["red", *np.random.default_rng(2).permutation(list(columns))]
    write_vertices(tmp_path / "b.ply", shuffled, columns, **options)
    again = ply.read(tmp_path / "b.ply")
    for name, array in splats(degree=1).items():
        assert again.arrays[name] == pytest.approx(array, rel=1e-5), name


def test_normals_and_f_rest_may_be_absent(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(), antialiased=False)
    columns = vertices(tmp_path / "a.ply")
    names = [name for name in columns if not name.startswith(("n", "f_rest"))]
    write_vertices(tmp_path / "b.ply", names, columns)
    assert ply.read(tmp_path / "b.ply").arrays["shN"].shape == (5, 0, 3)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("x", "no x"), ("opacity", "no opacity"), ("rot_3", "no rot_3"), ("f_rest_44", "44 f_rest"),
        ("f_rest_7", "no f_rest_7"),
    ],
)  # fmt: skip
def test_a_missing_property_is_named(missing: str, message: str, tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(), antialiased=False)
    columns = vertices(tmp_path / "a.ply")
    write_vertices(tmp_path / "b.ply", [name for name in columns if name != missing], columns)
    with pytest.raises(UserError, match=message):
        ply.read(tmp_path / "b.ply")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["x", "f_rest_3", "rot_2"])
def test_values_that_are_not_finite_are_counted(value: float, name: str, tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(), antialiased=False)
    columns = vertices(tmp_path / "a.ply")
    columns[name] = columns[name].astype("f8")
    columns[name][[1, 3]] = value
    write_vertices(tmp_path / "b.ply", list(columns), columns)
    with pytest.raises(UserError, match="2 of 5 splats with a value that is not finite"):
        ply.read(tmp_path / "b.ply")


HEADER = b"ply\nformat binary_little_endian 1.0\nelement vertex %s\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"ply", b"solid\n", b"\x89PNG\r\n\x1a\n", b"ply\nend_header\n",
        b"ply\nformat none 1.0\nend_header\n",
        b"ply\nformat ascii 1.0\nend_header\n", b"ply\nformat ascii 1.0\nproperty float x\nend_header\n",
        HEADER % b"3" + b"property float x\n", HEADER % b"3" + b"property double3 x\nend_header\n",
        HEADER % b"1152921504606846976" + b"property float x\nend_header\n1234",
        HEADER % b"9999999999999999999999" + b"property float x\nend_header\n1234",
        HEADER % b"-1" + b"property float x\nend_header\n", HEADER % b"0" + b"end_header\n",
        HEADER % b"1" + b"property list uchar int x\nend_header\n\0",
        HEADER % b"1" + b"property float x\n" * 2 + b"end_header\n12345678",
        HEADER % b"1" + b"property float x\nend_header\n1234",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nabc\n",
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n\n\n\n\n",
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1 2\n",
        HEADER % b"1" + b"element chunk 1\nproperty float x\nend_header\n12345678", b"ply\n" + b"x" * 2**21,
    ],
)  # fmt: skip
def test_whatever_is_no_splat_is_one_line_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        ply.read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 300 + len(str(path))


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9, 0.999])
def test_every_truncation_is_said(keep: float, tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(100), antialiased=False)
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="truncated"):
        ply.read(tmp_path / "a.ply")


def test_no_splats_missing_file_and_folder(tmp_path: Path) -> None:
    ply.write(tmp_path / "none.ply", splats(0), antialiased=False)
    for path, message in (
        ("none.ply", "has no splats"),
        ("absent.ply", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            ply.read(tmp_path / path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ply.write(tmp_path / "a.ply", splats(), antialiased=False)
    before = (tmp_path / "a.ply").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        ply.write(tmp_path / "a.ply", splats(9), antialiased=False)
    assert (tmp_path / "a.ply").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
