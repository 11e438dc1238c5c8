# SPDX-License-Identifier: Apache-2.0
"""Runs a job of `worker` and tells what became of it: a result, or one line that says how it failed."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import BackendUnavailable, OutOfMemory, StorageError, UserError

WORKER = (sys.executable, "-P", "-m", "gsplat_train.prepare.worker")
LOOK_SECONDS = 5.0  # between two looks at a process that says nothing
STILL_SECONDS = 300.0  # without an event and with less computing than a share of them: it hangs
LEAST_COMPUTED = (
    1 / 300
)  # that share: a process that waits computes nothing, a busy machine leaves one a little
LITTLE_DISK = 20e6  # bytes; with less left, that is why a job failed
TAIL = 4000  # bytes of the log that are looked at
NO_MEMORY = re.compile("bad_alloc|out of memory|cannot allocate memory", re.IGNORECASE)
DISK_FULL = re.compile("disk is full|no space left|disk I/O error", re.IGNORECASE)


def require_pycolmap() -> None:
    """UserError that says how to get pycolmap, or what to do where there is no wheel of it."""
    if importlib.util.find_spec("pycolmap") is not None:
        return
    system, machine = platform.system(), platform.machine().lower()
    wheels = (system == "Linux" and machine in ("x86_64", "amd64")) or (
        system == "Darwin" and machine == "arm64"
    )
    if not wheels:
        raise BackendUnavailable(
            f"pycolmap has no wheel for {system} {machine}; make the model elsewhere, or with the program "
            "colmap of your system (colmap automatic_reconstructor), and give gs-train its folder"
        )
    raise UserError("finding the cameras of photos needs pycolmap: pip install 'gsplat-train[sfm]'")


def run_job(
    job: dict[str, Any],
    log: Path,
    on_event: Callable[[dict[str, Any]], None],
    command: Sequence[str] = WORKER,
    still_seconds: float = STILL_SECONDS,
) -> dict[str, Any]:
    """The result of a job; its other events go to `on_event`, what the native code prints goes to `log`.

    UserError of one line where it fails, crashes, hangs or is out of memory. Whatever ends this call ends
    the process.
    """
    with open(log, "ab") as stream:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            env=_environment(),
            start_new_session=True,
        )
    assert child.stdin is not None and child.stdout is not None
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(child.stdout, events), daemon=True)
    reader.start()
    last: dict[str, Any] = {}
    try:
        _give(child.stdin, job)
        for event in _events(child, events, still_seconds, job["do"]):
            if "result" in event or "error" in event:
                last = event
            else:
                on_event(event)
        code = child.wait(timeout=60)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdin.close()
        reader.join(timeout=10)
        child.stdout.close()
    if "result" in last:
        result: dict[str, Any] = last["result"]
        return result
    raise _failure(last, code, job, log)


def _environment() -> dict[str, str]:
    """The worker finds this package wherever it was imported from; its parallel parts bring their own
    threads.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}


def _give(stdin: IO[bytes], job: dict[str, Any]) -> None:
    try:
        stdin.write(json.dumps(job).encode() + b"\n")
        stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already; its exit code says why


def _read(stdout: IO[bytes], events: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.put(event)
    events.put(None)


def _events(child: Any, events: queue.Queue, still_seconds: float, what: str) -> Any:
    """The events until the process closes its output; UserError where it stands still."""
    heard, computed = time.monotonic(), 0.0
    while True:
        try:
            event = events.get(timeout=min(LOOK_SECONDS, still_seconds / 4))
        except queue.Empty:
            used = _cpu_seconds(child.pid)
            if used is None or used >= computed + LEAST_COMPUTED * still_seconds:
                heard, computed = time.monotonic(), used or computed
            if time.monotonic() - heard > still_seconds:
                raise UserError(
                    f"COLMAP stands still (step: {what}) and was stopped; give the same command again, it "
                    "goes on with what is done"
                ) from None
            continue
        if event is None:
            return
        heard = time.monotonic()
        yield event


def _cpu_seconds(pid: int) -> float | None:
    """What a process has computed; None where the system does not say."""
    try:  # Linux: in hundredths, where its `ps` tells whole seconds
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        pass
    try:
        time_used = subprocess.run(
            ["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        days, _, clock = time_used.rpartition("-")
        seconds = 0.0
        for part in clock.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds + 86400 * int(days or 0)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _failure(last: dict[str, Any], code: int, job: dict[str, Any], log: Path) -> UserError:
    what, again = job["do"], "give the same command again, it goes on with what is done"
    tail = log.read_bytes()[-TAIL:].decode("utf-8", "replace") if log.is_file() else ""
    error = str(last.get("error", ""))
    if shutil.disk_usage(log.parent).free < LITTLE_DISK or DISK_FULL.search(error or tail):
        return StorageError(f"the disk of {log.parent} is full; make room there, then {again}")
    if last.get("kind") == "import":
        return BackendUnavailable(
            f"pycolmap does not run on this machine: {error}; see pip install 'gsplat-train[sfm]'"
        )
    if last.get("kind") == "memory" or code == -signal.SIGKILL or NO_MEMORY.search(error or tail):
        return OutOfMemory(
            f"COLMAP was stopped for want of memory (step: {what}); close other programs or give fewer "
            f"photos, then {again}"
        )
    if error:
        return UserError(f"COLMAP failed (step: {what}): {error}; its log is {log}")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return UserError(f"COLMAP crashed (step: {what}, {name}); {again}; its log is {log}")
