"""What joins chips, and the least time of a collective on it: a TPU's torus, a GPU's switches.

Both kinds have the same methods. `sides` are those of a `Topology`.
"""

import math
from typing import NamedTuple


def passed_bytes(kind: str, size: int | float, count: int) -> float:
    """Returns the bytes that each of `count` chips sends in a collective of `size` bytes.

    Each chip of a ring sends (count - 1) / count of the bytes. An all-reduce does so twice: once to
    sum, and once to distribute the sums.
    """
    if count == 1:
        return 0.0
    rounds = {"all-reduce": 2, "collective-permute": count / (count - 1)}.get(kind, 1)
    return rounds * (count - 1) / count * size


class Torus(NamedTuple):
    """The links of TPUs, in a grid of two or three dimensions.

    Google's pages give the interconnect as the sum of all links in both directions. One link in one
    direction has that sum over twice the number of links; each axis of the torus has two links.
    """

    link_bandwidth: float  # bytes per second of one link, one direction
    axes: int
    ring: int  # an axis with a multiple of this length is closed to a ring
    pod: int  # most chips that can be joined

    def sides_of(self, chip: str, sides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the sides of a grid; raises a `ValueError` that says what to give instead."""
        example = "x".join(["4"] * self.axes)
        if len(sides) != self.axes:
            raise ValueError(
                f"{chip} chips stand in {self.axes} dimensions; give as many sides, such as "
                f"{chip}:{example}"
            )
        chips = math.prod(sides)
        if chips > 1 and any(side % 2 for side in sides[:2]):
            raise ValueError(
                "a host has 2x2 chips, so the first two sides are even (or all are 1); give for "
                f"instance {chip}:{example}"
            )
        if chips > self.pod:
            raise ValueError(
                f"these are {chips} chips, but a {chip} pod has {self.pod}; give a smaller grid"
            )
        return sides

    def links(self, sides: tuple[int, ...]) -> int:
        """Links that a ring all-reduce keeps busy in one direction, at each chip.

        A ring axis carries two reductions at a time, one in each direction. An open axis carries a
        single reduction there and back, over the same links.
        """
        return sum(2 if side % self.ring == 0 else 1 for side in sides if side > 1)

    def rate(self, sides: tuple[int, ...]) -> str:
        """Returns the bandwidth of a chip, in words."""
        return f"{self.links(sides)} x {self.link_bandwidth / 1e9:g} GB/s"

    def seconds(self, kind: str, size: int, sides: tuple[int, ...]) -> float:
        """Returns the time of a collective at full bandwidth, latency left out."""
        passed = passed_bytes(kind, size, math.prod(sides))
        return passed / (self.links(sides) * self.link_bandwidth) if passed else 0.0


class Hosts(NamedTuple):
    """GPUs in hosts: a switch between those of a host, a network card of its own for each."""

    link_bandwidth: float  # bytes per second of a GPU to its host's others, one direction
    cards: int  # most GPUs of a host
    network_bandwidth: float  # a GPU's share of its host's network, one direction; 0: one host

    def sides_of(self, chip: str, sides: tuple[int, ...]) -> tuple[int, ...]:
        """Returns (hosts, GPUs of each); raises a `ValueError` that says what to give instead."""
        if len(sides) > 2:
            raise ValueError(
                f"{chip} cards stand in hosts; give their number, such as {chip}:1x{self.cards}"
            )
        hosts, cards = sides if len(sides) == 2 else (1, *sides)
        if cards > self.cards:
            raise ValueError(
                f"a host has at most {self.cards} cards; give hosts and cards of each, such as "
                f"{chip}:{2 if self.network_bandwidth else 1}x{self.cards}"
            )
        if hosts > 1 and not self.network_bandwidth:
            raise ValueError(
                f"no network between hosts of {chip} is known here; give one host, such as "
                f"{chip}:1x{self.cards}"
            )
        return hosts, cards

    def rate(self, sides: tuple[int, ...]) -> str:
        """Returns the bandwidth of a GPU, in words."""
        hosts, cards = sides
        rates = [self.link_bandwidth] * (cards > 1) + [self.network_bandwidth] * (hosts > 1)
        return " and ".join(f"{rate / 1e9:g}" for rate in rates or [0]) + " GB/s"

    def seconds(self, kind: str, size: int, sides: tuple[int, ...]) -> float:
        """Returns the time of a collective at full bandwidth, latency left out.

        The GPUs of a host first share the work; then each exchanges its part with its peers of the
        other hosts. Done in pieces the two overlap, and the slower one is the bound.
        """
        hosts, cards = sides
        inside = passed_bytes(kind, size, cards) / self.link_bandwidth
        between = passed_bytes(kind, size / cards, hosts)
        return max(inside, between / self.network_bandwidth if between else 0.0)
