# SPDX-License-Identifier: Apache-2.0
"""The stages as JIT kernels for any MLX GPU. The kernels themselves: _kernels.KERNELS and csrc/kernels."""

from ._kernels import KERNELS, KernelSpec, Sizes

__all__ = ["KERNELS", "KernelSpec", "Sizes"]
