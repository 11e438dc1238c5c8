# SPDX-License-Identifier: Apache-2.0
"""Metal without a Mac: the text that MLX would compile, checked by clang and executed on the CPU.

mlx_text.py    the text of a kernel as MLX generates it
rules.py       Metal's rules that C++ does not have, looked up in clang's syntax tree
compiler.py    clang: the text as C++, checked with address spaces, or built to run
launcher.py    mx.fast.metal_kernel once more, on this emulation
emulated.py    the Metal backend bound to it; table.py its kernels as texts
msl.h          Metal's words for clang; msl_math.h, msl_simd.h its functions, place.h a thread's position
runtime.cpp    runs a grid; fibers.h its threads, barriers and SIMD groups; memory.h judges every access
"""
