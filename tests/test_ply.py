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
from gsplat_train.model.splats import Splats


def splats(n: int = 5, degree: int = 3, antialiased: bool = False) -> Splats:
    rng = np.random.default_rng(0)
    shapes = {
        "means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "logit_opacities": (n,), "sh0": (n, 1, 3),
        "shN": (n, (degree + 1) ** 2 - 1, 3),
    }  # fmt: skip
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return Splats(arrays, antialiased)


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
    before = splats(degree=degree, antialiased=antialiased)
    ply.write(tmp_path / "a.ply", before)
    after = ply.read(tmp_path / "a.ply")
    assert after.antialiased == antialiased
    for name, array in before.arrays.items():
        assert after.arrays[name].shape == array.shape and (after.arrays[name] == array).all(), name
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("n", [1, 4, 6, 7])
def test_many_splats_are_written_in_blocks(n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ply.write(tmp_path / "a.ply", splats(n))
    monkeypatch.setattr(ply, "BLOCK", 3)
    ply.write(tmp_path / "b.ply", splats(n))
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert (ply.read(tmp_path / "b.ply").arrays["shN"] == splats(n).arrays["shN"]).all()


def test_another_reader_finds_the_names_and_the_order_of_the_colours(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(antialiased=True))
    written = splats().arrays
    file = plyfile.PlyData.read(tmp_path / "a.ply")
    assert (
        file.byte_order == "<"
        and not file.text
        and file.comments == ["antialiased 1", "SplatRenderMode: mip"]
    )
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
    ply.write(tmp_path / "a.ply", splats(degree=1))
    columns = vertices(tmp_path / "a.ply")
    columns["x"] = columns["x"].astype("f8")
    shuffled = ["red", *np.random.default_rng(2).permutation(list(columns))]
    write_vertices(tmp_path / "b.ply", shuffled, columns, **options)
    again = ply.read(tmp_path / "b.ply")
    for name, array in splats(degree=1).arrays.items():
        assert again.arrays[name] == pytest.approx(array, rel=1e-5), name


def test_normals_and_f_rest_may_be_absent(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats())
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
    ply.write(tmp_path / "a.ply", splats())
    columns = vertices(tmp_path / "a.ply")
    write_vertices(tmp_path / "b.ply", [name for name in columns if name != missing], columns)
    with pytest.raises(UserError, match=message):
        ply.read(tmp_path / "b.ply")


def changed(folder: Path, name: str, value: float, rows: list[int], n: int = 5) -> Path:
    """A PLY of `n` splats with `value` in some rows of a column, as a double."""
    ply.write(folder / "a.ply", splats(n))
    columns = vertices(folder / "a.ply")
    columns[name] = columns[name].astype("f8")
    columns[name][rows] = value
    write_vertices(folder / "b.ply", list(columns), columns)
    return folder / "b.ply"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["x", "f_rest_3", "rot_2"])
def test_splats_with_a_value_that_is_not_finite_are_left_out(value: float, name: str, tmp_path: Path) -> None:
    read = ply.read(changed(tmp_path, name, value, [1, 3]))
    assert (read.arrays["sh0"] == splats().arrays["sh0"][[0, 2, 4]]).all() and read.n == 3
    assert len(read.notes) == 1 and "2 of 5 splats, with values that are not finite" in read.notes[0]
    with pytest.raises(UserError, match="no splat whose values are all finite"):
        ply.read(changed(tmp_path, name, value, [0, 1, 2, 3, 4]))


@pytest.mark.parametrize(
    ("name", "value", "array", "clamped"),
    [
        ("opacity", np.inf, "logit_opacities", 16),
        ("opacity", -np.inf, "logit_opacities", -16),
        ("scale_1", -np.inf, "log_scales", -20),
    ],
)
def test_one_infinite_logit_is_clamped(
    name: str, value: float, array: str, clamped: float, tmp_path: Path
) -> None:
    read = ply.read(changed(tmp_path, name, value, [2]))
    expected = splats().arrays[array]
    expected[(2, 1) if array == "log_scales" else 2] = clamped
    assert (read.arrays[array] == expected).all()
    assert len(read.notes) == 1 and "1" in read.notes[0] and "clamped" in read.notes[0]


@pytest.mark.parametrize(
    ("comments", "antialiased"),
    [
        ([], False),
        (["antialiased 1"], True),
        (["SplatRenderMode: mip"], True),
        (["splatrendermode: MIP"], True),
        (["SplatRenderMode: default"], False),
        (["antialiased 1", "SplatRenderMode: default"], False),
        (["SplatRenderMode: mip", "antialiased 0"], False),
        (["antialiased 0", "SplatRenderMode: mip"], True),
        (["made by antialiased 1"], False),
    ],
)
def test_both_spellings_of_the_mode_are_read_and_the_last_wins(
    comments: list[str], antialiased: bool, tmp_path: Path
) -> None:
    ply.write(tmp_path / "a.ply", splats())
    columns = vertices(tmp_path / "a.ply")
    write_vertices(tmp_path / "b.ply", list(columns), columns, comments=comments)
    assert ply.read(tmp_path / "b.ply").antialiased == antialiased


def test_up_is_kept_and_read_from_three_numbers_only(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats()._replace(up=(0.0, -0.6, 0.8)))
    assert ply.read(tmp_path / "a.ply").up == pytest.approx((0.0, -0.6, 0.8))
    columns = vertices(tmp_path / "a.ply")
    for comment in ("Vertical Axis: z", "Vertical axis: 0 0 0", "Vertical axis: a b c"):
        write_vertices(tmp_path / "b.ply", list(columns), columns, comments=[comment])
        assert ply.read(tmp_path / "b.ply").up is None


def test_harmonics_of_degree_four_are_cut_with_a_word(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats(degree=4))
    read = ply.read(tmp_path / "a.ply")
    assert (read.arrays["shN"] == splats(degree=4).arrays["shN"][:, :15]).all()
    assert len(read.notes) == 1 and "degree 4" in read.notes[0]


def test_a_comment_in_any_characters_is_no_reason_to_refuse_a_file(tmp_path: Path) -> None:
    ply.write(tmp_path / "a.ply", splats())
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(content.replace(b"comment", b"comment J\xfcrgen\ncomment", 1))
    assert ply.read(tmp_path / "a.ply").n == 5


def test_impossible_values_are_told(tmp_path: Path) -> None:
    fine = splats(200)
    fine.arrays["log_scales"] -= 3
    arrays = fine.arrays
    cases = {
        None: {},
        "exponentiated already": {"log_scales": np.exp(arrays["log_scales"])},
        "1 splat is larger than the scene": {
            "log_scales": np.where(np.arange(200)[:, None] == 7, np.float32(9), arrays["log_scales"])
        },
        "activated already": {"logit_opacities": 1 / (1 + np.exp(-arrays["logit_opacities"]))},
    }
    for message, change in cases.items():
        ply.write(tmp_path / "a.ply", fine._replace(arrays={**arrays, **change}))
        notes = ply.read(tmp_path / "a.ply").notes
        assert len(notes) == (message is not None), notes
        assert message is None or message in notes[0]


def test_scales_exponentiated_twice_are_told_beside_a_far_sky(tmp_path: Path) -> None:
    """A scene's extent may be that of its sky: what counts is how near splats are to one another."""
    rng = np.random.default_rng(0)
    near, far = rng.uniform(-1, 1, (1800, 3)), rng.normal(size=(200, 3))
    far *= 60 / np.linalg.norm(far, axis=1, keepdims=True)
    scene = splats(2000)
    scene.arrays["means"] = np.concatenate([near, far]).astype(np.float32)
    scales = np.where(np.arange(2000)[:, None] < 1800, -2.5, 1.5) + rng.normal(0, 0.3, (2000, 3))
    for factor, expected in ((1, 0), (100, 0)):  # large units are no fault
        ply.write(
            tmp_path / "a.ply",
            scene._replace(
                arrays={
                    **scene.arrays,
                    "means": scene.arrays["means"] * factor,
                    "log_scales": (scales + np.log(factor)).astype(np.float32),
                }
            ),
        )
        assert len(ply.read(tmp_path / "a.ply").notes) == expected
    twice = {**scene.arrays, "log_scales": np.exp(scales).astype(np.float32)}
    ply.write(tmp_path / "a.ply", scene._replace(arrays=twice))
    assert "exponentiated already" in ply.read(tmp_path / "a.ply").notes[0]


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
    ply.write(tmp_path / "a.ply", splats(100))
    content = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match="truncated"):
        ply.read(tmp_path / "a.ply")


def test_no_splats_missing_file_and_folder(tmp_path: Path) -> None:
    ply.write(tmp_path / "none.ply", splats(0))
    for path, message in (
        ("none.ply", "has no splats"),
        ("absent.ply", "No such file"),
        (".", "Is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            ply.read(tmp_path / path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ply.write(tmp_path / "a.ply", splats())
    before = (tmp_path / "a.ply").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        ply.write(tmp_path / "a.ply", splats(9))
    assert (tmp_path / "a.ply").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
