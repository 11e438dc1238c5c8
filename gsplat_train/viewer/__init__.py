# SPDX-License-Identifier: Apache-2.0
"""A model in the browser: frames are rendered here and sent as JPEG, no splat leaves the program."""
