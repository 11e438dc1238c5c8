# SPDX-License-Identifier: Apache-2.0
"""The loop: plan a step, take it, refine, measure, log, save.

All that decides what is trained is in the stepper's state, the parameter groups and one random generator; plans,
the order of views and MCMC's noise are functions of seed and step. A checkpoint holds these, so a resumed run is
the same, bit by bit. Training happens in training's frame (scene.Scene.normalized); what is measured and written
is in the scene's own. Without a run folder nothing is written. Any thread may train; signals are the command's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .. import __version__, backends, effects
from ..config import Config, to_toml
from ..datasets.photo_buffers import Buffers
from ..errors import (
    DevicesLost,
    Interrupted,
    OutOfMemory,
    StorageError,
    Torn,
    TrainingDiverged,
    UserError,
    is_lost_device,
    is_out_of_memory,
)
from ..evaluate.measure import BACKGROUNDS
from ..evaluate.pictures import Writers
from ..machine import memory
from ..model.frame import moved
from ..model.gaussians import Gaussians, scene_frame
from ..model.initialize import gaussians_from_points
from ..model.io import committed, to_splats
from ..model.opening import upright
from ..model.placing import Placing, beside_of, held_finely
from ..model.sky import Ground, write_sky
from ..model.splats import Splats
from ..scene import Scene, View
from . import background, identity, rehearsal, strategies
from . import checkpoint as checkpoints
from .alive import beyond_sense, is_seen, not_finite
from .callbacks import Callback
from .clock import Clock
from .crew import ALONE, Crew
from .evaluation import Evaluation
from .forecast import Forecast
from .groups import Material, decided
from .memory_plan import planned, watched
from .objective import Objective
from .photos import ViewSampler
from .plan import Schedule, halvings_at, views_at
from .protocol import Bounds, StepResult
from .read_ahead import ReadAhead
from .refinement import Refinement
from .rows import Population, TrainState, rows, start
from .run_folder import RunFolder, peak_memory_mb, to_json, write_splats
from .scores import Scores
from .sky import learnt
from .stepper import make_stepper

COPY_SHARE = (
    4  # a checkpoint is written beside training where a copy takes less than 1 / COPY_SHARE of what is free
)
COPIES = 1 << 40  # bytes that they may keep: no more than were copied at one time
PICTURES_WAITING = 16  # of an evaluation, before it waits for them to be written


class Trainer:
    """Trains `scene` by `config`, from the start or from a checkpoint; `train` does it all.

    config.backend names a backend, not auto. run: where files go; None: nowhere. started: time.monotonic() when
    the command began; spent: seconds since then by stage (clock.STAGES), where they were no start-up. until: when the
    run ends after the step under way, as after its last (see budget.py).
    """

    def __init__(
        self,
        config: Config,
        scene: Scene,
        run: RunFolder | None = None,
        callbacks: Sequence[Callback] = (),
        resume: checkpoints.Checkpoint | None = None,
        started: float | None = None,
        spent: Mapping[str, float] | None = None,
        crew: Crew = ALONE,
        until: float = math.inf,
    ) -> None:
        began = time.monotonic() if started is None else started
        self.config, self.scene, self.run, self.callbacks, self.crew = config, scene, run, callbacks, crew
        self.warnings: list[str] = []
        self.backend = backends.load(config.backend)
        if config.deterministic and not self.backend.deterministic:
            raise UserError(
                f"backend {config.backend} gives other bytes at each run on this device; "
                "leave out deterministic=true, or choose another --backend"
            )
        if resume is None:  # who was given all settings at once finds it out here
            effects.check(config, {"floaters_every": config.floaters_every})
        if config.floaters_every % getattr(config.own, "refine_every", 1):
            raise UserError(
                f"floaters_every must be a multiple of refine_every ({config.own.refine_every}), got "
                f"{config.floaters_every}; 0 leaves floaters"
            )
        normalized, self.similarity = scene.normalized()
        test_every = config.test_every if config.eval else 0
        self.train_views, self.test_views = scene.split(test_every)
        if config.stop_when_converged and not self.test_views:
            remedy = "set test_every above 0" if config.eval else "leave out --no-eval"
            raise UserError(f"stop_when_converged needs held-out views to measure on; {remedy}")
        self.views = normalized.split(test_every)[0]
        late = views_at(config, config.steps - 1)
        self.sampler = ViewSampler(
            self.views, config.seed, config.downscales, config.downscale_every, config.batch, late
        )
        self.rng = np.random.default_rng(config.seed)
        material = None
        if resume is None:
            points, colors = normalized.points, normalized.colors
            rehearse = cache(lambda: rehearsal.gains(self.views, points, colors, self.backend))
            material = Material(self.views, points, rehearse)
            config = decided(config, material, self.backend.FUSED_GROUPS, self.message)
        ground = background.decided(config.background, self.views)
        config = self.config = replace(config, background=ground)
        self.objective = Objective.of(config, self.views, material)
        self.counts: dict[str, Any] = {"seconds": 0.0, "wall_seconds": 0.0}  # saved with the state
        config = self._within_memory(resume)
        if resume is None:
            state = start(self._initial_gaussians(normalized, self.rng, self.message))
        else:
            identity.check(resume.extra, resume.names, resume.similarity, self.views, self.similarity)
            for group in self.objective.groups.values():
                group.restore(resume.extra, resume.names)
            state, self.rng.bit_generator.state = resume.state, resume.rng
            self.counts |= resume.progress
        self.identity = identity.of_scene(self.views)
        self.schedule = Schedule(config, self.strategy)
        sizes = [(view.camera.width, view.camera.height) for view in self.views]
        largest = max(sizes, key=math.prod)
        bounds = Bounds(config.gpu_memory, config.max_splats, largest, self.memory.kept, self.memory.reached)
        self.scores = Scores(self.views, self.backend, config)
        self.stepper = make_stepper(self.backend, state, self.objective, bounds)
        self.stepper.crew = Crew(config.batch) if crew.size == 1 else crew
        self._meet(state, config)
        self.ahead = self._read_ahead(state.step)
        self.forecast = Forecast(config, self.strategy, float(np.mean([math.prod(size) for size in sizes])))
        self.evaluation = Evaluation(self)
        self.saving: Future[object] | None = None  # a checkpoint that is being written
        self.beside = Writers(threads=1, waiting=PICTURES_WAITING)  # what is written while steps go on
        self.saver = ThreadPoolExecutor(1, "saver")  # of the last checkpoint, while others write pictures
        self.judges = Writers(
            threads=1
        )  # of what an evaluation waits for: it shall not stand behind pictures
        self.early: Future[dict[str, int]] | None = None
        for pool in self._pools():
            pool.submit(int).result()  # starts the thread: where memory is short Python waits for it for ever
        self.copies = Buffers(COPIES)  # memory of what is written beside
        self.saved = -1 if resume is None else state.step
        self.until, self.late = until, False  # late: it is over, and the last step is not done
        self.stopping = self.torn = False  # torn: an edit of the rows was cut short
        self.metrics: dict[str, Any] = {}
        self.began = began - self.counts["wall_seconds"]
        self.began_steps = time.monotonic()
        self.clock = Clock(began, self.counts.get("stage_seconds"), spent)

    def _read_ahead(self, first: int) -> ReadAhead | None:
        """What reads photos before the steps that need them, those that this process takes; None where all are in
        memory. first: the steps done.
        """
        if not self.memory.depth:
            return None
        steps, batch, depth = self.config.steps, self.config.batch, self.memory.depth
        wanted = lambda step: self.crew.takes((step - first) % batch)  # noqa: E731
        return ReadAhead(self.sampler, steps, self.stepper.has_photo, depth, wanted)

    def _meet(self, state: TrainState, config: Config) -> None:
        """UserError where the processes that train together would not train the same."""
        if self.crew.size == 1:
            return
        settings = to_toml(replace(config, scene="", data_root="", source="", init="")).encode()
        program = f"{__version__} {mx.__version__} {config.backend}".encode()  # type: ignore[attr-defined]
        cameras = b"".join(array.tobytes() for name, array in sorted(self.identity.items()))
        kind = b""
        if config.backend in ("metal", "cuda"):  # other GPUs round otherwise
            info = mx.device_info()
            kind = str([info.get(key) for key in ("device_name", "architecture", "total_memory")]).encode()
        self.crew.alike(
            versions=program,
            settings=settings,
            cameras_and_photos=cameras,
            kind_of_GPU=kind,
            splats=bytes_of(state),
        )

    @property
    def step(self) -> int:
        """Steps done, as far as they are known to be."""
        return self.stepper.step

    @property
    def n_splats(self) -> int:
        return self.stepper.n_splats

    @property
    def ended(self) -> bool:
        """Whether the last step is done: that of the settings, or the one after which the run had converged, or its
        time was over.
        """
        converged = self.config.stop_when_converged and self.counts.get("converged")
        return self.step >= self.config.steps or self.late or bool(converged)

    def is_grown(self) -> bool:
        """Whether neither splats nor the size of photos will grow any more."""
        config = self.config
        if halvings_at(self.step, config.downscales, config.downscale_every):
            return False
        ahead = range(self.step + 1, config.steps + 1)
        return self.n_splats >= config.max_splats or not any(map(self.strategy.due, ahead))

    def stop(self) -> None:
        """Ends the run after the step under way, its state saved. For callbacks, signals and other threads."""
        self.stopping = True

    def as_learnt(self, view: View) -> View:
        """A training view, its camera where training has moved it; in the scene's own frame, as the view."""
        if not self.objective.groups:
            return view
        camera = self.similarity.camera_to_train(view.camera)
        moved = self.objective.camera(replace(view, camera=camera))
        return view if moved is camera else replace(view, camera=self.similarity.camera_to_scene(moved))

    def gaussians(self) -> Gaussians:
        """The model as it is now, in the scene's own frame; waits for the steps under way. Float32 does not hold all
        scenes finely there: what measures renders in training's.
        """
        return scene_frame(self.stepper.look().gaussians, self.similarity)

    @property
    def ground(self) -> Ground:
        """What renders of the model have behind the splats: the sky, or the colour that is measured over."""
        return learnt(self.objective.groups) or BACKGROUNDS[self.config.background]

    def message(self, line: str) -> None:
        """Tells the callbacks; warnings are kept for metrics.json."""
        if line.startswith("warning"):
            self.warnings.append(line)
        for callback in self.callbacks:
            callback.message(line)

    def train(self) -> dict[str, Any]:
        """Runs to the last step; the final metrics.

        Whatever ends it before, the state is saved where it can be read and is that of whole steps:
        TrainingDiverged, Interrupted, StorageError, OutOfMemory, and any other exception.
        """
        for callback in self.callbacks:
            callback.start(self)
        self.began_steps = time.monotonic()
        mx.reset_peak_memory()
        self.clock.enter("steps")
        try:
            if not self.ended:
                self._refine_due()
            while not self.ended:
                self._one_step()
            if not self.metrics:  # resumed after the last step
                self.evaluation.run()
            self.write_model()
            with self.clock.during("saving"):
                self.beside.finish()
            self.evaluation.finish()
        except Interrupted:
            raise
        except BaseException as error:
            self._rescue(error)
            raise
        finally:
            self.close()
            for callback in self.callbacks:
                callback.end(self)
        return self.metrics

    def close(self) -> None:
        """Ends its threads; waits for what they have begun."""
        for pool in self._pools():
            pool.shutdown()
        if self.ahead is not None:
            self.ahead.close()

    def _pools(self) -> tuple[ThreadPoolExecutor, ...]:
        return self.beside.pool, self.saver, self.judges.pool

    def _one_step(self) -> None:
        """A step and all that follows it."""
        self.beside.check()
        config, before, source = self.config, self.step, self.ahead or self.sampler
        number = min(before + views_at(config, before), config.steps)
        views = [source.at(step) for step in range(before, number)]
        newest = self.stepper.take(views[0], self.schedule.at(number, len(views)), *views[1:])
        due = [n for n in range(before + 1, number + 1) if self.strategy.due(n)]
        if number < config.steps and time.monotonic() > self.until:
            self._end_late(number)
        looked = bool(due) or self.late or self._looked_at(before, number)
        if looked:
            newest = self.stepper.result()
        if not newest.is_finite:
            self._end_diverged(newest)
        self.counts["refinements_due"] = due
        last = number == config.steps or self.late
        if last:
            self.crew.first_does(self._save_early, self.stepper.look)
        measured = last or (passed(before, number, config.eval_every) and config.eval)
        if measured:  # before a refinement that takes the opacities back
            self.crew.first_does(self._evaluate, self.stepper.look)
            if self.crew.agree(bool(self.counts.get("converged")), True):
                self.counts["converged"] = True
            last = self.ended
        if not last:  # at the end what was measured is what is written; a run that goes on refines first
            self._refine_due()
        for callback in self.callbacks:
            callback.step(self, newest)
        if last or before < max(config.steps // 10, 1) <= number:
            self._end_if_unseen()
        if measured or passed(before, number, config.log_every):
            self.log(newest)
        interrupted = self.crew.agree(self.stopping, looked) and not last
        if interrupted or last or passed(before, number, config.checkpoint_every):
            if self.crew.size > 1:
                self.crew.alike(splats=bytes_of(self.stepper.look()))
            save = partial(self.save, beside=not (interrupted or last))
            self.crew.first_does(save, self.stepper.look)
        if interrupted:
            where = f", state saved in {self.run.root}" if self.run else ""
            raise Interrupted(f"interrupted at step {self.step}{where}")

    def _refine(self, number: int, begun: list[Refinement], rows: Population) -> list[str]:
        """The leaves that are not finite; where all are, the refinement is done."""
        refinement = Refinement(rows, self.scores, self.counts.get("refined_parts", 0))
        if broken := refinement.not_finite():
            return broken
        begun.append(refinement)
        every = self.config.floaters_every
        if every and number % every == 0 and not refinement.parts:
            self.scores.drop_floaters(refinement)
        self.strategy.refine(refinement, number)
        return []

    def _refine_due(self) -> None:
        """The refinements after a step. One that is cut short is gone on with by a resumed run, after its last whole
        part; where rows were edited since, the state is not saved.
        """
        while due := self.counts.get("refinements_due"):
            begun: list[Refinement] = []
            refine = partial(self._refine, due[0], begun)
            self.stepper.result()  # to wait for steps is no part of it
            self._watch_memory()
            try:
                with self.clock.during("refinement"):
                    broken = self.stepper.refine(refine)
            except BaseException as error:
                if begun:
                    self.torn = begun[0].torn or isinstance(error, Torn)
                    self.counts["refined_parts"] = begun[0].parts
                raise
            if broken:
                raise self._diverged(", ".join(broken), found=True)
            self.counts["refinements_due"], self.counts["refined_parts"] = due[1:], 0

    def _evaluate(self) -> None:
        """Measures; a picture or a file of scores that cannot be written costs no training."""
        try:
            self.evaluation.run()
        except StorageError:
            self.save()
            raise

    def log(self, result: StepResult) -> None:
        """A line of log.jsonl, with the scores if this step was measured."""
        step, seconds = self.step, self.clock.seconds
        record: dict[str, Any] = {"step": step, "loss": result.loss, "l1": result.l1, "ssim": result.ssim}
        record |= {
            "n_splats": self.n_splats,
            "it_per_s": round(step / seconds, 3) if seconds else 0.0,
            "seconds": round(seconds, 3),
            "peak_memory_mb": peak_memory_mb(),
        }
        measured = self.metrics.get("steps") == step
        going = time.monotonic() - self.began_steps
        self.forecast.add(step, seconds, self.n_splats, going + self.clock.before, measured)
        left = self.forecast.left()
        record["seconds_left"] = None if left is None else round(left, 1)
        if measured:
            for split in ("test", "train"):
                scores = self.metrics[split]
                record[split] = scores and {name: scores[name] for name in ("psnr", "ssim")}
        if self.run is not None:
            self.run.append_log(to_json(record))
        for callback in self.callbacks:
            callback.record(self, record)

    def save(self, beside: bool = False) -> None:
        """Writes a checkpoint of this step, unless there is one; TrainingDiverged if it is not finite.

        beside: while steps go on, where there is memory for a copy.
        """
        if self.run is None:
            return
        with self.clock.during("saving"):
            self._settle_saving()
            if self.saved == self.step:
                return
            state = self.stepper.look()
            if self.early is None and (broken := not_finite(state)):
                raise self._diverged(", ".join(broken), found=True)
            meta, tensors = self._parts(state)
            folder, keep = self.run.checkpoints, self.config.checkpoint_keep
            early, self.early = self.early, None
            if early is not None:
                checkpoints.commit(folder, meta, early.result(), keep)
            elif beside and self._fits_again(state):
                tensors = {name: self.copies.copy(array) for name, array in tensors.items()}
                write = partial(checkpoints.write, folder, meta, tensors, keep)
                self.saving = self.beside.add(self._write_checkpoint, write)
            else:
                checkpoints.write(folder, meta, tensors, keep)
            self.saved = state.step

    def _parts(self, state: TrainState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Of a checkpoint of now; see checkpoint.parts_of."""
        self.counts |= {"seconds": self.clock.seconds, "wall_seconds": time.monotonic() - self.began}
        self.counts["stage_seconds"] = self.clock.stages
        groups = [group.tensors() for group in self.objective.groups.values()]
        return checkpoints.parts_of(
            checkpoints.Checkpoint(
                state=state,
                similarity=self.similarity,
                antialiased=self.config.antialiased,
                rng=dict(self.rng.bit_generator.state),
                extra={name: array for tensors in groups for name, array in tensors.items()} | self.identity,
                names=[view.name for view in self.views],
                progress=self.counts,
            )
        )

    def _save_early(self) -> None:
        """Begins to write the tensors of the last checkpoint, which nothing changes any more, while the model is
        measured; `save` makes a checkpoint of them.
        """
        if self.run is None:
            return
        with self.clock.during("saving"):
            self._settle_saving()
            state = self.stepper.look()
            if self.saved == self.step or not self._fits_again(state) or not_finite(state):
                return  # `save` does it, or says what is wrong
            tensors = self._parts(state)[1]
            for name in rows(state.gaussians):  # a GPU that renders them would fetch them again and again
                tensors[name] = self.copies.copy(tensors[name])
            self.early = self.saver.submit(checkpoints.write_state, self.run.checkpoints, state.step, tensors)

    def _fits_again(self, state: TrainState) -> bool:
        """Whether a copy of the state is no matter for the memory; where a budget is given it has no part of it."""
        count = sum(leaf.nbytes for tree in (state.gaussians, state.m, state.v) for leaf in tree)
        return self.config.memory_budget == Config.memory_budget and COPY_SHARE * count < memory().free

    def _write_checkpoint(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException:
            self.saved = -1
            raise

    def _settle_saving(self) -> None:
        """Waits for a checkpoint that is being written; its error, if there is one, comes out of `beside`."""
        if self.saving is not None:
            wait([self.saving])
            self.saving = None

    def _rescue(self, error: BaseException) -> None:
        """Saves what can be saved when `error` ends the run; out of memory becomes a line that says so."""
        kept = ""
        self._settle_saving()
        if is_out_of_memory(error):
            mx.clear_cache()  # room to read the state in
        if self.run is not None and self.step > 0:
            try:
                if self.stepper.result().whole and not self.torn:
                    self.save()
            except Exception as second:  # the first error is the one to tell
                error.add_note(f"the state could not be saved: {second}")
                kept = self._rescue_model() if isinstance(second, StorageError) else ""
            with suppress(UserError):
                good = committed(self.run.checkpoints)
                kept += f"; the last good state is {good[0]}, go on with it by --resume" if good else ""
        if is_lost_device(error):
            raise DevicesLost(
                f"another of the {self.crew.size} devices is gone at step {self.step}{kept or self.crew.where()}"
            ) from error
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"out of memory at step {self.step} with {self.n_splats:,} splats{kept}; take fewer splats or "
                "smaller photos (--max-splats, --max-size)"
            ) from error
        if isinstance(error, UserError) and not isinstance(error, TrainingDiverged) and kept:
            error.args = (f"{error}{kept}",)

    def _rescue_model(self) -> str:
        """Writes the model where the whole state could not be: it takes a quarter of the room. What to say of it."""
        try:
            self.write_model()
        except Exception:  # then there is nothing more to be done
            return ""
        return f"; the model of step {self.step} is in {self.run.ply}" if self.run is not None else ""

    def write_model(self, path: Path | None = None, beside: bool = False) -> None:
        """Writes the model as it is now, where there is a run folder: in the scene's own frame, or where float32 does
        not hold that finely, near its origin, with the offset in a file of its own.

        beside: while steps go on, where there is memory for a copy.
        """
        if self.run is not None:
            with self.clock.during("saving"):
                up = upright([view.camera for view in self.train_views])
                state = self.stepper.look()
                splats = to_splats(state.gaussians, self.config.antialiased, up)
                write_sky(path or self.run.ply, learnt(self.objective.groups))
                if beside and self._fits_again(state):  # steps may write into the arrays
                    arrays = {name: self.copies.copy(array) for name, array in splats.arrays.items()}
                    self.beside.add(self._write_splats, path or self.run.ply, splats._replace(arrays=arrays))
                    return
                frame = self._write_splats(path or self.run.ply, splats)
                if frame.moves and path is None:
                    where = ", ".join(f"{x:.12g}" for x in frame.offset)
                    self.message(
                        f"the scene is far from its origin: that of {self.run.ply} is {where}, as "
                        f"{beside_of(self.run.ply).name} beside it says"
                    )

    def _write_splats(self, path: Path, splats: Splats) -> Placing:
        """Writes splats of training's frame; the frame that the file has."""
        here = Placing.of(self.similarity)
        frame = held_finely(splats, here)
        write_splats(path, moved(splats, *here.then(frame.back())), frame)
        return frame

    def _within_memory(self, resume: checkpoints.Checkpoint | None) -> Config:
        """Plans the memory of the run, and says so; the settings, with fewer splats where not all would fit."""
        config, n, first = self.config, min(len(self.scene.points), self.config.max_splats), None
        if resume is not None:
            n, first = resume.state.n_splats, resume.state.step
        self.strategy = strategies.load(config)
        fused = self.objective.is_fused_by(self.backend)
        self.memory, lines = planned(config, self.strategy, self.scene.views, n, fused, first)
        for line in lines:
            self.message(line)
        if self.run is not None and (short := self.run.room(self.memory.on_disk(config))):
            self.message(short)
        if self.memory.lowered:
            self._lower(self.memory.most)
        if (least := self.crew.least(self.config.max_splats)) < self.config.max_splats:
            self._lower(least)
        return self.config

    def _lower(self, most: int) -> None:
        """Never more than `most` splats from now on."""
        self.config = replace(self.config, max_splats=most)
        self.strategy = strategies.load(self.config)

    def _watch_memory(self) -> None:
        """Fewer splats where steps were seen to take more memory than foreseen; says where the budget ends growth."""
        most = self.config.max_splats
        self.memory, lines = watched(self.memory, self.n_splats, most, self.copies.bytes)
        for line in lines:
            self.message(line)
        if (fewer := self.crew.least(min(self.memory.most, most))) < most:
            self._lower(fewer)
            self.forecast.config = self.config
            if self.run is not None:
                self.run.write_config(self.config)

    def start_again(self) -> Gaussians:
        """The model before the first step, in training's frame."""
        rng, scene = np.random.default_rng(self.config.seed), self.scene.normalized()[0]
        return self._initial_gaussians(scene, rng, lambda line: None)

    def _initial_gaussians(
        self, scene: Scene, rng: np.random.Generator, say: Callable[[str], None]
    ) -> Gaussians:
        config, n = self.config, len(scene.points)
        chosen = np.arange(n)
        if n > config.max_splats:
            chosen = np.sort(rng.choice(n, config.max_splats, replace=False))
            say(f"{n:,} points, of which {config.max_splats:,} (max_splats) are taken at random")
        return gaussians_from_points(
            scene.points[chosen],
            scene.colors[chosen],
            sh_degree=config.sh_degree,
            init_opacity=config.init_opacity,
            init_scale=config.init_scale,
        )

    def _end_late(self, number: int) -> None:
        """Makes step `number` the last one of this process, and says so."""
        config, self.late = self.config, True
        onward = "; --resume goes on to the last" if self.run is not None else ""
        self.message(
            f"warning: steps take longer than was measured: ended at step {number:,} of {config.steps:,}, for the time "
            f"budget of {config.time_budget:g} s{onward}"
        )

    def _end_diverged(self, result: StepResult) -> None:
        """Raises TrainingDiverged; the state is saved first if only whole steps made it."""
        if self.stepper.result().whole:
            self.save()
        raise self._diverged()

    def _end_if_unseen(self) -> None:
        """TrainingDiverged where no view shows a splat any more: such a model is no result."""
        with self.clock.during("evaluation"):
            if is_seen(self.stepper.look().gaussians, self.views, self.backend):
                return
        cause, advice = beyond_sense(self.stepper.look().gaussians, self.config)
        raise TrainingDiverged(
            f"training diverged: at step {self.step} no view shows any of the {self.n_splats:,} splats"
            + (
                f" ({cause}); {advice}"
                if cause
                else "; a weight is beyond sense, or the points lie behind the cameras"
            )
        )

    def _diverged(self, what: str = "loss or gradient", found: bool = False) -> TrainingDiverged:
        """found: in the state after a step, where none had told of it."""
        self._settle_saving()
        good = committed(self.run.checkpoints) if self.run is not None else []
        where = f"the last good state is {good[0]}" if good else "no good state was saved before"
        cause, advice = beyond_sense(self.stepper.look().gaussians, self.config)
        place = f"after step {self.step}" if found else f"at step {self.step + 1}"
        view = self.sampler.at(self.step - 1 if found else self.step).name
        return TrainingDiverged(
            f"training diverged: {what} not finite {place} (view {view}"
            f"{', ' if cause else ''}{cause}); {where}; {advice}"
        )

    def _looked_at(self, before: int, number: int) -> bool:
        """Whether something after this step looks at the state, the sums or the loss."""
        config = self.config
        every = (config.log_every, config.eval_every, config.checkpoint_every)
        return number == config.steps or passed(before, number, *every)


def bytes_of(state: TrainState) -> bytes:
    """The parameters, leaf after leaf."""
    return b"".join(leaf.tobytes() for leaf in rows(state.gaussians).values())


def passed(before: int, number: int, *every: int) -> bool:
    """Whether a step that went from `before` to `number` views came to a multiple of any of `every`."""
    return any(number // period > before // period for period in every)
