# SPDX-License-Identifier: Apache-2.0
"""gs-train on several devices: `--devices P` starts the command P times on this machine, which find each other as
those do that `mlx.launch` starts.

One process, the first, reads settings and checkpoints, measures, writes and talks; the others follow it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import config as config_module
from ..config import Config
from ..errors import DevicesLost, UserError
from . import FOLDER

if TYPE_CHECKING:
    from ..training.callbacks import Callback
    from ..training.checkpoint import Checkpoint
    from ..training.crew import Crew
    from ..training.run_folder import RunFolder

GRACE = 5.0  # seconds that the others have to end by themselves when one has


# ---- who starts them ----


def start(count: int, backend: str, arguments: Sequence[str]) -> NoReturn:
    """Runs `gs-train arguments` in `count` processes on this machine and exits as the first does; with 7 and one line
    where another is lost. UserError where the machine has not so many devices.
    """
    gpus = _gpus() if backend in ("auto", "cuda") else []
    if backend in ("auto", "metal") and sys.platform == "darwin":
        raise UserError(
            "--devices starts processes on this machine, and a Mac has one GPU; over several Macs: mlx.launch (see "
            "docs/devices.md), or --backend cpp"
        )
    if (gpus or backend == "cuda") and len(gpus) < count:
        raise UserError(
            f"--devices {count}: this machine shows {len(gpus)} NVIDIA GPUs; take fewer, or --backend cpp"
        )
    with tempfile.TemporaryDirectory(prefix="gs-train-") as folder:
        commons = _nccl() if gpus else _ring(count, Path(folder))
        command = [sys.executable, "-P", "-m", "gsplat_train", "train", *arguments]
        processes, errors = [], []
        for rank in range(count):
            own = {"MLX_RANK": str(rank), FOLDER: folder, **commons}
            if gpus:
                own |= {"CUDA_VISIBLE_DEVICES": gpus[rank], "MLX_WORLD_SIZE": str(count)}
            else:
                own |= {
                    "GS_THREADS": os.environ.get("GS_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
                }
            quiet: dict[str, Any] = {
                "stdout": subprocess.DEVNULL,
                "stderr": subprocess.PIPE,
                "stdin": subprocess.DEVNULL,
            }
            process = subprocess.Popen(
                command, env=os.environ | own, start_new_session=True, **({} if rank == 0 else quiet)
            )
            processes.append(process)
            errors.append(_listen(process))
        with _forwarded(processes):
            first_to_fail = _wait(processes)
        code = processes[0].returncode
        if code < 0 or code == DevicesLost.exit_code or (code == 1 and first_to_fail):  # NCCL exits with 1
            failed = 0 if first_to_fail is None else first_to_fail
            print(f"gs-train: {_report_line(failed, processes, errors, Path(folder))}", file=sys.stderr)
            code = DevicesLost.exit_code
    sys.exit(code)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Waits for all; the first that failed, None where all went well. Where one has ended otherwise than well the
    others get GRACE seconds, then they are ended.
    """
    failed: int | None = None
    ends = float("inf")
    while any(process.poll() is None for process in processes):
        if failed is None:
            bad = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
            if bad:
                # That one alone says why whose end is not the loss of another.
                failed = next((r for r in bad if processes[r].returncode != DevicesLost.exit_code), bad[0])
                ends = time.monotonic() + GRACE
        if time.monotonic() > ends:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.kill()
        time.sleep(0.05)
    if failed is None:
        failed = next((rank for rank, process in enumerate(processes) if process.returncode), None)
    return failed


@contextmanager
def _forwarded(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """While inside, the signals that end a training go to the processes, which save and end by themselves."""

    def forward(number: int, frame: Any) -> None:
        for process in processes:
            with suppress(ProcessLookupError):
                process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(process: subprocess.Popen[bytes]) -> list[str]:
    """The last lines that the process says on standard error, as they come."""
    lines: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.decode("utf-8", "replace").strip())
            del lines[:-20]

    if process.stderr is not None:
        threading.Thread(target=read, daemon=True).start()
    return lines


def _report_line(
    failed: int, processes: Sequence[subprocess.Popen[bytes]], errors: Sequence[list[str]], folder: Path
) -> str:
    """One line: what became of the process that failed, and what to go on with."""
    code = processes[failed].returncode
    said = next((line for line in reversed(errors[failed]) if line.startswith("gs-train: ")), "")
    words = folder / f"last-words.{failed}"
    if code < 0:
        how = f"was ended by signal {-code} ({signal.Signals(-code).name})"
    elif said and code != DevicesLost.exit_code:
        how = f"ended: {said.removeprefix('gs-train: ')}"
    elif words.is_file():
        return words.read_text().removeprefix("gs-train: ")
    else:
        how = f"ended with code {code}" + (f": {errors[failed][-1]}" if errors[failed] else "")
    line = f"device {failed} of {len(processes)} {how}"
    with suppress(OSError, ValueError):
        run, scene = json.loads((folder / "run").read_text())
        saved = sorted(Path(run, "checkpoints").glob("step_*.json"))
        where = f"the last checkpoint is {saved[-1]}" if saved else "no checkpoint was written before"
        line += f"; {where}; go on with: gs-train {scene} --out {run} --resume"
    return line


def _ring(count: int, folder: Path) -> dict[str, str]:
    """A ring of sockets on this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
    for each in sockets:
        each.close()
    (folder / "hosts.json").write_text(json.dumps(hosts))
    return {"MLX_HOSTFILE": str(folder / "hosts.json")}


def _nccl() -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # NVLink's multicast fails in containers that do not pass it on, and all_gather hardly gains by it.
    return {"NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": str(port), "NCCL_NVLS_ENABLE": "0"}


def _gpus() -> list[str]:
    """The NVIDIA GPUs that MLX may use here, by their names in CUDA_VISIBLE_DEVICES. Another process asks: one that
    had looked would hold a part of the first.
    """
    count = "import mlx.core as mx; print(mx.device_count(mx.gpu) if mx.cuda.is_available() else 0)"
    asked = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True)
    found = int(asked.stdout.strip() or 0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(found))))
    return [name.strip() for name in visible.split(",") if name.strip()][:found]


def without_devices(arguments: Sequence[str]) -> list[str]:
    """The command line without --devices and its value."""
    left, rest = [], iter(arguments)
    for argument in rest:
        if argument == "--devices":
            next(rest, None)
        elif not argument.startswith("--devices="):
            left.append(argument)
    return left


# ---- the processes ----


def begun(count: int, settings: Config, viewer: bool, seeds: int | None) -> Crew | None:
    """--devices `count`: starts the processes and exits as they do, or is one of them: the crew of the first, None
    after the training of another.
    """
    joined = bool(os.environ.get("MLX_RANK"))
    alone = {"--viewer": viewer, "--seeds": seeds is not None, "--time-budget": bool(settings.time_budget)}
    alone["late_batch"] = (
        settings.late_batch > 1
    )  # a step over several devices is over several views from the start
    for option in (name for name, requested in alone.items() if requested and (count > 1 or joined)):
        raise UserError(f"{option} is for the training of one device; leave it out, or train on one")
    if count > 1 and not joined:
        start(count, settings.backend, without_devices(sys.argv[1:]))
    crew = join()
    if crew.rank == 0:
        return crew
    follow(crew, settings)
    return None


def join() -> Crew:
    """The processes that this one belongs to. UserError where they cannot be reached."""
    from ..training import company

    crew = company.join()
    if isinstance(crew, company.Company) and crew.means == "ring":
        # MLX's ring tells on descriptor 2 of each try to reach a process that is gone: one line is enough.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
    return crew


def lead(
    crew: Crew, settings: Config, folder: RunFolder, found: Checkpoint | None, callbacks: list[Callback]
) -> Config:
    """The first process tells the others settings, and the checkpoint that was found; the settings for all."""
    from ..training.company import Beats, Company

    if not isinstance(crew, Company):
        return settings
    batch = settings.batch
    if found is not None and batch % crew.size:
        batch = 1  # a run goes on with other steps on another number of devices
    was, settings = settings.batch, replace(settings, batch=crew.deal(batch))
    crew.root = folder.root.resolve()
    if place := os.environ.get(FOLDER):
        Path(place, "run").write_text(json.dumps([str(crew.root), settings.scene]))
    crew.share(config_module.to_toml(settings).encode())
    crew.share(json.dumps(str(crew.root)).encode())
    name = "" if found is None else f"step_{found.state.step:07d}"
    files = [folder.checkpoints / f"{name}{end}" for end in (".json", ".safetensors") if name]
    crew.share_files(Path(), files)
    for callback in callbacks:
        if found is not None and settings.batch != was:
            callback.message(f"the run took {was} views a step, from now on {settings.batch}")
        callback.message(f"{crew.size} devices, {settings.batch} views a step")
    callbacks.append(Beats(crew))
    return settings


def follow(company: Any, own: Config) -> None:
    """What another process than the first does: it trains with it, silently."""
    from ..datasets import read_scene
    from ..training import checkpoint
    from ..training.trainer import Trainer
    from .signals import stopping

    with tempfile.TemporaryDirectory(prefix="gs-train-") as scratch:
        (requested := Path(scratch, "config.toml")).write_bytes(company.share())
        company.root = Path(json.loads(company.share()))
        settings = config_module.load([requested])
        company.deal(settings.batch)
        files = company.share_files(Path(scratch), [])
        found = checkpoint.load(files[0]) if files else None
    if not Path(settings.scene).is_dir():  # on another machine, where it lies elsewhere
        settings = replace(settings, scene=own.scene, data_root=own.data_root)
    scene = read_scene(settings, lambda line: None, lambda what, done, total: None)
    trainer = Trainer(settings, scene, None, [], found, crew=company)
    with stopping(trainer.stop, lambda line: None):
        trainer.train()
