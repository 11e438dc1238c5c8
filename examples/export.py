# SPDX-License-Identifier: Apache-2.0
"""Write a model in another format: its end says which. Faint splats are left out.

python examples/export.py MODEL OUT.ply|.spz|.sog|.splat|.compressed.ply|.glb
"""

import sys
from pathlib import Path

import numpy as np

from gsplat_train.model import formats
from gsplat_train.model.io import open_model
from gsplat_train.model.placing import HERE

if len(sys.argv) != 3:
    sys.exit(__doc__)
found = open_model(Path(sys.argv[1])).at(HERE)  # in the scene's own frame
opaque = np.asarray(found.gaussians.opacities) > 0.02
splats = found.splats.take(opaque)
out = Path(sys.argv[2])
formats.format_of(out).write(out, splats)
print(f"{opaque.sum():,} of {len(opaque):,} splats in {out}, {out.stat().st_size / 1e6:.2f} MB")
