# SPDX-License-Identifier: Apache-2.0
"""Hostile files: whatever is in them, a reader returns or says one line, soon, in little memory, and reads no others.

hypothesis alters small sound files of every reader (hostile.py), the same ones each time; scripts/fuzz.py many more.
Below stand bombs and traps that chance does not find.
"""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_scenes
import hostile
import numpy as np
import pytest
import splats
import zstandard
from PIL import Image

from gsplat_train import config as config_module
from gsplat_train.datasets import load_scene
from gsplat_train.datasets.decode import decode
from gsplat_train.errors import MOST, UserError
from gsplat_train.model import io as model_io
from gsplat_train.model.formats import spz
from gsplat_train.storage import parsed

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed: pip install hypothesis")
EACH = 60  # executions of each reader


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, hostile.Target]]:
    with hostile.prepared() as found:
        yield {target.name: target for target in found}


@pytest.mark.parametrize("name", [target.name for target in hostile.TARGETS])
def test_any_damage_is_one_line_or_a_result(name: str, targets: dict[str, hostile.Target]) -> None:
    watch = hostile.WATCH

    @hypothesis.settings(
        derandomize=True, max_examples=EACH, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(hypothesis.strategies.integers(0, 2**32))
    def run(seed: int) -> None:
        finding = hostile.execute(targets[name], seed, watch)
        assert finding is None, f"seed {seed}: {finding}"

    run()


def test_the_watch_sees_what_it_must(tmp_path: Path, targets: dict[str, hostile.Target]) -> None:
    """A reader that does what none may is found out."""
    (tmp_path / "elsewhere").write_text("secret")

    def bad(what: str) -> Any:
        def read(root: Path) -> Any:
            if what == "opened":
                return (tmp_path / "elsewhere").read_text()
            if what == "unpickled":
                return pickle.loads(pickle.dumps(Path("x")))
            if what == "more than 256 MB":
                return np.ones(400 << 20, np.uint8)
            if what == "warning":
                return np.float32(1e30) * np.ones(1, np.float32) * np.float32(1e30)
            raise ZeroDivisionError

        return read

    target = targets["model.splat"]
    for what in ("opened", "unpickled", "more than 256 MB", "warning", "ZeroDivisionError"):
        spy = hostile.Target(
            what, target.write, bad(what), target.altered, target.sound, target.home, target.victims
        )
        finding = hostile.execute(spy, 1, hostile.WATCH)
        assert finding is not None and finding.startswith(what), (what, finding)


# --- bombs


def in_little_memory(read: Any, match: str, memory: int = 200 << 20) -> None:
    with hostile.limits(10, memory), pytest.raises(UserError, match=match) as caught:
        read()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_picture_that_unpacks_to_gigabytes_is_refused(mode: str, tmp_path: Path) -> None:
    """A PNG of zeros: its header and a stream of zeros, no pixels in between."""
    width, height = 60_000, 60_000
    kind, bits = {"1": (0, 1), "L": (0, 8), "RGB": (2, 8)}[mode]

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = bytes(1 + width * bits * (3 if kind else 1) // 8)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(300)) + packer.flush()
    path = tmp_path / "bomb.png"
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    in_little_memory(lambda: decode(path), "60,000 x 60,000 pixels out of")


def test_a_mask_of_another_shape_is_not_decoded(tmp_path: Path) -> None:
    hostile.write_pictures(tmp_path)
    Image.new("L", (40, 400_000)).save(tmp_path / "masks" / "a.png.png")
    in_little_memory(lambda: hostile.scene(tmp_path), "is 40x400000, another shape", 64 << 20)


def test_whole_numbers_without_end_are_out_of_range() -> None:
    for value in (10**400, -(10**400)):
        with pytest.raises(UserError, match="lr_means must be"):
            config_module.check({"lr_means": value}, "a file")


def test_a_zip_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.sog"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("meta.json", "w") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    in_little_memory(lambda: model_io.open_model(path), "a bomb: it would unpack to 314,572,800 bytes")


def test_a_texture_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.sog"
    hostile.write_splats(".sog")(tmp_path)
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    picture = io.BytesIO()
    Image.new("L", (8000, 8000)).save(picture, "PNG", compress_level=9)
    name = next(name for name in members if name.startswith("quats"))
    with zipfile.ZipFile(path, "w") as new:
        for key, content in members.items():
            new.writestr(key, picture.getvalue()[:9000] if key == name else content)
    in_little_memory(lambda: model_io.open_model(path), "a bomb: 64,000,000 pixels")


def test_spz_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.spz"
    hostile.write_splats(".spz")(tmp_path)
    packed = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(packed + bytes(600 << 20), 1))
    with hostile.limits(10, 300 << 20):  # what follows the splats is not for this program
        try:
            model_io.open_model(path)
        except UserError as error:
            assert "\n" not in str(error)
    spz.write(path, splats.random_splats(64, degree=0), version=4)
    data = path.read_bytes()
    table = int.from_bytes(data[16:20], "little")
    assert data[table + 8 : table + 16] == (64 * 9).to_bytes(8, "little")
    frame = zstandard.compress(bytes(900 << 20))
    first = int.from_bytes(data[table : table + 8], "little")
    start = len(data) - _packed(data, table)
    head = data[:table] + len(frame).to_bytes(8, "little") + data[table + 8 : start]
    path.write_bytes(head + frame + data[start + first :])
    in_little_memory(lambda: model_io.open_model(path), "unpacked|damaged", 300 << 20)


def _packed(data: bytes, table: int) -> int:
    """Bytes of all streams of an SPZ 4, whose table of contents begins at `table`."""
    for count in range(1, 9):
        sizes = [int.from_bytes(data[table + 16 * i : table + 16 * i + 8], "little") for i in range(count)]
        if table + 16 * count + sum(sizes) == len(data):
            return sum(sizes)
    raise AssertionError("no table")


def test_xml_that_multiplies_itself_is_refused(tmp_path: Path) -> None:
    hostile.write_metashape(tmp_path)
    entities = (
        '<!ENTITY a "'
        + "x" * 1000
        + '">'
        + "".join(
            f'<!ENTITY {name} "{f"&{before};" * 20}">'
            for before, name in zip("abcdef", "bcdefg", strict=True)
        )
    )
    text = (tmp_path / "cameras.xml").read_text().replace("?>", f"?><!DOCTYPE d [{entities}]>", 1)
    (tmp_path / "cameras.xml").write_text(text.replace("Chunk 1", "&g;"))
    in_little_memory(lambda: load_scene(tmp_path, cache=False), "is no XML")


def test_xml_that_names_a_file_does_not_get_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret")
    root = tmp_path / "scene"
    hostile.write_metashape(root)
    outside = f'<!DOCTYPE d [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]>'
    text = (root / "cameras.xml").read_text().replace("?>", f"?>{outside}", 1).replace("Chunk 1", "&s;")
    (root / "cameras.xml").write_text(text)
    with pytest.raises(UserError, match="is no XML") as caught:
        load_scene(root, cache=False)
    assert "the secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_json_and_toml_nested_deeply(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parsed(text)
    (tmp_path / "transforms.json").write_text(text)
    in_little_memory(lambda: load_scene(tmp_path), "is not JSON")
    (tmp_path / "config.toml").write_text(f"a = {text.replace(':', '=')}")
    in_little_memory(lambda: config_module.read(tmp_path / "config.toml"), "is not a TOML file")


def test_no_array_of_objects_is_unpickled(tmp_path: Path) -> None:
    hostile.write_llff(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.array([{"a": Path("x")}], object), allow_pickle=True)
    hostile.WATCH.home, hostile.WATCH.seen = tmp_path.resolve(), []
    try:
        with pytest.raises(UserError):
            load_scene(tmp_path, cache=False)
    finally:
        hostile.WATCH.home = None
    assert not any("unpickled" in line for line in hostile.WATCH.seen)


# --- what lies outside, and what is said


@pytest.mark.parametrize("how", ["../elsewhere/{}", "{root}/../elsewhere/{}"])
def test_photos_outside_of_the_scene_are_read_where_it_names_them_and_that_is_said(
    how: str, tmp_path: Path
) -> None:
    root, demo = tmp_path / "scene", hostile.demo()
    foreign_scenes.write_photos(tmp_path / "elsewhere", demo.views)
    frames = foreign_scenes.frames(
        demo.views, path=lambda view: how.replace("{root}", str(root)).format(view.name)
    )
    foreign_scenes.write_json(root / "transforms.json", foreign_scenes.lens(demo.views[0].camera), frames)
    said: list[str] = []
    load_scene(root, cache=False, trust=True, log=said.append)
    assert any(line.startswith("warning: 4 photos lie outside of") for line in said), said


def test_a_message_is_one_line_of_a_bearable_length() -> None:
    error = UserError("a\x1b[31m\nb\r\n" + "x" * 5000 + "end")
    assert str(error).startswith("a [31m b x") and str(error).endswith("end") and len(str(error)) <= MOST
    assert str(UserError("sc\udcff is not there")) == "sc\udcff is not there"


def test_a_checkpoint_whose_shapes_do_not_fit_is_damaged(tmp_path: Path) -> None:
    hostile.write_run(tmp_path)
    path = sorted((tmp_path / "checkpoints").glob("*.json"))[-1]
    meta = json.loads(path.read_text())
    meta["similarity"]["centre"] = [0, 0, 0, 0]
    del meta["check"]
    path.write_text(json.dumps(meta | {"check": model_io.check_of(meta)}))
    with pytest.raises(UserError, match="is damaged"):
        model_io.open_model(path)
