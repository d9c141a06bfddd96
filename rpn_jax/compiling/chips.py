"""TPU chips that a step can be compiled for without one: what they can do, how they are joined."""

import math
import re
from typing import NamedTuple

from rpn_jax.errors import UserError

_GIB = 2**30


class Chip(NamedTuple):
    """What the maker publishes of one chip; bandwidths are in bytes a second.

    Google's pages give the interconnect as the sum of all links in both directions; a link's share
    of one direction is that over twice the number of links, two for each axis of the torus.
    """

    flops: float  # a second, of bfloat16 products with float32 sums
    hbm_bytes: int
    usable_bytes: int  # what libtpu 0.0.42 leaves a program, as it says of one that is too large
    hbm_bandwidth: float
    link_bandwidth: float  # one link, one direction
    axes: int  # of the torus
    ring: int  # an axis whose length is a multiple of this is closed to a ring
    pod: int  # chips that are joined at most
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
        """How many there are."""
        return math.prod(self.sides)

    @property
    def links(self) -> int:
        """Links that a ring all-reduce keeps busy in one direction, at each chip.

        An axis that is closed to a ring carries one reduction in either direction at a time; along
        an open one a single reduction goes there and back, over the same links.
        """
        return sum(2 if side % self.chip.ring == 0 else 1 for side in self.sides if side > 1)

    def collective_seconds(self, kind: str, size: int) -> float:
        """Returns the time of a collective of `size` bytes at full bandwidth, latency left out.

        Of n chips in a ring, each passes on (n - 1) / n of the bytes, and an all-reduce does so
        twice, once to sum and once to spread the sums.
        """
        if self.chips == 1:
            return 0.0
        rounds = {"all-reduce": 2, "collective-permute": self.chips / (self.chips - 1)}.get(kind, 1)
        passed = rounds * (self.chips - 1) / self.chips * size
        return passed / (self.links * self.chip.link_bandwidth)


def parse_topology(name: str) -> Topology:
    """Returns the topology that `v5e:16x16` names; another form or size is a `UserError`."""
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
