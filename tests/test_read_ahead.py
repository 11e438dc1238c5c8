# SPDX-License-Identifier: Apache-2.0
"""Photos read ahead of training: the same bytes as from memory, threads that keep up, faults in their turn."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import tiny

from gsplat_train import load_scene, train
from gsplat_train.datasets import cache
from gsplat_train.datasets.demo import write_demo
from gsplat_train.datasets.photo_store import StoredPhoto
from gsplat_train.errors import UserError
from gsplat_train.scene import Photo, View
from gsplat_train.training.photos import ViewSampler
from gsplat_train.training.read_ahead import ReadAhead
from gsplat_train.training.trainer import Trainer


class Slow:
    """A photo that takes a while."""

    def __init__(self, photo: Photo, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.photo, self.seconds, self.error, self.decoded = photo, seconds, error, 0

    def decode(self) -> Photo:
        self.decoded += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return self.photo


def slow_views(seconds: float = 0.0) -> list[View]:
    return [replace(view, photo=Slow(view.pixels, seconds)) for view in tiny.scene().views]


def hash_of(scene, **changes) -> list[bytes]:
    gaussians = train(scene, tiny.settings(**changes)).gaussians
    return [np.asarray(leaf).tobytes() for leaf in gaussians]


@pytest.mark.parametrize(
    "changes", [{}, {"downscales": 2, "downscale_every": 9}, {"backend": "python", "steps": 12}]
)
def test_a_scene_larger_than_memory_trains_to_the_same_bytes(tmp_path, monkeypatch, changes):
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    write_demo(tmp_path / "scene", tiny.scene())
    expected = hash_of(load_scene(tmp_path / "scene"), **changes)
    paged = load_scene(tmp_path / "scene", memory=1000)
    assert isinstance(paged.views[0].photo, StoredPhoto)
    assert hash_of(paged, **changes) == expected
    left = load_scene(tmp_path / "scene", memory=1000, cache=False)
    assert hash_of(left, **changes) == expected
    cache.clear()
    assert threading.active_count() < 10, "threads end with the run"


def test_views_come_in_the_samplers_order_and_hardly_wait():
    views = slow_views(0.005)
    sampler = ViewSampler(views, 3)
    ahead = ReadAhead(sampler, 60, lambda key: False, 12)
    begun = time.perf_counter()
    for step in range(60):
        view = ahead.at(step)
        assert view.key == sampler.at(step).key
        assert view.pixels is views[view.index].photo.photo
        time.sleep(0.006)
    seconds = time.perf_counter() - begun
    ahead.close()
    assert ahead.waited < 0.25 * seconds  # the first photo, and what a busy machine adds
    assert sum(view.photo.decoded for view in views) == 60, "nothing twice, nothing beyond the end"


def test_photos_on_the_device_are_not_read():
    views = slow_views()
    ahead = ReadAhead(ViewSampler(views, 0), 27, lambda key: key[0] % 2 == 0, 12)
    for step in range(27):
        view = ahead.at(step)
        if view.index % 2:
            view.pixels  # noqa: B018
    ahead.close()
    assert [view.photo.decoded for view in views] == [0 if i % 2 == 0 else 3 for i in range(9)]


def test_a_fault_comes_in_its_turn_and_a_jump_is_followed():
    views = slow_views()
    sampler = ViewSampler(views, 0)
    views[sampler.at(4).index].photo.error = UserError("gone")
    ahead = ReadAhead(sampler, 100, lambda key: False, 12)
    for step in range(4):
        ahead.at(step).pixels  # noqa: B018
    with pytest.raises(UserError, match="gone"):
        ahead.at(4).pixels  # noqa: B018
    later = next(step for step in range(50, 99) if sampler.at(step).key != sampler.at(4).key)
    view = ahead.at(later)
    assert view.key == sampler.at(later).key
    assert view.pixels is view.pixels, "asked for again it is decoded again"
    ahead.close()


def test_photos_in_memory_need_no_threads():
    assert Trainer(tiny.settings(), tiny.scene()).ahead is None
