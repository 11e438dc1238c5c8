# SPDX-License-Identifier: Apache-2.0
"""Settings that suit a long run, made to suit a short one.

The defaults are those of 30,000 steps. In 200 steps their small splats stay dots on black, their rates go nowhere
and their first harmonics never begin. The powers are fits of what was best on the built-in scene and on Fern at 200,
1,000 and 3,000 steps: 8.0 dB became 24.2, 22.9 became 27.9, 28.4 became 31.6 on the built-in scene as a folder,
11.7 became 23.6 and 23.6 became 25.6 on Fern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

POWERS = {"init_scale": 0.36, "lr_means": 0.4, "lr_means_end": 0.4, "lr_scales": 0.3, "lr_sh0": 0.3}
MOST = {"init_scale": 0.6, "lr_means": 1.2e-3, "lr_scales": 0.03, "lr_sh0": 0.02}  # that is gone up to
END_SHARE = 0.1  # of lr_means, that lr_means_end goes up to
STEP_SHARE = 0.1  # of the steps, that the settings in steps end by
IN_STEPS = ("sh_interval", "refine_start")
NAMES = (*POWERS, *IN_STEPS)


def shortened(settings: Mapping[str, Any], steps: int, homes: Mapping[str, int]) -> dict[str, Any]:
    """What becomes of `settings` (of NAMES) in a run of `steps`: only what changes.

    homes: the steps that each suits; longer runs change nothing, nor do settings that are not in it.
    """
    made = dict(settings)
    for name in (name for name in settings if homes.get(name, 0) > steps):
        if name in IN_STEPS:
            made[name] = min(settings[name], max(1, int(STEP_SHARE * steps)))  # 0 stays 0
            continue
        most = END_SHARE * made["lr_means"] if name == "lr_means_end" else MOST[name]
        wanted = float(f"{settings[name] * (homes[name] / steps) ** POWERS[name]:.3g}")
        made[name] = max(settings[name], min(wanted, most))
    return {name: value for name, value in made.items() if value != settings[name]}
