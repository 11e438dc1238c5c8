# SPDX-License-Identifier: Apache-2.0
"""The text that MLX hands to Apple's compiler for a custom kernel, by rules of our own and by MLX itself.

What MLX adds to a header and a body (seen in the output of verbose=True; `printed_by_mlx` gets it anywhere):
each input is `constant` if it has fewer than 8 elements, else `device`, a reference if it has no dimension;
`<input>_shape`, `_strides`, `_ndim` and Metal's attributes (thread_position_in_grid ...) become arguments
where the body's text has their names.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

Template = Sequence[tuple[str, Any]]  # (name, dtype | int | bool)

CONSTANT_BELOW = 8  # elements
TYPES = {
    mx.bool_: "bool",
    mx.uint8: "uint8_t",
    mx.uint16: "uint16_t",
    mx.uint32: "uint32_t",
    mx.uint64: "uint64_t",
    mx.int8: "int8_t",
    mx.int16: "int16_t",
    mx.int32: "int32_t",
    mx.int64: "int64_t",
    mx.float16: "float16_t",
    mx.bfloat16: "bfloat16_t",
    mx.float32: "float",
}
ATTRIBUTES = {  # in the order in which MLX writes them
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}


@dataclass(frozen=True)
class Kernel:
    """What mx.fast.metal_kernel is given, less the compiler's options."""

    name: str
    input_names: Sequence[str]
    output_names: Sequence[str]
    source: str
    header: str = ""
    atomic_outputs: bool = False

    def uses(self, word: str) -> bool:
        """Whether MLX would find `word` in the body."""
        return word in self.source


@dataclass(frozen=True)
class Argument:
    """One argument of the kernel function."""

    name: str
    type: str  # of what it points at or refers to
    space: str  # "device", "constant"; "" for an attribute
    sign: str  # "*", "&"; "" for an attribute
    source: str  # "input", "shape", "strides", "ndim", "output", "attribute"
    index: int = 0  # of the input or output it belongs to


@dataclass(frozen=True)
class Text:
    """A kernel's whole text, and what is needed to call the function in it."""

    text: str
    function: str  # with its template arguments
    arguments: list[Argument] = field(default_factory=list)


def arguments_of(kernel: Kernel, inputs: Sequence[mx.array], output_dtypes: Sequence[Any]) -> list[Argument]:
    """The arguments of the kernel function, in order."""
    out = []
    for i, (name, array) in enumerate(zip(kernel.input_names, inputs, strict=True)):
        space = "constant" if array.size < CONSTANT_BELOW else "device"
        out.append(Argument(name, TYPES[array.dtype], space, "*" if array.ndim else "&", "input", i))
        for extra, kind, sign in (("shape", "int", "*"), ("strides", "int64_t", "*"), ("ndim", "int", "&")):
            if array.ndim and kernel.uses(f"{name}_{extra}"):
                out.append(Argument(f"{name}_{extra}", kind, "constant", sign, extra, i))
    for i, (name, dtype) in enumerate(zip(kernel.output_names, output_dtypes, strict=True)):
        kind = f"atomic<{TYPES[dtype]}>" if kernel.atomic_outputs else TYPES[dtype]
        out.append(Argument(name, kind, "device", "*", "output", i))
    for name, kind in ATTRIBUTES.items():
        if kernel.uses(name):
            out.append(Argument(name, kind, "", "", "attribute"))
    return out


def generate(
    kernel: Kernel, inputs: Sequence[mx.array], output_dtypes: Sequence[Any], template: Template = ()
) -> Text:
    """The text for inputs of these types and sizes. `template` gives the values of the template arguments."""
    arguments = arguments_of(kernel, inputs, output_dtypes)
    values = [TYPES[v] if isinstance(v, mx.Dtype) else str(int(v)) for _, v in template]
    parts = ["custom_kernel", kernel.name, *(["", *values] if values else [])]
    for array in inputs:
        ending = "s" if array.ndim == 0 else "c" if array.size < CONSTANT_BELOW else ""
        parts.append(TYPES[array.dtype] + ending)
    name = "_".join(parts + [TYPES[dtype] for dtype in output_dtypes])

    lines = []
    for i, a in enumerate(arguments):
        place = f"[[{a.name}]]" if a.source == "attribute" else f"[[buffer({i})]]"
        const = "" if a.source in ("output", "attribute") else "const "
        words = f"{const}{a.space} {a.type}{a.sign}".strip()
        lines.append(f"  {words} {a.name} {place}")
    head = ""
    if template:
        kinds = {bool: "bool", int: "int"}
        head = ", ".join(f"{kinds.get(type(value), 'typename')} {name}" for name, value in template)
        head = f"template <{head}>\n"
    signature = f"[[kernel]] void {name}(\n" + ",\n".join(lines) + ") {\n"
    text = kernel.header + head + signature + kernel.source + "\n}\n"
    function = name
    if template:
        function = f"{name}<{', '.join(values)}>"
        text += f'\ntemplate [[host_name("{name}")]] [[kernel]] decltype({function}) {function};\n'
    return Text(text, function, arguments)


def printed_by_mlx(
    kernel: Kernel, inputs: Sequence[mx.array], output_dtypes: Sequence[Any], template: Template = ()
) -> str | None:
    """The text as MLX itself prints it; None where this MLX cannot.

    Exporting a function only records its kernels, which newer MLX does on machines without Metal too.
    """
    call: Any = mx.fast.metal_kernel(
        name=kernel.name,
        input_names=list(kernel.input_names),
        output_names=list(kernel.output_names),
        source=kernel.source,
        header=kernel.header,
        atomic_outputs=kernel.atomic_outputs,
    )

    def record(*arrays: mx.array) -> list[mx.array]:
        return call(
            inputs=list(arrays),
            template=list(template),
            grid=(1, 1, 1),
            threadgroup=(1, 1, 1),
            verbose=True,
            output_shapes=[(1,)] * len(output_dtypes),
            output_dtypes=list(output_dtypes),
        )

    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "said"), "w+") as said:
        sys.stdout.flush()
        kept = os.dup(1)  # MLX prints from C++
        os.dup2(said.fileno(), 1)
        try:
            mx.export_function(os.path.join(folder, "recorded.mlxfn"), record, *inputs)
        except RuntimeError as error:
            if "No Metal back-end" in str(error):
                return None
            raise
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        said.seek(0)
        printed = said.read()
    found = re.search(r"```\n(.*?)\n```\n", printed, re.DOTALL)
    return found.group(1) if found else None


def renamed(text: str) -> str:
    """The text with the function's name, which varies between versions of MLX, made a fixed one."""
    return re.sub(r"custom_kernel_\w+", "custom_kernel", text)
