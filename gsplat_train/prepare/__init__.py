# SPDX-License-Identifier: Apache-2.0
"""From photos or a video to a COLMAP scene: `make.prepare(input, out, options, reporter)`.

Enters: a folder of photos, or a video. Leaves: `out` with images/, sparse/0 (a COLMAP model, upright and
centred), prepare.json (how it was made) and cameras.png. What is under way is in out/.prepare; a run that
was stopped goes on with it.
"""
