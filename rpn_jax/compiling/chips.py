"""TPU chips to compile for without having one: their rates, memory and interconnect."""

import math
import re
from typing import NamedTuple

from rpn_jax.errors import UserError

_GIB = 2**30


class Chip(NamedTuple):
    """Published data of one chip; bandwidths are in bytes per second.

    Google's pages give the interconnect as the sum of all links in both directions. One link in one
    direction has that sum over twice the number of links; each axis of the torus has two links.
    """

    flops: float  # per second, of bfloat16 products with float32 sums
    hbm_bytes: int
    usable_bytes: int  # HBM for a program, from libtpu 0.0.42's error on one that is too large
    hbm_bandwidth: float
    link_bandwidth: float  # one link, one direction
    axes: int  # of the torus
    ring: int  # an axis with a multiple of this length is closed to a ring
    pod: int  # most chips that can be joined
    source: str


CHIPS = {
    "v4": Chip(
        flops=275e12,
        hbm_bytes=32 * _GIB,
        usable_bytes=int(30.75 * _GIB),
        hbm_bandwidth=1200e9,
        link_bandwidth=50e9,
        axes=3,
        ring=4,
        pod=4096,
        source="cloud.google.com/tpu/docs/v4; links: arXiv 2304.01433, table 4",
    ),
    "v5e": Chip(
        flops=197e12,
        hbm_bytes=16 * _GIB,
        usable_bytes=int(15.75 * _GIB),
        hbm_bandwidth=819e9,
        link_bandwidth=400e9 / 8,
        axes=2,
        ring=16,
        pod=256,
        source="cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": Chip(
        flops=459e12,
        hbm_bytes=95 * _GIB,
        usable_bytes=int(95.74 * _GIB),
        hbm_bandwidth=2765e9,
        link_bandwidth=1200e9 / 12,
        axes=3,
        ring=4,
        pod=8960,
        source="cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": Chip(
        flops=918e12,
        hbm_bytes=32 * _GIB,
        usable_bytes=int(31.25 * _GIB),
        hbm_bandwidth=1640e9,
        link_bandwidth=800e9 / 8,
        axes=2,
        ring=16,
        pod=256,
        source="cloud.google.com/tpu/docs/v6e",
    ),
}


class Topology(NamedTuple):
    """Chips of one kind in a grid: "v5e:16x16"."""

    name: str
    chip: Chip
    sides: tuple[int, ...]

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.sides)

    @property
    def links(self) -> int:
        """Links that a ring all-reduce keeps busy in one direction, at each chip.

        A ring axis carries two reductions at a time, one in each direction. An open axis carries a
        single reduction there and back, over the same links.
        """
        return sum(2 if side % self.chip.ring == 0 else 1 for side in self.sides if side > 1)

    def collective_seconds(self, kind: str, size: int) -> float:
        """Returns the time of a collective of `size` bytes at full bandwidth, latency left out.

        Each of n chips in a ring sends (n - 1) / n of the bytes. An all-reduce does so twice: once
        to sum, and once to distribute the sums.
        """
        if self.chips == 1:
            return 0.0
        rounds = {"all-reduce": 2, "collective-permute": self.chips / (self.chips - 1)}.get(kind, 1)
        passed = rounds * (self.chips - 1) / self.chips * size
        return passed / (self.links * self.chip.link_bandwidth)


def parse_topology(name: str) -> Topology:
    """Returns the topology of a name like `v5e:16x16`; raises a `UserError` for any other form."""
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", name)
    chip = CHIPS.get(match[1]) if match else None
    if chip is None:
        raise UserError(
            f"--topology={name}: give a chip ({', '.join(CHIPS)}) and how many of it stand side by "
            "side, such as v5e:2x2, v5e:16x16, v6e:2x4, v4:2x2x1 or v5p:4x4x4"
        )
    sides = tuple(map(int, match[2].split("x")))
    example = "x".join(["4"] * chip.axes)
    if len(sides) != chip.axes:
        raise UserError(
            f"--topology={name}: {match[1]} chips stand in {chip.axes} dimensions; give as many "
            f"sides, such as {match[1]}:{example}"
        )
    topology = Topology(name, chip, sides)
    if topology.chips > 1 and any(side % 2 for side in sides[:2]):
        raise UserError(
            f"--topology={name}: a host has 2x2 chips, so the first two sides are even (or all "
            f"are 1); give for instance {match[1]}:{example}"
        )
    if topology.chips > chip.pod:
        raise UserError(
            f"--topology={name}: these are {topology.chips} chips, but a {match[1]} pod has "
            f"{chip.pod}; give a smaller grid"
        )
    return topology
