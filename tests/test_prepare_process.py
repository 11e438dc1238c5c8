# SPDX-License-Identifier: Apache-2.0
"""The process that calls COLMAP: crash, hang, no memory, no disk and no package are each told in one line."""

import importlib.util
import platform
import sys
import time

import pytest

from gsplat_train.errors import BackendUnavailable, OutOfMemory, StorageError, UserError
from gsplat_train.prepare.process import require_pycolmap, run_job

HEAD = (
    "import sys, os, json, time; sys.stdin.readline(); say = lambda **e: print(json.dumps(e), flush=True); "
)


def job(tmp_path, code, still_seconds=60.0):
    events: list = []
    log = tmp_path / "log"
    command = (sys.executable, "-c", HEAD + code)
    result = run_job({"do": "matches"}, log, events.append, command, still_seconds)
    return result, events


def test_events_and_result(tmp_path):
    result, events = job(tmp_path, "say(total=2, done=0); print('noise'); say(done=1); say(result={'a': 3})")
    assert result == {"a": 3} and events == [{"total": 2, "done": 0}, {"done": 1}]


@pytest.mark.parametrize(
    ("code", "kind", "output"),
    [
        ("os.abort()", UserError, "crashed .*SIGABRT.* same command again"),
        ("sys.exit(3)", UserError, "crashed .*exit code 3"),
        ("os.kill(os.getpid(), 9)", OutOfMemory, "memory"),
        ("sys.stderr.write('std::bad_alloc'); sys.stderr.flush(); os.abort()", OutOfMemory, "memory"),
        ("say(error='Check failed: x', kind='colmap')", UserError, "Check failed: x"),
        ("say(error='', kind='memory')", OutOfMemory, "memory"),
        ("say(error='database or disk is full', kind='colmap')", StorageError, "full"),
        ("say(error='no symbol', kind='import')", BackendUnavailable, "no symbol"),
    ],
)
def test_how_it_ended_is_told_in_a_line(tmp_path, code, kind, output):
    with pytest.raises(kind, match=output) as caught:
        job(tmp_path, code)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_a_process_that_stands_still_is_ended(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match="stands still"):
        job(tmp_path, "time.sleep(60)", still_seconds=1.0)
    assert time.monotonic() - started < 20


def test_a_process_that_computes_in_silence_is_not(tmp_path):
    """However little of it a busy machine lets it do: a hundredth of a second in two is enough."""
    busy = "t = time.process_time()\nwhile time.process_time() < t + 4: pass\nsay(result={})"
    assert job(tmp_path, "\n" + busy, still_seconds=2.0)[0] == {}


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(UserError, match=r"pip install 'gsplat-train\[sfm\]'") as caught:
        require_pycolmap()
    assert caught.value.exit_code == 2
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(BackendUnavailable, match="no wheel for Linux aarch64"):
        require_pycolmap()
