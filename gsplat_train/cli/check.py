# SPDX-License-Identifier: Apache-2.0
"""gs-train SCENE --check: all of a scene is read, nothing trained; what is in it, what is wrong, how to mend it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..config import Config
from ..datasets import check_picture, examine_scene, survey
from ..datasets.check import Finding
from ..datasets.files import list_pictures
from ..errors import UserError
from ..evaluate.pictures import keep_others_pictures
from ..storage import home_expanded

PICTURE = "check.png"


def _kept_from(path: Path, scene: Path) -> str:
    """Why the picture is not written there: over somebody's, or among the scene's photos, of which it would be one."""
    try:
        keep_others_pictures([path])
    except UserError:
        return f"{path} is there, and not of this program"
    folder = path.parent.resolve()
    inside = scene.exists() and folder.is_relative_to(scene.resolve())
    photos = set(list_pictures(folder)) - {PICTURE} if inside and folder.is_dir() else set()
    return f"{folder} holds the scene's photos" if photos else ""


def check(config: Config, out: Path | None, as_json: bool, quiet: bool = False) -> bool:
    """Prints the report to standard output, writes check.png into `out`; whether training would go ahead.

    The lines of loading go to standard error; of a quiet check only warnings.
    """

    def log(line: str) -> None:
        if not quiet or line.startswith("warning"):
            print(line, file=sys.stderr)

    try:
        verdict = examine_scene(config, log)
    except UserError as error:
        if not as_json:
            raise
        report = survey.as_json({"scene": config.scene}, [Finding("error", str(error))])
        print(json.dumps(report, indent=1))
        return False
    findings = verdict.findings + survey.pictures(verdict.scene.views)
    numbers = survey.table(verdict, config.test_every if config.eval else 0, config.max_splats)
    print(
        json.dumps(survey.as_json(numbers, findings), indent=1) if as_json else survey.text(numbers, findings)
    )
    sys.stdout.flush()
    path = home_expanded(out or Path()) / PICTURE
    if why := _kept_from(path, home_expanded(config.scene)):
        log(f"warning: no picture of cameras, points and photos: {why}; name another folder (--out)")
    else:
        check_picture.write(path, verdict.scene)
        log(f"cameras, points and photos: {path}")
    return config.trust or not any(finding.level == "error" for finding in findings)
