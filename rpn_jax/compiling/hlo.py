"""What a program that XLA has compiled does, read from its text: traffic, loops, collectives.

The text has a computation after another, each a list of instructions `%name = shape opcode(...)`;
ENTRY is the program, and loops and fusions call the others. The layout of an array that lives in
the chip's own memory, and not in its HBM, ends with S(1) (or another number but 0).
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
# They name or regroup what is there, or are counted where what they call is.
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


class Collective(NamedTuple):
    """An instruction by which the devices exchange something."""

    kind: str
    name: str
    computation: str
    arrays: tuple[ArrayShape, ...]  # those that come out of it
    source: str  # the JAX operation that it was made for; one of them, where several were merged
    times: int  # in a run of the program
    asynchronous: bool  # other work can go on meanwhile

    @property
    def bytes(self) -> int:
        """Of one time."""
        return sum(array.bytes for array in self.arrays)


class Program(NamedTuple):
    """The computations of a compiled program, by name."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def loops(self) -> dict[str, int]:
        """Returns how often the body of each loop runs: 1 where that cannot be told.

        The condition of a `lax.scan` compares its counter, from 0, with the number of steps.
        """
        trips = {}
        for instruction in self._instructions():
            if instruction.opcode != "while":
                continue
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
            trips[body] = int(limits[0][0]) if known else 1
        return trips

    def collectives(self) -> list[Collective]:
        """Returns every collective that runs, wherever it is called from."""
        found = []
        for name, times in self._runs().items():
            for instruction in self.computations[name]:
                kind = instruction.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                started = instruction.opcode != kind
                arrays = instruction.shape
                if started and kind != "all-reduce":
                    # (what goes in, what comes out, …) of the operation under way.
                    arrays = arrays[len(instruction.operands) :][: len(instruction.operands)]
                source = re.search(r'op_name="([^"]*)"', instruction.attributes)
                found.append(
                    Collective(
                        kind,
                        instruction.name,
                        name,
                        arrays,
                        source[1] if source else "",
                        times,
                        started or "async" in name,
                    )
                )
        return found

    def hbm_bytes(self) -> int:
        """Returns about how many bytes go to and from the HBM in a run of the program.

        Each instruction, a fusion being one, reads its operands and writes its result once, those
        that are in the chip's own memory left out. An operand of which a fusion reads but a part
        counts whole.
        """
        called = self._runs(fused=False)
        return sum(times * _traffic(self.computations[name]) for name, times in called.items())

    def _instructions(self) -> Iterator[Instruction]:
        for instructions in self.computations.values():
            yield from instructions

    def _runs(self, fused: bool = True) -> dict[str, int]:
        """Returns how often each computation runs; without those inside fusions, if asked."""
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
    """Returns where the bracket that opens the text has been closed."""
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
    """Returns the computations that an instruction runs, not those that combine two numbers."""
    found = re.findall(
        r"(?:calls|body|condition|true_computation|false_computation)=%?([\w.-]+)",
        instruction.attributes,
    )
    for group in re.findall(r"(?:branch|called)_computations=\{([^}]*)\}", instruction.attributes):
        found += re.findall(r"%?([\w.-]+)", group)
    if instruction.opcode == "call":
        found += re.findall(r"to_apply=%?([\w.-]+)", instruction.attributes)
    return found


def _traffic(instructions: tuple[Instruction, ...]) -> int:
    by_name = {instruction.name: instruction for instruction in instructions}

    def arrays_of(names):
        return [array for name in names if name in by_name for array in by_name[name].shape]

    total = 0
    for instruction in instructions:
        opcode, shape, operands = instruction.opcode, instruction.shape, instruction.operands
        if opcode in (*_FREE, "call", "conditional") or opcode.endswith("-start"):
            continue
        if opcode.endswith("-done"):
            # What was moved has the size of what arrives, whatever it was cut from.
            source = arrays_of(by_name[operands[0]].operands[:1]) if operands[0] in by_name else []
            sides = any(array.in_hbm for array in source) + any(array.in_hbm for array in shape)
            total += sides * sum(array.bytes for array in shape)
        else:
            moved = [*shape, *arrays_of(operands)]
            total += sum(array.bytes for array in moved if array.in_hbm)
    return total
