# SPDX-License-Identifier: Apache-2.0
"""Train in Python and show the growing model: in a notebook as a picture that changes, else as live.png.

python examples/train.py [SCENE [STEPS]]
"""

import sys

import numpy as np
from PIL import Image

import gsplat_train as gs


class LivePicture(gs.Callback):
    """Renders one held-out view every `every` steps."""

    def __init__(self, every: int = 100) -> None:
        self.every = every
        self.handle = None

    def step(self, trainer, newest) -> None:
        if trainer.step % self.every:
            return
        out = gs.render(trainer.gaussians(), trainer.test_views[0].camera, trainer.config.backend)
        picture = Image.fromarray((255 * np.clip(np.asarray(out.image), 0, 1)).astype(np.uint8))
        try:
            from IPython import get_ipython
            from IPython.display import display

            if get_ipython() is None:
                raise ImportError
            if self.handle is None:
                self.handle = display(picture, display_id=True)
            else:
                self.handle.update(picture)
        except ImportError:
            picture.save("live.png")
        print(f"step {trainer.step}: {trainer.n_splats:,} splats, loss {newest.loss:.4f}")


scene = sys.argv[1] if len(sys.argv) > 1 else "demo"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
result = gs.train(scene, steps=steps, callbacks=[LivePicture(max(steps // 10, 1))])
print(f"held-out PSNR {result.metrics['test']['psnr']:.2f} dB with {result.metrics['n_splats']:,} splats")
