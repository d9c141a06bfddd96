"""The report of `compile`: the training step, compiled for absent TPUs or GPUs.

Compiling needs no accelerator, data or weights: arguments are shapes. The report says whether the
step fits into a chip's memory, its least possible time, and what the chips exchange. The bound is a
roofline (Williams et al., "Roofline", CACM 52(4), 2009): a step takes at least the time of its
products at the chip's peak rate, and at least the time of its bytes at the HBM's bandwidth.
"""

import re
import sys
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rpn_jax.compiling.chips import Rate, Topology, parse_topology
from rpn_jax.compiling.compilers import check_compiler, described_devices
from rpn_jax.compiling.flops import step_flops
from rpn_jax.compiling.hlo import Collective, parse_program
from rpn_jax.compiling.kernels import Kernels, kernels_by_kind
from rpn_jax.compiling.largest_batch import DoesNotFitError, largest_that_fits
from rpn_jax.data.canvases import largest_canvas_hw
from rpn_jax.errors import UserError
from rpn_jax.models.rcnn import trainable_mask
from rpn_jax.runs.config import random_key
from rpn_jax.runs.devices import parallel_update
from rpn_jax.training.build import build_detector, build_train_step, frozen_paths, state_shapes
from rpn_jax.training.optimizer import build_optimizer, optimizer_numbers
from rpn_jax.training.splits import with_known_classes
from rpn_jax.training.state import partition
from rpn_jax.typing import GroundTruth, Images, Proposals

# Ground-truth slots if the config does not say how many; they cost almost nothing.
MAX_OBJECTS = 48


class Measured(NamedTuple):
    """The compiler's analysis of one chip's step; memory is in bytes."""

    per_chip: int  # images
    compile_seconds: float
    memory: dict[str, int]
    flops: float
    xla_bytes: float | None  # from XLA's cost analysis, with the chip's own memory; not of GPUs
    hbm_bytes: int
    loops: dict[str, int]
    kernels: dict[str, Kernels]
    collectives: list[Collective]

    @property
    def needed(self) -> int:
        """The HBM that the step needs; the new state replaces the old one in place."""
        return sum(self.memory.values()) - 2 * self.memory["aliased"]


def compile_report(
    config: ConfigDict, topology: str, *, largest_batch: bool = False
) -> dict[str, Any]:
    """Returns the report as JSON types, for `format_report`; with the largest batch if asked.

    Raises:
        UserError: there is no compiler for the chips, the topology or config is impossible, or the
            chips cannot share the batch evenly or hold it in memory.
    """
    config = with_known_classes(config)
    grid = parse_topology(topology)
    per_chip = images_per_chip(config, grid)
    check_compiler(grid)
    step = StepCompiler(config, grid)
    try:
        measured = step.measure(per_chip)
    except DoesNotFitError as error:
        raise UserError(
            f"config.batch_size={config.batch_size}: {per_chip} images a chip do not fit on "
            f"{topology} ({error}); lower it, or give --config.accumulation=N, "
            "--config.model.remat=true or --config.model.dtype=bfloat16"
        ) from error
    report = _report(config, grid, step, measured)
    if largest_batch:
        report["largest_batch"] = step.largest_batch(measured)
    return report


def images_per_chip(config: ConfigDict, topology: Topology) -> int:
    """Returns each chip's share of `config.batch_size`; raises a `UserError` if it is uneven."""
    count = topology.chips * config.accumulation
    if config.batch_size < 1 or config.batch_size % count:
        micro_batches = (
            f" in {config.accumulation} micro-batches each" if config.accumulation > 1 else ""
        )
        raise UserError(
            f"config.batch_size={config.batch_size}: the {topology.chips} chips of "
            f"{topology.name} cannot share it evenly{micro_batches}; give "
            f"--config.batch_size={count} or another multiple of {count}"
        )
    return config.batch_size // topology.chips


class StepCompiler:
    """The training step of a config on a topology, for any number of images."""

    def __init__(self, config: ConfigDict, topology: Topology):
        detector = build_detector(config)
        schedule, optimizer = build_optimizer(config)
        sides = config.data.shorter_sides or (config.data.shorter_side,)
        self.canvas_hw = largest_canvas_hw(max(sides), config.data.longer_side)
        if config.data.jitter.scales:
            self.canvas_hw = config.data.jitter.canvas
        self.max_objects = config.data.max_objects or MAX_OBJECTS
        self.state = state_shapes(config, detector.network, optimizer)
        mask = trainable_mask(self.state.params, frozen_paths(config))
        self._key = jax.eval_shape(lambda: random_key(config))
        numbers = {"learning_rate": 0.0, **optimizer_numbers(config)}
        self._numbers = dict.fromkeys(numbers, jax.ShapeDtypeStruct((), jnp.float32))
        self.trainable = jax.tree.leaves(partition(self.state.params, mask)[0])
        self._topology = topology
        self._accumulation = config.accumulation
        self._proposals = 0 if "rpn" in config else config.data.proposals.train_top_n
        self._cut_size = config.mask.cut_size if "mask" in config else 0
        self._step = build_train_step(config, detector, optimizer, schedule)
        self._update = parallel_update(self._step, described_devices(topology))

    def measure(self, per_chip: int) -> Measured:
        """Compiles the step for `per_chip` images on each chip; takes minutes on few CPUs.

        Raises:
            DoesNotFitError: the step needs more memory than a chip has.
        """
        print(
            f"compiling for {self._topology.name}, {per_chip} images a chip …",
            file=sys.stderr,
            flush=True,
        )
        lowered = self._update.lower(self.state, self._batch(per_chip), self._key, self._numbers)
        start = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            line = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
            print(f"they do not fit: {line}", file=sys.stderr)
            raise DoesNotFitError(line) from error
        seconds = time.perf_counter() - start
        measured = self._analysis(compiled, per_chip, seconds)
        # The GPU's compiler does not refuse a program that is too large.
        if measured.needed > (usable := self._topology.chip.usable_bytes):
            raise DoesNotFitError(f"used {measured.needed / 2**30:.2f}G of {usable / 2**30:.2f}G")
        return measured

    def _analysis(self, compiled: jax.stages.Compiled, per_chip: int, seconds: float) -> Measured:
        memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
        # The GPU's compiler does not say.
        flops = cost["flops"] if cost else self._flops(per_chip)
        program = parse_program(compiled.as_text())
        loops = program.loops()
        # XLA counts a loop's body once, and most work is in the loop over micro-batches.
        repeated = self._accumulation if self._accumulation in loops.values() else 1
        return Measured(
            per_chip=per_chip,
            compile_seconds=seconds,
            memory={
                "arguments": memory.argument_size_in_bytes,
                "outputs": memory.output_size_in_bytes,
                "aliased": memory.alias_size_in_bytes,
                "temporaries": memory.temp_size_in_bytes,
                "code": memory.generated_code_size_in_bytes,
            },
            flops=flops * repeated,
            xla_bytes=cost["bytes accessed"] * repeated if cost else None,
            hbm_bytes=program.hbm_bytes(),
            loops=loops,
            kernels=kernels_by_kind(program),
            collectives=program.collectives(),
        )

    def _flops(self, per_chip: int) -> float:
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self._batch(per_chip)
        )
        platform = self._topology.chip.platform
        return step_flops(self._step, self.state, batch, self._key, platform=platform)

    def largest_batch(self, measured: Measured) -> dict[str, Any]:
        """Returns the largest number of images per chip that fits, by a few compilations."""
        largest, used, tried = largest_that_fits(
            lambda per_chip: self.measure(per_chip).needed,
            (measured.per_chip, measured.needed),
            fixed=_tree_bytes(self.state),
            available=self._topology.chip.usable_bytes,
            multiple=self._accumulation,
        )
        return {
            "per_chip": largest,
            "global": largest * self._topology.chips,
            "hbm_bytes": used,
            "too_large": min((count for count in tried if count > largest), default=None),
            "compiled": tried,
        }

    def _batch(self, per_chip: int) -> Images:
        lead, slots = (self._topology.chips, per_chip), self.max_objects

        def shaped(*sides: int, dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((*lead, *sides), dtype)

        proposals = None
        if count := self._proposals:
            proposals = Proposals(
                shaped(count, 4, dtype=np.float32),
                shaped(count, dtype=np.float32),
                shaped(count, dtype=np.bool_),
                shaped(count, dtype=np.int32),
            )
        return Images(
            proposals=proposals,
            images=shaped(*self.canvas_hw, 3, dtype=np.uint8),
            image_hw=shaped(2, dtype=np.float32),
            image_index=shaped(dtype=np.int32),
            ground_truth=GroundTruth(
                shaped(slots, 4, dtype=np.float32),
                shaped(slots, dtype=np.bool_),
                shaped(slots, dtype=np.bool_),
                shaped(slots, dtype=np.int32),
                shaped(slots, *2 * [self._cut_size], dtype=np.uint8) if self._cut_size else None,
            ),
        )


def _tree_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def split_gradients(
    collectives: list[Collective], trainable: list[jax.ShapeDtypeStruct]
) -> list[int]:
    """Returns the bytes of gradients in each collective: arrays with the size of a parameter.

    Each parameter is assigned once, to the collective with the most arrays.
    """
    wanted = Counter(leaf.size for leaf in trainable)
    of_gradients = [0] * len(collectives)
    for place in sorted(range(len(collectives)), key=lambda place: -len(collectives[place].arrays)):
        for array in collectives[place].arrays:
            if wanted[array.size] > 0:
                wanted[array.size] -= 1
                of_gradients[place] += array.bytes
    return of_gradients


def product_rate(config: ConfigDict, topology: Topology) -> Rate:
    """Returns the peak rate of a chip's products in the precision of the config's layers."""
    rates = topology.chip.rates
    if config.model.dtype == "bfloat16":
        return rates.bfloat16
    is_exact = jax.config.jax_default_matmul_precision in ("float32", "highest")
    return rates.float32 if is_exact else rates.default


def _report(
    config: ConfigDict, topology: Topology, step: StepCompiler, measured: Measured
) -> dict[str, Any]:
    chip, per_chip = topology.chip, measured.per_chip
    gradient_bytes = split_gradients(measured.collectives, step.trainable)
    collectives = [
        {
            "kind": collective.kind,
            "computation": collective.computation,
            "arrays": len(collective.arrays),
            "bytes": collective.bytes,
            "times": collective.times,
            "gradient_bytes": of_gradients,
            "other_bytes": collective.bytes - of_gradients,
            "purpose": _purpose(collective, of_gradients),
            "source": collective.source,
            "asynchronous": collective.asynchronous,
            "seconds": collective.times
            * topology.collective_seconds(collective.kind, collective.bytes),
        }
        for collective, of_gradients in zip(measured.collectives, gradient_bytes, strict=True)
    ]
    rate = product_rate(config, topology)
    compute = measured.flops / rate.flops
    memory = measured.hbm_bytes / chip.hbm_bandwidth
    exchange = sum(collective["seconds"] for collective in collectives)
    # No work is left to overlap with the last gradient's sum, unless the compiler found some.
    waiting = sum(c["seconds"] for c in collectives if not c["asynchronous"])
    seconds = max(compute, memory, exchange - waiting) + waiting
    return {
        "topology": topology.name,
        "chips": topology.chips,
        "chip": {
            "platform": chip.platform,
            "flops": rate.flops,
            "products": rate.words,
            "hbm_bytes": chip.hbm_bytes,
            "hbm_bandwidth": chip.hbm_bandwidth,
            "interconnect": chip.interconnect.rate(topology.sides),
            "source": chip.source,
        },
        "jax": jax.__version__,
        "backbone": config.model.backbone,
        "dtype": config.model.dtype,
        "batch_size": config.batch_size,
        "images_per_chip": per_chip,
        "canvas_hw": list(step.canvas_hw),
        "max_objects": step.max_objects,
        "compile_seconds": round(measured.compile_seconds, 1),
        "hbm": {**measured.memory, "needed": measured.needed, "usable": chip.usable_bytes},
        "flops_per_step": measured.flops * topology.chips,
        "flops_per_image": measured.flops / per_chip,
        "hbm_bytes_per_chip": measured.hbm_bytes,
        "xla_bytes_accessed_per_chip": measured.xla_bytes,
        "flops_per_byte": measured.flops / measured.hbm_bytes,
        "chip_flops_per_byte": rate.flops / chip.hbm_bandwidth,
        "bound": "compute" if compute >= memory else "memory",
        "compute_seconds": compute,
        "memory_seconds": memory,
        "collective_seconds": exchange,
        "best_step_seconds": seconds,
        "best_images_per_second_per_chip": per_chip / seconds,
        "best_images_per_second": config.batch_size / seconds,
        "loops": measured.loops,
        "trainable_bytes": _tree_bytes(step.trainable),
        "kernels": {kind: of_kind._asdict() for kind, of_kind in measured.kernels.items()},
        "collectives": collectives,
    }


def _purpose(collective: Collective, gradient_bytes: int) -> str:
    """Returns the purpose of a collective, in words."""
    parts = ["gradients"] if gradient_bytes else []
    if gradient_bytes < collective.bytes:
        scalars = all(array.size == 1 for array in collective.arrays)
        if gradient_bytes or scalars:
            parts.append("metrics")
        elif re.search(r"BatchNorm|/norm", collective.source):
            parts.append("batch statistics")
        else:
            parts.append(collective.source.rpartition("shard_map/")[2] or "unknown")
    return ", ".join(parts)
