# SPDX-License-Identifier: Apache-2.0
"""gs-export: a model in, a file for other programs out, with what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from .. import registry
from ..errors import UserError
from ..model import formats
from ..storage import home_expanded
from . import BackendName, idle, make_app, run
from .export_frame import asked_placing, numbers_of, of_ordinary_size
from .idle import Idle

MOST_VIEWS = 60  # from which contributions and colours are taken, evenly out of more
PACKED = (".spz", ".sog", ".html", ".compressed.ply")  # formats whose scales have bounds
AXES = "ply, as other programs write it, or rub, as Niantic's own tools expect it."
SCENELESS = Idle(  # once the model is open
    "data_root backend", lambda o: o["scene"] is None and o["run"] is None,
    "on a model that lies in no run folder: no scene is read, and nothing measured",
    "name the scene by --scene, or leave it out",
)  # fmt: skip


def _ends_otherwise(ending: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda options: not options["out"].name.lower().endswith(ending)


def _uses_views(options: Mapping[str, Any]) -> bool:
    """Whether the scene is looked at, be it not measured on."""
    more = (options[name] for name in ("scene", "bake_sky", "max_splats", "floaters"))
    return any(more) or options["up"] == "auto" or options["out"].suffix.lower() in (".html", ".splat")


@idle.refusing(
    Idle("pad", lambda o: formats.ending_of(o["out"]) != ".ply", "in {out}: it is for a .ply", "leave it out"),
    Idle("spz_version spz_axes", _ends_otherwise(".spz"), "in {out}: it is for a .spz", "leave it out"),
    Idle("sh_degree", lambda o: o["sh_degree"] and not _ends_otherwise(".splat")(o),
         "in {out}: a .splat has one colour a splat", "leave it out"),
    Idle("data_root", lambda o: not (o["measure"] or _uses_views(o)),
         "with --no-measure: nothing else here reads the scene", "leave one of them out"),
    Idle("backend", lambda o: not (o["measure"] or o["max_splats"] or o["floaters"]),
         "with --no-measure: nothing else here is rendered", "leave one of them out"),
)  # fmt: skip
def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, a checkpoint or a file of splats.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help=f"The file to write: {', '.join(registry.FORMATS)}.")
    ],
    sh_degree: Annotated[
        int | None, typer.Option(min=0, max=3, help="Cut the harmonics to this degree.")
    ] = None,
    pad: Annotated[
        bool,
        typer.Option("--pad", help="All 45 harmonics in a .ply, zeros where there are none: old viewers."),
    ] = False,
    min_opacity: Annotated[float, typer.Option(min=0, max=1, help="Leave out what is fainter.")] = 0.0,
    max_scale: Annotated[float | None, typer.Option(help="Leave out what is larger (one deviation).")] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="X0,Y0,Z0,X1,Y1,Z1|X,Y,Z,R", help="Keep a box or a sphere.")
    ] = None,
    floaters: Annotated[
        bool, typer.Option("--floaters", help="Leave out splats that float far from others.")
    ] = False,
    bake_sky: Annotated[
        bool, typer.Option("--bake-sky", help="The sky (background=sh) as far splats; files have no other.")
    ] = False,
    max_splats: Annotated[
        int | None,
        typer.Option(min=1, help="Keep those that count most in the training views, or are largest."),
    ] = None,
    up: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z|auto", help="Turn so that this is up (auto: as the cameras tell)."),
    ] = None,
    rotate: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Degrees about x, then y, then z.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Times as large.")] = 1.0,
    centre: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z|auto", help="This point becomes the origin (auto: the middle)."),
    ] = None,
    spz_version: Annotated[int, typer.Option(min=3, max=4, help="Version of a .spz.")] = 3,
    spz_axes: Annotated[str, typer.Option(metavar="ply|rub", help=f"Axes of a .spz: {AXES}")] = "ply",
    scene: Annotated[
        str | None, typer.Option(help="The scene whose views to measure on; else the run's.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the built-in scenes; else $GS_DATA.")
    ] = None,
    backend: BackendName = None,
    measure: Annotated[
        bool, typer.Option(help="Measure the PSNR that is lost, where the scene is known.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
    progress: Annotated[
        Literal["bar", "plain", "jsonl"] | None,
        typer.Option(help="bar, plain lines, or JSON lines, with the result as one on standard output."),
    ] = None,
) -> None:
    """Write a model as a file for other programs; in the scene's own frame, unless told otherwise."""
    out = home_expanded(out)
    writer = formats.format_of(out)
    if out.is_dir():
        raise UserError(f"cannot write {out}: it is a folder")
    if spz_axes not in ("ply", "rub"):
        raise UserError(f"--spz-axes takes ply or rub, got {spz_axes!r}")
    if not (0 < scale < float("inf")) or (max_scale is not None and not max_scale > 0):
        raise UserError("--scale and --max-scale take a number above 0")
    box = [] if crop is None else numbers_of("--crop", crop, (4, 6)).tolist()

    from .. import backends

    backends.check_mlx()
    import numpy as np

    from ..evaluate.exported import contributions, loss_of
    from ..evaluate.floaters import sightings
    from ..model import filters, frame, opening, sky
    from ..model.io import from_splats, open_model
    from ..model.placing import held_finely, write_placing
    from ..model.usable import too_coarse
    from ..training.run_folder import to_json
    from .export_scene import scene_of, views_of
    from .progress import Progress, write_result

    report = Progress(progress, quiet)
    say = report.tell
    found = open_model(model, say)
    trained = found
    if trained.normalized:
        found = found.at(held_finely(found.splats, found.frame))
    splats = found.splats
    if bake_sky and found.sky is None:
        raise UserError(f"--bake-sky: {model} has no sky; train with --background sh, or leave it out")
    about: dict[str, Any] = {"scene": scene, "run": found.run, "data_root": data_root, "backend": backend}
    idle.check(export, [SCENELESS], about)
    about |= {"bake_sky": bake_sky, "max_splats": max_splats, "floaters": floaters, "up": up, "out": out}
    looked_at = measure or _uses_views(about)
    settings, data = scene_of(found.run, scene, data_root, report) if looked_at else (None, None)
    train, test = views_of(settings, data)
    cameras, everywhere = [found.camera(view.camera) for view in train], [v.camera for v in (*train, *test)]
    some = cameras[:: -(-len(cameras) // MOST_VIEWS)] if cameras else []

    def shifted(numbers: list[float]) -> list[float]:
        """Places of the scene as the model's splats have them; those of a file have its own."""
        if len(numbers) == 4:
            return [*shifted(numbers[:3]), numbers[3]]
        origin = found.frame.offset if trained.normalized else [0.0] * 3
        return [x - origin[i % 3] for i, x in enumerate(numbers)]

    counts = [splats.n]
    for wanted, name, keep in (
        (min_opacity > 0, f"--min-opacity {min_opacity:g}", lambda s: filters.more_opaque(s, min_opacity)),
        (max_scale is not None, f"--max-scale {max_scale}", lambda s: filters.smaller(s, max_scale or 1.0)),
        (bool(box), f"--crop {crop}", lambda s: filters.cropped(s, shifted(box))),
        (floaters, "--floaters", filters.without_floaters),
    ):
        if wanted:
            splats = keep(splats)
            say(f"{name}: {counts[-1] - splats.n:,} of {counts[-1]:,} splats left out")
            counts.append(splats.n)
    stages = None
    if data is not None:
        stages = backends.load(backends.choose(backend or "auto"))
    if floaters and stages is not None and cameras and splats.n:
        seen = from_splats(splats)._replace(frame=found.frame).to_render(everywhere)
        them = [seen.camera(found.frame.camera(camera)) for camera in cameras]
        shown = sightings(seen.gaussians, them, stages, splats.antialiased)
        splats = splats.take(~np.array(shown.unwanted(seen.gaussians.opacities)))
        say(f"--floaters: {counts[-1] - splats.n:,} that few views show, near them, or faint plates")
    if not splats.n:
        raise UserError(
            "no splat is left; ask for less with --min-opacity, --crop, --max-scale or --floaters"
        )
    if max_splats is not None and splats.n > max_splats:
        importance = None
        if stages is not None and some:
            seen = from_splats(splats)._replace(frame=found.frame).to_render(everywhere)
            them = [seen.camera(found.frame.camera(camera)) for camera in some]
            importance = contributions(
                seen.gaussians, them, stages, splats.antialiased, report.of("what views need")
            )
        splats = filters.most_important(splats, max_splats, importance)
        how = f"by contribution to {len(some)} views" if importance is not None else "by opacity x area"
        say(f"--max-splats: {counts[-1] - splats.n:,} of {counts[-1]:,} splats left out, {how}")
    if bake_sky and found.sky is not None:
        splats = sky.baked(splats, found.sky, cameras)
        say(f"--bake-sky: {sky.COUNT:,} far splats more")
    elif found.sky is not None:
        say("warning: the sky behind the splats is no part of the file; --bake-sky makes far splats of it")
    degree = 0 if out.name.lower().endswith(".splat") else sh_degree
    if degree == 0 and splats.sh_degree:
        splats = filters.of_one_colour(splats, some)
        how = f"the mean over {len(some)} views" if some else "the mean over all directions"
        say(f"colours no longer change with the direction: each splat gets {how}")
    elif degree is not None:
        splats = splats.cut(degree)

    if pad:
        splats = splats.padded(3)
    if splats.up is None and cameras:
        splats = splats._replace(up=opening.upright(cameras))
    placing = asked_placing(splats, up, rotate, scale, centre, shifted)
    if placing is None and out.name.lower().endswith(PACKED) and (everywhere or trained.normalized):
        placing = of_ordinary_size(trained.to_render(everywhere).frame.scale, splats)
    placed = found.frame
    if placing is not None:
        splats, placed = frame.moved(splats, *placing), placing.back().then(placed)
    elif advice := too_coarse(splats):
        say(f"warning: {advice}")
    options: dict[str, Any] = {}
    if out.name.lower().endswith(".spz"):
        options = {"version": spz_version, "axes": spz_axes}
    if out.name.lower().endswith(".sog"):
        options = {"progress": report.of("writing")}
    if out.name.lower().endswith(".html"):
        moved = [camera if placing is None else placing.camera(camera) for camera in cameras]
        title = data.name if data is not None else model.stem
        options = {"place": opening.opening(splats, moved), "title": title or "Gaussian splats"}
        if settings is not None and settings.background == "white":
            options["background"] = (1.0, 1.0, 1.0)
    beside = write_placing(out, placed)
    sky.write_sky(out, None)  # of a file that was there
    writer.write(out, splats, **options)
    size = out.stat().st_size
    say(f"{splats.n:,} splats in {out}: {size / 1e6:,.2f} MB, {size / splats.n:.1f} bytes a splat")
    if beside is not None:
        say(f"where they lie in the scene: {beside}")
    loss = None
    in_other_axes = spz_axes != "ply" and out.name.lower().endswith(".spz")
    if stages is not None and settings is not None and measure and not in_other_axes:
        loss = loss_of(
            trained.to_render(everywhere),
            from_splats(writer.read(out))._replace(frame=placed, antialiased=found.antialiased),
            test,
            stages,
            background=settings.background,
            progress=report.of("measuring"),
        )
        say(str(loss) if loss is not None else "no view was held out: what the file loses is not measured")
    elif stages is not None and measure:
        say("the file is read back in a .spz's usual axes: with --spz-axes rub what it loses is not measured")
    if report.mode == "jsonl":
        scores = {} if loss is None else loss._asdict()
        write_result(to_json({"file": str(out), "splats": splats.n, "bytes": size} | scores))


def main() -> NoReturn:
    run(make_app(export), "gs-export")


if __name__ == "__main__":
    main()
