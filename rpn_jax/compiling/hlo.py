"""Analysis of a compiled XLA program from its HLO text: traffic, loops, collectives.

The text lists computations, each a list of instructions `%name = shape opcode(...)`. ENTRY is the
program; loops and fusions call the others. The layout of an array in the chip's own memory, not in
its HBM, ends with S(1) (or another number but 0).
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Without traffic of their own: they rename or regroup arrays, or their callees are counted.
_FREE = (
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
)
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([^}]*)\})?")


class ArrayShape(NamedTuple):
    """An array of a (tuple) shape."""

    bits: int  # of an element
    size: int  # elements
    in_hbm: bool

    @property
    def bytes(self) -> int:
        """Without the padding of its layout."""
        return self.bits * self.size // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shape: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    attributes: str  # the line from the operands on


class Kernel(NamedTuple):
    """An instruction that runs, with the bytes to and from the HBM of one execution."""

    instruction: Instruction
    times: int
    bytes: int


class Collective(NamedTuple):
    """An instruction that exchanges data between devices."""

    kind: str
    name: str
    computation: str
    arrays: tuple[ArrayShape, ...]  # the results
    source: str  # the JAX operation that it implements; one of them if several were merged
    times: int  # executions in a run of the program
    asynchronous: bool  # other work can overlap

    @property
    def bytes(self) -> int:
        """The bytes of one execution."""
        return sum(array.bytes for array in self.arrays)


class Program(NamedTuple):
    """The computations of a compiled program, by name."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def loops(self) -> dict[str, int]:
        """Returns the number of iterations of each loop's body, 1 where it is unknown.

        The condition of a `lax.scan` compares its counter, from 0, with the number of steps. The
        GPU's compiler writes the number beside the loop.
        """
        trips = {}
        for instruction in self._instructions():
            if instruction.opcode != "while":
                continue
            written = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            condition, body = (
                re.search(rf"{part}=%?([\w.-]+)", instruction.attributes)[1]
                for part in ("condition", "body")
            )
            limits = [
                re.match(r"\d+(?=\))", other.attributes)
                for other in self.computations[condition]
                if other.opcode == "constant"
            ]
            last = self.computations[condition][-1]
            known = len(limits) == 1 and limits[0] and "direction=LT" in last.attributes
            trips[body] = int(written[1] if written else limits[0][0] if known else 1)
        return trips

    def collectives(self) -> list[Collective]:
        """Returns every collective that runs, in all called computations."""
        found = []
        for name, times in self._runs().items():
            for instruction in self.computations[name]:
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                started = instruction.opcode != kind
                source = re.search(r'op_name="([^"]*)"', instruction.attributes)
                found.append(
                    Collective(
                        kind,
                        instruction.name,
                        name,
                        self._exchanged(instruction, name),
                        source[1] if source else "",
                        times,
                        started or "async" in name,
                    )
                )
        return found

    def hbm_bytes(self) -> int:
        """Returns an estimate of the bytes to and from the HBM in a run of the program.

        Each instruction (a fusion is one) reads its operands and writes its result once. Arrays in
        the chip's own memory do not count. An operand counts whole even if a fusion reads a part.
        """
        return sum(kernel.times * kernel.bytes for kernel in self.kernels())

    def kernels(self) -> Iterator[Kernel]:
        """Yields what a run of the program executes one after another; a fusion is one kernel."""
        for name, times in self._runs(fused=False).items():
            by_name = {line.name: line for line in self.computations[name]}
            for instruction in self.computations[name]:
                opcode = instruction.opcode
                if opcode in (*_FREE, "call", "conditional") or opcode.endswith("-start"):
                    continue
                yield Kernel(instruction, times, _traffic(instruction, by_name))

    def opcodes(self, instruction: Instruction) -> Iterator[str]:
        """Yields the operations that an instruction is made of: those of a fusion, or its own."""
        callees = [name for name in _callees(instruction) if name in self.computations]
        if not callees:
            yield instruction.opcode
        for name in callees:
            for line in self.computations[name]:
                yield from self.opcodes(line)

    def _exchanged(self, instruction: Instruction, computation: str) -> tuple[ArrayShape, ...]:
        """Returns the arrays that come out of a collective, or of one that only starts."""
        arrays, count = instruction.shape, len(instruction.operands)
        if len(arrays) > count:
            # (what goes in, what comes out, …) of the operation under way.
            arrays = arrays[count:][:count]
        if len(arrays) > 1:
            return arrays
        # The GPU's compiler puts arrays one after another to exchange them as one.
        by_name = {line.name: line for line in self.computations[computation]}
        joined = by_name.get(instruction.operands[0]) if instruction.operands else None
        if joined and joined.opcode == "fusion":
            (callee,) = _callees(joined)
            by_name = {line.name: line for line in self.computations[callee]}
            joined = self.computations[callee][-1]
        if joined is None or joined.opcode != "concatenate":
            return arrays
        parts = tuple(array for name in joined.operands for array in by_name[name].shape)
        is_whole = sum(part.size for part in parts) == arrays[0].size
        return parts if is_whole else arrays

    def _instructions(self) -> Iterator[Instruction]:
        for instructions in self.computations.values():
            yield from instructions

    def _runs(self, fused: bool = True) -> dict[str, int]:
        """Returns how often each computation runs; with `fused` False, without those in fusions."""
        loops = self.loops()
        runs: dict[str, int] = {}
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            runs[name] = runs.get(name, 0) + times
            for instruction in self.computations[name]:
                if instruction.opcode in ("fusion", "custom-call") and not fused:
                    continue
                callees = [name for name in _callees(instruction) if name in self.computations]
                repeats = max((loops.get(name, 1) for name in callees), default=1)
                stack += [(name, times * repeats) for name in callees]
        return runs


def parse_program(text: str) -> Program:
    """Returns the program of an HLO text, as `jax.stages.Compiled.as_text` gives it."""
    computations, entry, name = {}, "", ""
    for line in text.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif name and (start := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)):
            computations[name].append(_instruction(start[1], line[start.end() :]))
    return Program({key: tuple(lines) for key, lines in computations.items()}, entry)


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text) if text.startswith("(") else text.index(" ")
    opcode, _, rest = text[end:].strip().partition("(")
    close = _closing("(" + rest) - 1
    operands = re.findall(r"%([\w.-]+)", rest[:close])
    return Instruction(name, opcode, _arrays(text[:end]), tuple(operands), rest)


def _closing(text: str) -> int:
    """Returns the position after the bracket that closes the text's first one."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _arrays(shape: str) -> tuple[ArrayShape, ...]:
    arrays = []
    for kind, bits, sides, layout in _ARRAY.findall(shape):
        if kind in ("token", "opaque"):
            continue
        size = math.prod(int(side) for side in sides.split(",") if side)
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(ArrayShape(int(bits or 8), size, not space or space[1] == "0"))
    return tuple(arrays)


def _callees(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction runs, without those of reductions."""
    found = re.findall(
        r"(?:calls|body|condition|true_computation|false_computation)=%?([\w.-]+)",
        instruction.attributes,
    )
    for group in re.findall(r"(?:branch|called)_computations=\{([^}]*)\}", instruction.attributes):
        found += re.findall(r"%?([\w.-]+)", group)
    if instruction.opcode == "call":
        found += re.findall(r"to_apply=%?([\w.-]+)", instruction.attributes)
    return found


def _traffic(instruction: Instruction, by_name: Mapping[str, Instruction]) -> int:
    """Returns the bytes that an instruction moves; `by_name` has those of its computation."""
    shape, operands = instruction.shape, instruction.operands

    def arrays_of(names):
        return [array for name in names if name in by_name for array in by_name[name].shape]

    if instruction.opcode.endswith("-done"):
        # Traffic is the size of the result, however large the operand.
        source = arrays_of(by_name[operands[0]].operands[:1]) if operands[0] in by_name else []
        sides = any(array.in_hbm for array in source) + any(array.in_hbm for array in shape)
        return sides * sum(array.bytes for array in shape)
    if len(shape) > 1 and 'custom_call_target="__cu' in instruction.attributes:
        shape = shape[:-1]  # NVIDIA's libraries return their scratch memory last
    return sum(array.bytes for array in (*shape, *arrays_of(operands)) if array.in_hbm)
