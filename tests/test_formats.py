# SPDX-License-Identifier: Apache-2.0
"""Every format of the registry: written and read again within its precision, whole or not at all, and no broken
file is more than one line.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import splats as made
import zstandard
from PIL import Image

from gsplat_train import registry
from gsplat_train.errors import UserError
from gsplat_train.model import frame
from gsplat_train.model.formats import (
    compressed_ply,
    ending_of,
    format_of,
    glb,
    gltf_nodes,
    packing,
    sog,
    spz,
    spz_blocks,
)  # fmt: skip
from gsplat_train.model.formats.axes import flipped
from gsplat_train.model.formats.codebook import codebook, nearest_levels, palette
from gsplat_train.model.splats import Splats

# What may be lost: positions (of a box of 8 units), log scales, opacities, radians, f_dc, harmonics.
HALF_BYTE = 0.5 / 255 + 1e-4
SPZ = made.Distance(2e-6, 1 / 32 + 1e-3, HALF_BYTE, 5e-3, 0.5 / 255 / 0.15 + 1e-3, 2.5 / 128)
PRECISION = {
    ".ply": made.Distance(0, 0, 0, 1e-3, 0, 0),
    ".compressed.ply": made.Distance(8 / 1023, 8 / 1023, HALF_BYTE, 5e-3, 0.02, 1 / 32 + 1e-3),
    ".splat": made.Distance(0, 1e-6, HALF_BYTE, 0.03, 0.5 / 255 / 0.28 + 1e-3, np.nan),
    ".spz": SPZ,
    ".glb": made.Distance(0, 1e-6, 1e-6, 1e-3, 0, 0),
    ".html": SPZ,
    ".sog": made.Distance(3e-4, 0.1, HALF_BYTE, 0.02, 0.05, 0.08),
}
COLOURLESS = {".splat"}  # no harmonics
FLAGLESS = {".splat"}  # no word on antialiasing
SH0_LIMIT = {".splat": 0.5 / 0.2821, ".spz": 3.3, ".html": 3.3}  # beyond it, colours are cut


@pytest.fixture(params=sorted(registry.FORMATS))
def ending(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_format_states_its_precision() -> None:
    assert set(PRECISION) == set(registry.FORMATS)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_round_trip(ending: str, degree: int, antialiased: bool, tmp_path: Path) -> None:
    before = made.random_splats(700, degree, antialiased)
    path = tmp_path / f"a{ending}"
    format_of(path).write(path, before)
    after = format_of(path).read(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert after.antialiased == (antialiased and ending not in FLAGLESS) and not after.notes
    found = made.distance(before, after, SH0_LIMIT.get(ending, np.inf))
    for name, limit in PRECISION[ending]._asdict().items():
        if name == "shN" and ending in COLOURLESS:
            assert after.sh_degree == 0
            continue
        assert getattr(found, name) <= limit, (name, found)


def test_one_splat_and_two_alike(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    one = made.random_splats(1)
    twice = one.take(np.array([0, 0]))
    for splats in (one, twice):
        format_of(path).write(path, splats)
        after = format_of(path).read(path)
        assert after.n == splats.n
        assert after.arrays["means"] == pytest.approx(splats.arrays["means"], abs=1e-3)


def test_extreme_values_are_clipped_not_wrapped(ending: str, tmp_path: Path) -> None:
    splats = made.random_splats(300)
    arrays = {name: array.copy() for name, array in splats.arrays.items()}
    arrays["means"][:3] = [[900, 0, 0], [-900, 900, 0], [0, 0, -900]]
    arrays["log_scales"][:2] = [[-30] * 3, [12, 12, 12]]
    arrays["logit_opacities"][:2] = [60, -60]
    arrays["sh0"][:2, 0] = [[9, -9, 0], [-9, 9, 30]]
    arrays["shN"][:2] = 5
    arrays["quats"][:2] = [[0, 0, 0, 0], [0, 0, 0, -7]]
    path = tmp_path / f"a{ending}"
    format_of(path).write(path, splats._replace(arrays=arrays))
    after = format_of(path).read(path)
    squares = ((arrays["means"][:, None] - after.arrays["means"][None]) ** 2).sum(axis=2)
    pair = squares.argmin(axis=1)
    assert squares.min(axis=1).max() < 1, "a position wrapped"
    scales, logits, sh0 = (after.arrays[n][pair] for n in ("log_scales", "logit_opacities", "sh0"))
    assert scales[0].max() < -9 and scales[1].min() > 5
    assert logits[0] > 5 and logits[1] < -5
    assert (np.sign(sh0[0, 0, :2]) == [1, -1]).all() and (np.sign(sh0[1, 0]) == [-1, 1, 1]).all()
    if ending not in COLOURLESS:
        assert after.arrays["shN"][pair][:2].min() > 0.5


@pytest.mark.parametrize("keep", [0, 1, 30, 0.3, 0.9, 0.999])
def test_every_truncation_is_one_line(ending: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    format_of(path).write(path, made.random_splats(100))
    content = path.read_bytes()
    size = keep if isinstance(keep, int) else int(keep * len(content))
    if ending == ".splat":
        size += size % 32 == 0
    path.write_bytes(content[:size])
    with pytest.raises(UserError) as caught:
        format_of(path).read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_changed_bytes_are_read_or_one_line(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    format_of(path).write(path, made.random_splats(40, 1))
    content = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(60):
        broken = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            format_of(path).read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_a_hilbert_curve_goes_from_neighbour_to_neighbour() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(8)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    steps = np.diff(grid[np.argsort(packing._hilbert(grid))], axis=0)
    assert (np.abs(steps).sum(axis=1) == 1).all()


@pytest.mark.parametrize("degrees", [(0, 0, 0), (30, 50, 10), (75, 20, 140)])
def test_splats_far_out_do_not_make_others_coarse(degrees: tuple, tmp_path: Path) -> None:
    """A chunk with one far splat in it has steps of metres: only the one chunk that holds near and far ones may."""
    rng = np.random.default_rng(1)
    near, far = rng.uniform(-1, 1, (10_000, 3)), rng.normal(size=(60, 3))
    far *= (10 ** rng.uniform(1, 4, (60, 1))) / np.linalg.norm(far, axis=1, keepdims=True)
    splats = made.random_splats(10_060, 0)
    means = np.concatenate([near, far])[rng.permutation(10_060)] @ frame.euler(degrees).T
    splats.arrays["means"] = means.astype(np.float32)
    compressed_ply.write(tmp_path / "a.compressed.ply", splats)
    read = compressed_ply.read(tmp_path / "a.compressed.ply").arrays["means"]
    expected = splats.arrays["means"][packing.tight_order(splats.arrays["means"])]
    coarse = (np.abs(read - expected).max(axis=1) > 1e-3) & (np.linalg.norm(expected, axis=1) < 2)
    assert coarse.sum() <= compressed_ply.CHUNK
    assert sorted(packing.tight_order(expected)) == list(range(10_060))
    far = 1e20 * np.random.default_rng(0).normal(size=(50, 3)).astype(
        np.float32
    )  # whose squares leave float32
    assert sorted(packing.tight_order(far)) == list(range(50))


def test_the_ending_chooses_the_format_and_an_unknown_one_lists_them() -> None:
    assert ending_of(Path("a.COMPRESSED.PLY")) == ".compressed.ply" and ending_of(Path("a.b.ply")) == ".ply"
    with pytest.raises(UserError, match=r"\.spz"):
        format_of(Path("a.obj"))


@pytest.mark.parametrize(
    ("sound", "odd", "named"),
    [
        ("uchar f_rest_3\n", "uint f_rest_3\n", "f_rest_3"),
        ("uint packed_scale", "float packed_scale", "packed_scale"),
    ],
)
def test_a_compressed_ply_whose_numbers_are_of_other_types_is_damaged(
    sound: str, odd: str, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.compressed.ply"
    format_of(path).write(path, made.random_splats(40, degree=1))
    before = path.read_bytes()
    path.write_bytes(before.replace(sound.encode(), odd.encode()))
    assert path.read_bytes() != before
    with pytest.raises(UserError, match=f"damaged: {named} "):
        format_of(path).read(path)


def test_a_compressed_ply_is_read_by_any_name_of_a_ply(tmp_path: Path) -> None:
    splats = made.random_splats(300)
    format_of(tmp_path / "a.compressed.ply").write(tmp_path / "a.ply", splats)
    assert format_of(tmp_path / "a.ply").read(tmp_path / "a.ply").n == 300
    format_of(tmp_path / "a.ply").write(tmp_path / "b.compressed.ply", splats)
    with pytest.raises(UserError, match="no compressed PLY"):
        format_of(tmp_path / "b.compressed.ply").read(tmp_path / "b.compressed.ply")


# ---- SPZ ----


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_spz_4_holds_what_spz_3_holds(degree: int, tmp_path: Path) -> None:
    splats = made.random_splats(500, degree)
    for version in (3, 4):
        spz.write(tmp_path / f"{version}.spz", splats, version=version)
    assert (tmp_path / "4.spz").read_bytes()[:4] == b"NGSP"
    a, b = (spz.read(tmp_path / f"{version}.spz") for version in (3, 4))
    assert all((a.arrays[name] == b.arrays[name]).all() for name in a.arrays) and a.antialiased is True


def old_spz(splats: Splats, version: int) -> bytes:
    """An SPZ of version 1 (float16 positions) or 2 (three bytes a rotation), by hand."""
    arrays = splats.arrays
    blocks = spz_blocks.encode(arrays, 12)
    if version == 1:
        blocks[0] = arrays["means"].astype("<f2").tobytes()
    quats = arrays["quats"] / np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
    quats *= np.where(quats[:, :1] < 0, -1, 1)
    blocks[4] = np.rint(quats[:, 1:] * 127.5 + 127.5).astype(np.uint8).tobytes()
    header = struct.pack("<IIIBBBB", 0x5053474E, version, splats.n, splats.sh_degree, 12, 0, 0)
    packer = zlib.compressobj(wbits=31)
    return packer.compress(header + b"".join(blocks)) + packer.flush()


@pytest.mark.parametrize("version", [1, 2])
def test_old_versions_of_spz_are_read(version: int, tmp_path: Path) -> None:
    splats = made.random_splats(300)
    (tmp_path / "a.spz").write_bytes(old_spz(splats, version))
    found = made.distance(splats, spz.read(tmp_path / "a.spz"), 3.3)
    assert found.means < 0.003 and found.rotations < 0.2 and found.shN < 0.04 and found.opacities < 0.003


def test_spz_of_degree_four_is_cut(tmp_path: Path) -> None:
    spz.write(tmp_path / "a.spz", made.random_splats(50, 4))
    read = spz.read(tmp_path / "a.spz")
    assert read.sh_degree == 3 and "degree 4" in read.notes[0]


def test_spz_in_the_axes_of_its_authors_says_so_in_version_4_only(tmp_path: Path) -> None:
    splats = made.random_splats(300)
    for version in (3, 4):
        spz.write(tmp_path / f"{version}.spz", splats, version=version, axes="rub")
    output, untold = spz.read(tmp_path / "4.spz"), spz.read(tmp_path / "3.spz")
    assert made.distance(splats, output, 3.3).means < 1e-5
    assert made.distance(flipped(splats, (1, -1, -1)), untold, 3.3).means < 1e-5


def test_spz_takes_the_finest_positions_that_fit(tmp_path: Path) -> None:
    means = np.array([[1e5, 0, 0], [0.25, 0, 0]], np.float32)
    assert spz_blocks.fractional_bits(means) == 6 and spz_blocks.fractional_bits(means[1:]) == 20
    splats = made.random_splats(2)._replace(arrays={**made.random_splats(2).arrays, "means": means * 1e4})
    with pytest.raises(UserError, match="positions below"):
        spz.write(tmp_path / "a.spz", splats)
    assert not list(tmp_path.iterdir())


def test_hostile_counts_of_spz_allocate_nothing(tmp_path: Path) -> None:
    header = struct.pack("<IIIBBBB", 0x5053474E, 3, 2**32 - 1, 3, 12, 0, 0)
    packer = zlib.compressobj(wbits=31)
    (tmp_path / "a.spz").write_bytes(packer.compress(header + bytes(10**6)) + packer.flush())
    with pytest.raises(UserError, match="truncated"):
        spz.read(tmp_path / "a.spz")
    size = 9 * (2**32 - 1)
    frame = zstandard.ZstdCompressor().compress(bytes(100))
    header = struct.pack("<IIIBBBBI", 0x5053474E, 4, 2**32 - 1, 0, 12, 0, 5, 32) + bytes(12)
    table = struct.pack("<QQ", len(frame), size) * 5
    (tmp_path / "b.spz").write_bytes(header + table + frame * 5)
    with pytest.raises(UserError, match="truncated"):
        spz.read(tmp_path / "b.spz")


# ---- glTF ----


def test_a_node_of_gltf_turns_scales_and_moves_its_splats(tmp_path: Path) -> None:
    splats, path = made.random_splats(300), tmp_path / "a.glb"
    glb.write(path, splats)
    document, binary = gltf_nodes.split(path.read_bytes())
    turn = frame.euler((0.0, 0.0, 180.0))  # LUF and RDF differ by this: the same in both
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [0, 0, 1, 0], "scale": [2, 2, 2]},
    ]
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x4E4942) + binary
    )
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    expected = frame.moved(splats, turn, 2.0, np.array([-1, -2, 3]))
    found = made.distance(expected, glb.read(path))
    assert found.means < 1e-5 and found.shN < 1e-5 and found.rotations < 2e-3 and found.log_scales < 1e-5
    document["nodes"][1]["scale"] = [1, 2, 1]
    with pytest.raises(ValueError, match="stretches"):
        gltf_nodes.splats(document, binary, glb.EXTENSION)


# ---- SOG ----


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def test_sog_version_1_is_read(tmp_path: Path) -> None:
    n, rng = 16, np.random.default_rng(0)
    size = (4, 4, 4)
    textures = {
        name: rng.integers(0, 256, size, np.uint8)
        for name in ("means_l", "means_u", "scales", "quats", "sh0")
    }
    textures["quats"][..., 3] = 253
    textures["quats"][..., :3] = 128
    textures["shN_centroids"] = rng.integers(0, 256, (1, 192, 4), np.uint8)
    textures["shN_labels"] = np.zeros(size, np.uint8)
    textures["shN_labels"][..., 0] = np.arange(16).reshape(4, 4)
    meta = {
        "means": {"shape": [n, 3], "mins": [-1, -1, -1], "maxs": [1, 1, 1], "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"mins": [-6, -6, -6], "maxs": [-1, -1, -1], "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"mins": [-1, -1, -1, -4], "maxs": [1, 1, 1, 6], "files": ["sh0.webp"]},
        "shN": {"mins": -0.5, "maxs": 0.5, "files": ["shN_centroids.webp", "shN_labels.webp"]},
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        for name, pixels in textures.items():
            archive.writestr(f"{name}.webp", webp(pixels))
        archive.writestr("meta.json", json.dumps(meta))
    arrays = sog.read(tmp_path / "a.sog").arrays
    flat = {name: pixels.reshape(-1, 4) for name, pixels in textures.items()}
    steps = flat["means_l"][5, :3].astype(float) + 256.0 * flat["means_u"][5, :3]
    logs = -1 + 2 * steps / 65535
    assert arrays["means"][5] == pytest.approx(np.sign(logs) * (np.exp(np.abs(logs)) - 1), abs=1e-6)
    assert arrays["log_scales"][5] == pytest.approx(-6 + flat["scales"][5, :3] / 255 * 5)
    assert arrays["logit_opacities"][5] == pytest.approx(-4 + flat["sh0"][5, 3] / 255 * 10)
    assert arrays["shN"][5] == pytest.approx(flat["shN_centroids"][15:18, :3] / 255 - 0.5, abs=1e-6)
    assert arrays["quats"][5] == pytest.approx([0, 1, 0, 0], abs=0.01)  # the second is the largest


def test_a_palette_with_fewer_entries_than_vectors_errs_less_than_random_ones() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((40, 9))[rng.integers(0, 40, 3000)]).astype(np.float32)
    vectors += rng.normal(0, 0.01, vectors.shape).astype(np.float32)
    entries, labels = palette(vectors, 1024, np.ones(3000, np.float32))
    assert entries.shape[1] == 9 and len(entries) <= 1024 and labels.max() < len(entries)
    assert np.abs(entries[labels] - vectors).max() < 0.05
    again = palette(vectors, 1024, np.ones(3000, np.float32))
    assert (again[0] == entries).all() and (again[1] == labels).all()


def test_a_codebook_is_finer_than_even_steps_where_the_values_are() -> None:
    values = np.random.default_rng(0).standard_normal(20000).astype(np.float32) ** 3
    levels = codebook(values)
    even = np.linspace(values.min(), values.max(), 256).astype(np.float32)
    error = [np.square(book[nearest_levels(book, values)] - values).mean() for book in (levels, even)]
    assert error[0] < error[1] / 5
    assert (codebook(np.full(9, 2.5, np.float32)) == 2.5).all()


@pytest.mark.parametrize("content", [b"", b"PK nothing", b"glTF"])
@pytest.mark.parametrize("end", [".sog", ".glb", ".splat"])
def test_what_is_wrong_is_told_without_python(end: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"model{end}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        format_of(path).read(path)
    assert not re.search(r"Error\(|BadZipFile|struct\.", str(error.value))
    if not content and end == ".splat":
        assert "it is empty" in str(error.value)
