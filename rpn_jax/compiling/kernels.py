"""The kernels of a compiled program by kind: what runs, how often, and the bytes that it moves."""

import re
from typing import NamedTuple

from rpn_jax.compiling.hlo import COLLECTIVES, Instruction, Program

# A fusion is of the first kind that has one of its operations.
_KINDS = {
    "convolution": ("convolution",),
    "matrix product": ("dot",),
    "sort": ("sort", "topk"),
    "scatter": ("scatter", "select-and-scatter"),
    "gather": ("gather",),
    "random bits": ("rng-bit-generator", "rng-get-and-update-state"),
    "reduction": ("reduce", "reduce-window"),
    "copy or transpose": ("copy", "copy-done", "transpose"),
    "exchange": (*COLLECTIVES, *(f"{name}-done" for name in COLLECTIVES)),
}
# Library calls, by their targets.
_TARGETS = {
    r"cudnn\$conv|^dot_conv": "convolution",
    r"cublas|gemm|cudnn\$fmha": "matrix product",
    r"(?i)radixsort|topk|^sort": "sort",
}


class Kernels(NamedTuple):
    """Kernels of one kind."""

    number: int  # executions in a run
    bytes: int


def kind_of(instruction: Instruction, program: Program) -> str:
    """Returns the kind of a kernel: that of what takes longest in it."""
    if instruction.opcode == "custom-call":
        found = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
        target = found[1] if found else "custom-call"
        if "triton" not in target:
            known = (kind for name, kind in _TARGETS.items() if re.search(name, target))
            return next(known, target)
    opcodes = set(program.opcodes(instruction))
    return next(
        (kind for kind, names in _KINDS.items() if opcodes & {*names}), "element by element"
    )


def kernels_by_kind(program: Program) -> dict[str, Kernels]:
    """Returns the kernels of each kind, those that move most bytes first.

    The body of a loop counts as often as it runs, once where that is not known.
    """
    found: dict[str, Kernels] = {}
    for kernel in program.kernels():
        kind = kind_of(kernel.instruction, program)
        number, moved = found.get(kind, (0, 0))
        found[kind] = Kernels(number + kernel.times, moved + kernel.times * kernel.bytes)
    return dict(sorted(found.items(), key=lambda item: -item[1].bytes))
