# SPDX-License-Identifier: Apache-2.0
"""Points from PLY files of other programs."""

import foreign_scenes as foreign
import numpy as np
import pytest

from gsplat_train.datasets.point_ply import read_points
from gsplat_train.errors import UserError

POINTS = np.array([[1.5, -2, 3], [0, 0.25, 1e6], [4, 5, 6]])
COLORS = np.array([[255, 0, 7], [1, 2, 3], [9, 8, 7]])


def write_binary(path, table, order="<"):
    kinds = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort"}
    lines = [
        "ply",
        f"format binary_{'little' if order == '<' else 'big'}_endian 1.0",
        f"element vertex {len(table)}",
    ]
    lines += [f"property {kinds[table.dtype[name].str[1:]]} {name}" for name in table.dtype.names]
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + table.tobytes())
    return path


def table(kind, names, values, order="<", place="f4"):
    dtype = [(n, order + place) for n in "xyz"] + [(n, order + kind) for n in names]
    rows = [(*p, *v) for p, v in zip(POINTS, values, strict=True)]
    return np.array(rows, dtype)


RGB = ("red", "green", "blue")


@pytest.mark.parametrize(
    ("kind", "names", "values"),
    [
        ("u1", RGB, COLORS),
        ("u1", ("diffuse_red", "diffuse_green", "diffuse_blue"), COLORS),
        ("u2", RGB, COLORS * 257),
        ("f4", RGB, COLORS / 255),
        ("f4", RGB, COLORS.astype(float)),
        ("f4", ("f_dc_0", "f_dc_1", "f_dc_2"), (COLORS / 255 - 0.5) / 0.28209479177387814),
    ],
)
@pytest.mark.parametrize(("order", "place"), [("<", "f4"), (">", "f8")])
def test_colours_and_places_as_programs_write_them(tmp_path, kind, names, values, order, place):
    path = write_binary(tmp_path / "a.ply", table(kind, names, values, order, place), order)
    points, colors = read_points(path)
    np.testing.assert_allclose(points, POINTS)
    np.testing.assert_array_equal(colors, COLORS)


def test_text(tmp_path):
    foreign.write_ascii_ply(tmp_path / "a.ply", POINTS, COLORS)
    np.testing.assert_allclose(read_points(tmp_path / "a.ply")[0], POINTS)


def test_no_colours_are_black(tmp_path):
    path = write_binary(tmp_path / "a.ply", table("u1", (), [()] * 3))
    assert not read_points(path)[1].any()


def test_points_that_are_nowhere_are_left_out(tmp_path):
    rows = table("u1", RGB, COLORS)
    rows["y"][1] = np.nan
    lines = []
    points, colors = read_points(write_binary(tmp_path / "a.ply", rows), lines.append)
    np.testing.assert_allclose(points, POINTS[[0, 2]])
    np.testing.assert_array_equal(colors, COLORS[[0, 2]])
    assert lines == ["warning: 1 of 3 points of a.ply are not finite and are left out"]
    rows["x"] = np.inf
    with pytest.raises(UserError, match="no points at finite places"):
        read_points(write_binary(tmp_path / "b.ply", rows))


def test_what_is_no_points_file(tmp_path):
    (tmp_path / "a.ply").write_text("solid")
    with pytest.raises(UserError, match="is not a PLY file"):
        read_points(tmp_path / "a.ply")
    with pytest.raises(UserError, match="cannot read"):
        read_points(tmp_path / "b.ply")
    (tmp_path / "c.ply").write_bytes(
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"
    )
    with pytest.raises(UserError, match="has no x, y, z"):
        read_points(tmp_path / "c.ply")
