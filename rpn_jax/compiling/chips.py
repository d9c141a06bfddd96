"""TPUs and GPUs to compile for without having one: their rates, memory and interconnect."""

import math
import re
from typing import Any, NamedTuple

from rpn_jax.compiling.gpu_targets import CARDS, Card
from rpn_jax.compiling.interconnects import Hosts, Torus
from rpn_jax.errors import UserError

_GIB = 2**30


class Rate(NamedTuple):
    """The peak rate of matrix products."""

    flops: float  # per second, of dense matrices
    words: str


class Rates(NamedTuple):
    """Peak rates of products with float32 sums, by what the layers compute in."""

    bfloat16: Rate
    default: Rate  # what XLA makes of float32 layers unless it is told otherwise
    float32: Rate  # with JAX_DEFAULT_MATMUL_PRECISION=float32


class Chip(NamedTuple):
    """Published data of one chip, of what JAX sees as a device."""

    platform: str  # JAX's name: a key of `compilers.COMPILERS`
    rates: Rates
    hbm_bytes: int
    usable_bytes: int  # of the HBM, for a program
    hbm_bandwidth: float  # bytes per second
    interconnect: Torus | Hosts
    source: str


def _tpu(
    flops: float,
    *,
    hbm_gib: int,
    usable_gib: float,
    hbm_bandwidth: float,
    interconnect: Torus,
    source: str,
) -> Chip:
    """A TPU; what a program can have is from libtpu 0.0.42's error on one that is too large."""
    once = Rate(flops, "one bfloat16 pass, summed in float32")
    six_times = Rate(flops / 6, "six bfloat16 passes, summed in float32")
    rates = Rates(once, once, six_times)
    memory = hbm_gib * _GIB, int(usable_gib * _GIB)
    return Chip("tpu", rates, *memory, hbm_bandwidth, interconnect, source)


def _gpu(
    card: Card, *, bfloat16: float, tf32: float, float32: float, interconnect: Hosts, source: str
) -> Chip:
    """A GPU; JAX takes three quarters of its memory, unless it is told otherwise."""
    rates = Rates(
        Rate(bfloat16, "bfloat16, summed in float32"),
        Rate(tf32, "TF32, summed in float32"),
        Rate(float32, "float32, without tensor cores"),
    )
    memory = card.memory, card.memory * 3 // 4
    return Chip("cuda", rates, *memory, card.bandwidth, interconnect, source)


_HOPPER: dict[str, Any] = {
    "bfloat16": 1979e12 / 2,
    "tf32": 989e12 / 2,
    "float32": 67e12,
    "interconnect": Hosts(link_bandwidth=900e9 / 2, cards=8, network_bandwidth=400e9 / 8),
}
CHIPS = {
    "v4": _tpu(
        275e12,
        hbm_gib=32,
        usable_gib=30.75,
        hbm_bandwidth=1200e9,
        interconnect=Torus(link_bandwidth=50e9, axes=3, ring=4, pod=4096),
        source="cloud.google.com/tpu/docs/v4; links: arXiv 2304.01433, table 4",
    ),
    "v5e": _tpu(
        197e12,
        hbm_gib=16,
        usable_gib=15.75,
        hbm_bandwidth=819e9,
        interconnect=Torus(link_bandwidth=400e9 / 8, axes=2, ring=16, pod=256),
        source="cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": _tpu(
        459e12,
        hbm_gib=95,
        usable_gib=95.74,
        hbm_bandwidth=2765e9,
        interconnect=Torus(link_bandwidth=1200e9 / 12, axes=3, ring=4, pod=8960),
        source="cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": _tpu(
        918e12,
        hbm_gib=32,
        usable_gib=31.25,
        hbm_bandwidth=1640e9,
        interconnect=Torus(link_bandwidth=800e9 / 8, axes=2, ring=16, pod=256),
        source="cloud.google.com/tpu/docs/v6e",
    ),
    # NVIDIA gives most rates for sparse matrices, twice those of dense ones, and links as the sum
    # of both directions. Networks are those of the DGX systems, with a network card for each GPU.
    "a100": _gpu(
        CARDS["a100"],
        bfloat16=312e12,
        tf32=156e12,
        float32=19.5e12,
        interconnect=Hosts(link_bandwidth=600e9 / 2, cards=8, network_bandwidth=200e9 / 8),
        source="NVIDIA A100 datasheet (SXM, 80 GB), DGX A100 datasheet",
    ),
    "l4": _gpu(
        CARDS["l4"],
        bfloat16=242e12 / 2,
        tf32=120e12 / 2,
        float32=30.3e12,
        # Without NVLink: PCIe 4.0 of 16 lanes.
        interconnect=Hosts(link_bandwidth=64e9 / 2, cards=8, network_bandwidth=0),
        source="NVIDIA L4 datasheet",
    ),
    "h100": _gpu(
        CARDS["h100"], **_HOPPER, source="NVIDIA H100 datasheet (SXM), DGX H100 datasheet"
    ),
    "h200": _gpu(
        CARDS["h200"], **_HOPPER, source="NVIDIA H200 datasheet (SXM), DGX H200 datasheet"
    ),
    "b200": _gpu(
        CARDS["b200"],
        bfloat16=4500e12 / 2,
        tf32=2200e12 / 2,
        float32=75e12,
        interconnect=Hosts(link_bandwidth=1800e9 / 2, cards=8, network_bandwidth=400e9 / 8),
        source="NVIDIA Blackwell datasheet (HGX B200), DGX B200 datasheet",
    ),
}


class Topology(NamedTuple):
    """Chips of one kind: "v5e:16x16", a grid; "h100:2x8", two hosts of eight."""

    name: str
    kind: str  # a key of `CHIPS`
    sides: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """The data of one of its chips."""
        return CHIPS[self.kind]

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.sides)

    def collective_seconds(self, kind: str, size: int) -> float:
        """Returns the time of a collective of `size` bytes at full bandwidth, latency left out."""
        return self.chip.interconnect.seconds(kind, size, self.sides)


def parse_topology(name: str) -> Topology:
    """Returns the topology of a name like `v5e:16x16`; raises a `UserError` for any other form."""
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", name)
    chip = CHIPS.get(match[1]) if match else None
    if chip is None:
        raise UserError(
            f"--topology={name}: give a chip ({', '.join(CHIPS)}) and how many of it stand side by "
            "side, such as v5e:2x2, v5e:16x16, v4:2x2x1 or v5p:4x4x4; h100:1 or h100:1x8, a host "
            "of eight"
        )
    sides = tuple(map(int, match[2].split("x")))
    try:
        sides = chip.interconnect.sides_of(match[1], sides)
    except ValueError as error:
        raise UserError(f"--topology={name}: {error}") from error
    return Topology(name, match[1], sides)
