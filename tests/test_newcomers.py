# SPDX-License-Identifier: Apache-2.0
"""What CONTRIBUTING.md promises a newcomer: each of these is one module and its line in registry.py, nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny

import gsplat_train
from gsplat_train import config, registry
from gsplat_train.model.gaussians import Gaussians
from gsplat_train.model.io import load_model
from gsplat_train.scene import Camera, Photo, Scene, View
from gsplat_train.settings import choice, number
from gsplat_train.training.plan import Statistics


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a module of the given names and enters it into a table of the registry."""

    def enter(table: str, name: str, **contents: Any) -> None:
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(getattr(registry, table), name, module)

    return enter


def test_a_scene_format(add: Callable[..., None], tmp_path: Path) -> None:
    scene = tiny.scene()
    np.savez(
        tmp_path / "toy.npz",
        K=scene.views[0].camera.K,
        viewmats=np.stack([view.camera.viewmat for view in scene.views]),
        images=np.stack([view.pixels.image for view in scene.views]),
        points=scene.points,
        colors=scene.colors,
    )

    def load(root: Path, options: Any) -> Scene:
        data = np.load(root / "toy.npz")
        pairs = zip(data["viewmats"], data["images"], strict=True)
        views = [View(f"{i}", Camera(m, data["K"], 48, 36), Photo(p)) for i, (m, p) in enumerate(pairs)]
        return Scene("toy", tuple(views), data["points"], data["colors"])

    def recognise(root: Path) -> bool:
        return (root / "toy.npz").is_file()

    add("READERS", "toy", recognise=recognise, LOOKED_FOR="toy.npz", load=load)
    assert len(gsplat_train.open_scene(tmp_path).views) == 9


def test_a_splat_format(add: Callable[..., None], tmp_path: Path) -> None:
    from gsplat_train.model.formats import format_of
    from gsplat_train.model.io import to_splats
    from gsplat_train.model.splats import Splats

    def write(path: Path, splats: Splats, **options: Any) -> None:
        np.savez(path, antialiased=splats.antialiased, **splats.arrays)

    def read(path: Path) -> Splats:
        data = dict(np.load(path))
        return Splats(antialiased=bool(data.pop("antialiased")), arrays=data)

    add("FORMATS", ".npz", write=write, read=read)
    gaussians = tiny.random_gaussians(5)
    format_of(tmp_path / "a.npz").write(tmp_path / "a.npz", to_splats(gaussians, True))
    assert mx.array_equal(load_model(tmp_path / "a.npz").means, gaussians.means)


def test_a_loss_term(add: Callable[..., None]) -> None:
    @dataclass(frozen=True)
    class Settings:
        weight: float = number(0.0, 0.0)

    def term(seen: Any) -> mx.array:
        shown = (seen.out.projected.radii[:, 0] > 0).astype(mx.float32)
        return (seen.out.projected.depths * shown).mean()

    add("TERMS", "depth", Settings=Settings, term=term)
    plain = gsplat_train.train(tiny.scene(), tiny.settings(steps=3))
    pulled = gsplat_train.train(tiny.scene(), tiny.settings(steps=3), **{"depth.weight": 10.0})
    assert np.abs(np.asarray(plain.gaussians.means) - np.asarray(pulled.gaussians.means)).max() > 1e-4


def test_a_group_of_parameters(add: Callable[..., None]) -> None:
    @dataclass(frozen=True)
    class Settings:
        mode: str = choice("off", "on")

        def rate_at(self, step: int, horizon: int) -> float:
            return 1e-3

    def image(row: mx.array, image: mx.array, mode: str) -> mx.array:
        return image * mx.exp(row)

    add(
        "GROUPS",
        "tint",
        Settings=Settings,
        WIDTH=1,
        START=(0.0,),
        image=image,
        settle=lambda values, mode: values,
    )
    result = gsplat_train.train(tiny.scene(), tiny.settings(steps=3), tint="on")
    assert result.metrics["steps"] == 3


def test_a_strategy(add: Callable[..., None], tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Settings:
        every: int = number(2, 1)

    class Strategy:
        statistics = Statistics.NONE

        def __init__(self, config: Any) -> None:
            self.every = config.own.every

        def weights(self, number: int) -> tuple[float, float]:
            return 0.0, 0.0

        def noise(self, number: int, rate: float) -> float:
            return 0.0

        def due(self, step: int) -> bool:
            return step % self.every == 0

        def refine(self, population: Any, *arguments: Any) -> dict[str, int]:
            return {"seen": population.n}

    add("STRATEGIES", "still", Settings=Settings, BRINGS={}, Strategy=Strategy)
    settings = config.load([{"backend": tiny.BACKEND, "steps": 6}], {"strategy": "still", "every": "3"})
    result = gsplat_train.train(tiny.scene(), settings, out=tmp_path / "run")
    assert result.metrics["n_splats"] == 300
    assert "[still]\nevery = 3" in (tmp_path / "run" / "config.toml").read_text()


def test_a_backend(add: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    from gsplat_train.backends import python

    monkeypatch.setitem(registry.NEEDS, "mine", "nothing")
    stages = (
        "project",
        "isect_tiles",
        "rasterize",
        "photometric_loss",
        "score",
        "show",
        "adam",
        "deterministic",
        "FUSED_GROUPS",
        "stepper",
    )
    add("BACKENDS", "mine", **{name: getattr(python, name) for name in stages})
    result = gsplat_train.train(tiny.scene(), tiny.settings(steps=2, backend="python"))
    again = gsplat_train.render(Gaussians(*result.gaussians), tiny.scene().views[0].camera, backend="mine")
    assert np.isfinite(np.asarray(again.image)).all()
