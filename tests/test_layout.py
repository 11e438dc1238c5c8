# SPDX-License-Identifier: Apache-2.0
"""The architecture on disk: who may import whom, how long a file may be, its licence line."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gsplat_train"

# Data flows from top to bottom: a module imports only from modules above it. A package is its __init__.py.
ORDER = """
    errors storage machine registry settings lengths config effects scene
    model model.formats model.splats model.formats.ply_elements
    datasets.options datasets.names datasets.files datasets.advice datasets.colmap_places
    datasets.cache datasets.lenses datasets.undistort datasets.decode datasets.masks datasets.panorama
    datasets.file_photo datasets.blank datasets.photo_buffers datasets.photo_store datasets.images
    datasets.colmap_records datasets.agreement datasets.point_ply datasets.points datasets.conventions datasets.sweep
    datasets.colmap_binary datasets.colmap_text datasets.held_out datasets.colmap datasets.llff
    datasets.transforms_file datasets.transforms_paths datasets.transforms datasets.metashape datasets.realitycapture
    datasets.check
    datasets.demo_paints datasets.demo_world datasets.demo datasets
    datasets.survey datasets.check_picture
    model.sh model.quaternions model.neighbors model.gaussians model.initialize
    model.usable model.frame model.placing model.opening model.filters model.formats.packing model.formats.axes
    model.formats.compressed_ply model.formats.ply model.formats.splat
    model.formats.spz_blocks model.formats.spz model.formats.codebook model.formats.sog_textures
    model.formats.sog model.formats.gltf_nodes model.formats.glb model.formats.html
    model.sky model.tensors model.io
    losses evaluate evaluate.metrics evaluate.perceptual evaluate.corrected
    training training.draws training.background training.plan training.rows training.crew training.protocol
    backends backends.costs backends.kept backends.python_rasterize backends.python backends.cpp_planes
    backends.cpp_stepper backends.cpp
    backends.gpu backends.gpu.text backends.gpu.kernels backends.gpu.limits backends.gpu.engine
    backends.gpu.scoring backends.gpu.arrays backends.gpu.population backends.gpu.stepper backends.gpu.nvrtc
    backends.metal backends.cuda backends.verdict backends.probe
    renderer
    evaluate.pictures evaluate.floaters evaluate.measure evaluate.exported evaluate.frames evaluate.depth
    evaluate.video evaluate.paths evaluate.path_files
    training.groups training.brightness training.sky training.exposure training.poses training.objective training.alpha
    training.stepper
    training.scores training.refinement training.strategies training.strategies.none training.strategies.adc
    training.strategies.copies training.strategies.contribution training.strategies.mcmc
    training.strategies.igs
    training.checkpoint training.identity training.photos training.rehearsal training.read_ahead training.clock
    training.run_folder training.callbacks training.company training.memory_plan training.forecast training.alive
    training.evaluation
    training.trainer training.report training.run_costs training.trial training.budget training.api
    viewer viewer.studio viewer.server viewer.live
    doctor doctor.golden doctor.trials doctor.machine_facts doctor.examine
    partition partition.ownership partition.cut partition.write partition.merge
    prepare prepare.reporter prepare.metadata prepare.photos prepare.video prepare.pairs prepare.matching prepare.motion
    prepare.placing prepare.models prepare.worker
    prepare.process prepare.orient prepare.dense prepare.picture prepare.finish prepare.steps prepare.make
    cli cli.idle cli.which_scene cli.info cli.signals cli.progress cli.runs cli.devices cli.one_run cli.seeds
    cli.from_photos cli.write_demo
    cli.check cli.train cli.render_views
    cli.render_path cli.render
    cli.view
    cli.export_frame cli.export_scene cli.export cli.prepare
    cli.doctor cli.partition cli.merge __main__
""".split()  # noqa: SIM905

PLAIN = {"errors", "scene", "model", "settings", "config"}  # what everybody speaks: it couples nothing
MANY = {"training", "cli", "doctor"}  # what joins the parts may import more than five of them
LINES = 300
LONG = {  # longer, each with its reason
    "gsplat_train/config.py": "every setting, and how the layers of settings become one",
    "csrc/bindings.cpp": "every array is checked by name, one function a stage",
    "csrc/cpu/pipeline.cpp": "the stages of a step in their order, and sorting into tiles",
    "csrc/cpu/simd.h": "all intrinsics of four instruction sets, nowhere else",
    "gsplat_train/training/trainer.py": "the loop, and everything that can end it",
    "gsplat_train/cli/train.py": "every option of gs-train",
    "gsplat_train/backends/cpp.py": "every stage of a backend, and the fused step",
    "gsplat_train/backends/gpu/engine.py": "every stage of both GPUs",
    "gsplat_train/backends/gpu/kernels.py": "the table of all kernels",
    "gsplat_train/backends/gpu/stepper.py": "running ahead of the host, and its return",
}
TEST_LINES = 600


def modules() -> dict[str, Path]:
    """Every module of the package by its name below it, without the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


MODULES = modules()


def imports(name: str, path: Path, source: str) -> Iterator[tuple[str, bool, bool]]:
    """(module, is it needed at run time, does it stand in a function) of each import from this package."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(source)
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    local = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
        if child is not node
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "gsplat_train":
                base = []
            else:
                continue
            below = (node.module or "").removeprefix("gsplat_train").strip(".")
            prefix = ".".join([*base, *below.split(".")]).strip(".")
            for alias in node.names:
                whole = f"{prefix}.{alias.name}".strip(".")
                target = whole if whole in MODULES else prefix
                if target and target in MODULES:
                    yield target, id(node) not in typing_only, id(node) in local
        elif isinstance(node, ast.Import):
            assert not any(a.name.startswith("gsplat_train") for a in node.names), (
                f"{name}: import relatively"
            )


def test_every_module_has_its_place() -> None:
    assert sorted(ORDER) == sorted(MODULES), "ORDER in this file lists the modules from top to bottom"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_upward_only(name: str) -> None:
    source = MODULES[name].read_text("utf-8")
    for target, at_run_time, local in imports(name, MODULES[name], source):
        if not at_run_time:
            continue  # the name of a type, for those who read and for mypy
        if local and target.startswith(f"{name}."):
            continue  # a package's __init__ chooses among its members; they import it
        assert ORDER.index(target) < ORDER.index(name), (
            f"{name} must not import {target}, which stands below it"
        )


@pytest.mark.parametrize("name", sorted(MODULES))
def test_few_siblings(name: str) -> None:
    source = MODULES[name].read_text("utf-8")
    used = {target for target, at_run_time, _ in imports(name, MODULES[name], source) if at_run_time}
    siblings = {target.split(".")[0] for target in used} - PLAIN - {name.split(".")[0]}
    assert len(siblings) <= 5 or name.split(".")[0] in MANY, f"{name} imports {sorted(siblings)}"


def test_the_checks_above_see_what_they_must() -> None:
    path = PACKAGE / "renderer.py"
    found = [
        target
        for target, _, _ in imports("renderer", path, "from . import evaluate\nfrom .cli.train import x")
    ]
    assert found == ["evaluate", "cli.train"]
    inside = "def f():\n    from . import sh\nif TYPE_CHECKING:\n    from ..scene import View"
    found = list(imports("model", PACKAGE / "model" / "__init__.py", inside))
    assert sorted(found) == [("model.sh", True, True), ("scene", False, False)]


@pytest.mark.parametrize("name", ["errors", "config", "scene", "datasets", "model.formats.ply"])
def test_light_modules_do_not_load_mlx(name: str) -> None:
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        source = MODULES[current].read_text("utf-8")
        assert "import mlx" not in source, f"{name} loads MLX through {current}"
        waiting += [
            t
            for t, at_run_time, local in imports(current, MODULES[current], source)
            if at_run_time and not local
        ]


def sources(*folders: str) -> list[Path]:
    suffixes = {".py", ".h", ".cpp", ".metal"}
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes
    )


def test_files_are_short() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sources("gsplat_train", "csrc", "scripts")
    }
    assert len(lines) > 50
    long = {name: count for name, count in lines.items() if count > LINES and name not in LONG}
    assert not long, f"over {LINES} lines; split, or give the reason in LONG: {long}"
    tests = {path.name: len(path.read_text("utf-8").splitlines()) for path in sources("tests")}
    assert max(tests.values()) <= TEST_LINES, tests
    assert set(LONG) <= set(lines)


def test_every_file_names_its_licence() -> None:
    files = sources("gsplat_train", "csrc", "scripts", "tests")
    files += [path for path in (*(ROOT / ".ci").iterdir(), *(ROOT / "scripts").iterdir()) if path.is_file()]
    files += [ROOT / name for name in ("CMakeLists.txt", ".clang-format", ".github/workflows/ci.yml")]
    for path in files:
        head = path.read_text("utf-8").splitlines()[:2]
        named = any(line.lstrip("/# ") == "SPDX-License-Identifier: Apache-2.0" for line in head)
        assert named or not head, f"{path} must begin with its SPDX line"


def test_no_grab_bag() -> None:
    names = {path.stem for path in sources("gsplat_train", "csrc")}
    assert not names & {"utils", "util", "common", "helpers", "helper", "core", "misc"}


def test_the_readme_names_every_file() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in sources("gsplat_train", "scripts"):
        if path.name != "__init__.py":
            assert path.name in readme, f"README's tree lacks {path.relative_to(ROOT)}"
    for name in ("constants.h", "simd.h", "bindings.cpp", "configs/", "reference.py", "scripts/bench.py"):
        assert name in readme, name


BY_CHANCE = re.compile(r"__getattribute__|getattr\([^)]*backend|\bid\(\w+\)\s*(?:\]|in\b|,)")


def test_nothing_is_found_by_name_or_address() -> None:
    """What a backend can do stands in its protocol, and no cache is keyed by an address that may be used again."""
    assert BY_CHANCE.search('getattr(self.backend, "stepper")') and BY_CHANCE.search("cache[id(view)]")
    for path in sources("gsplat_train"):
        assert not (found := BY_CHANCE.search(path.read_text("utf-8"))), (path, found)


# What nobody knows who has not written it. In other packages' names, as np.eye and hypothesis.given, they may stand.
VAGUE = {"told", "eye", "eyes", "known", "given", "facing", "fresh", "mine"}


def vague_names(source: str) -> list[str]:
    """The names in a module, of its own, that are made of such words."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    names = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type != tokenize.NAME or token.string.startswith("test_"):
            continue
        parts = re.sub(r"([a-z])([A-Z])", r"\1_\2", token.string).lower().split("_")
        if VAGUE & {*parts} and not (before and before.string == "." and token.string in ("eye", "given")):
            names.append(token.string)
    return names


def test_names_say_what_they_are() -> None:
    assert vague_names("eye = np.eye(3)\nclass Told: pass\nscene_given = test_it_is_told") == [
        "eye",
        "Told",
        "scene_given",
    ]
    paths = [path for path in sources("gsplat_train", "scripts", "tests", "examples") if path.suffix == ".py"]
    found = {path.name: names for path in paths if (names := vague_names(path.read_text("utf-8")))}
    assert not found
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.suffix in (".h", ".cpp", ".metal"):
            code = re.sub(r"//.*|/\*.*?\*/|\"[^\"]*\"", "", path.read_text("utf-8"))
            assert not re.search(rf"\b({'|'.join(VAGUE)})\b", code), path
