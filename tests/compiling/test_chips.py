import re

import pytest

from rpn_jax.compiling.chips import CHIPS, parse_topology
from rpn_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "chips", "links"),
    [
        ("v5e:1x1", 1, 0),
        ("v5e:2x2", 4, 2),  # an open row and an open column
        ("v5e:8x16", 128, 3),  # the columns are closed to rings
        ("v5e:16x16", 256, 4),
        ("v6e:2x4", 8, 2),
        ("v4:2x2x1", 4, 2),
        ("v5p:4x4x8", 128, 6),
    ],
)
def test_chips_and_links_of_a_grid(name, chips, links):
    topology = parse_topology(name)
    assert topology.chips == chips
    torus = topology.chip.interconnect
    assert torus.links(topology.sides) == links <= 2 * torus.axes
    assert torus.rate(topology.sides).startswith(f"{links} x ")


@pytest.mark.parametrize(
    ("name", "sides", "rate"),
    [
        ("h100:1", (1, 1), "0 GB/s"),
        ("h100:1x1", (1, 1), "0 GB/s"),
        ("h100:8", (1, 8), "450 GB/s"),
        ("h100:1x8", (1, 8), "450 GB/s"),
        ("b200:2x8", (2, 8), "900 and 50 GB/s"),
        ("a100:16x1", (16, 1), "25 GB/s"),
        ("l4:1x4", (1, 4), "32 GB/s"),
    ],
)
def test_hosts_and_cards(name, sides, rate):
    topology = parse_topology(name)
    assert topology.sides == sides
    assert topology.chips == sides[0] * sides[1]
    assert topology.chip.interconnect.rate(sides) == rate


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "give a chip (v4, v5e, v5p, v6e, a100, l4, h100, h200, b200)"),
        ("v5e", "give a chip"),
        ("v5e:0x2", "give a chip"),
        ("v5e:2x2 ", "give a chip"),
        ("v5e:4", "v5e chips stand in 2 dimensions; give as many sides, such as v5e:4x4"),
        ("v4:2x2", "v4 chips stand in 3 dimensions; give as many sides, such as v4:4x4x4"),
        ("v5e:3x2", "a host has 2x2 chips"),
        ("v5e:1x2", "a host has 2x2 chips"),
        ("h100:16", "a host has at most 8 cards; give hosts and cards of each, such as h100:2x8"),
        ("l4:9", "a host has at most 8 cards; give hosts and cards of each, such as l4:1x8"),
        ("l4:2x8", "no network between hosts of l4 is known here; give one host, such as l4:1x8"),
        ("h100:1x1x8", "h100 cards stand in hosts; give their number, such as h100:1x8"),
        ("v6e:32x16", "these are 512 chips, but a v6e pod has 256"),
    ],
)
def test_an_impossible_topology(name, message):
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        parse_topology(name)
    assert str(raised.value).startswith(f"--topology={name}: ")


def test_seconds_of_collectives():
    # 4 chips, 2 links of 50 GB/s: an all-reduce passes on 2 * 3/4 of 100 MB, 150 MB, at 100 GB/s.
    topology = parse_topology("v5e:2x2")
    assert topology.collective_seconds("all-reduce", 100_000_000) == pytest.approx(1.5e-3)
    assert topology.collective_seconds("all-gather", 100_000_000) == pytest.approx(0.75e-3)
    assert topology.collective_seconds("collective-permute", 100_000_000) == pytest.approx(1e-3)
    assert parse_topology("v5e:1x1").collective_seconds("all-reduce", 100_000_000) == 0


def test_seconds_of_collectives_of_gpus():
    # 8 cards: an all-reduce passes on 2 * 7/8 of 100 MB, 175 MB, at 450 GB/s.
    host = parse_topology("h100:1x8")
    assert host.collective_seconds("all-reduce", 100_000_000) == pytest.approx(175e6 / 450e9)
    assert host.collective_seconds("all-gather", 100_000_000) == pytest.approx(87.5e6 / 450e9)
    # Four hosts: each card sums its eighth, 12.5 MB, with its peers: 2 * 3/4 of it at 50 GB/s,
    # 0.375 ms; the 0.389 ms within the hosts overlap with it.
    hosts = parse_topology("h100:4x8")
    assert hosts.collective_seconds("all-reduce", 100_000_000) == pytest.approx(175e6 / 450e9)
    # A card of each host sums all bytes with its peers: 2 * 3/4 of 100 MB at 50 GB/s.
    cards = parse_topology("h100:4x1")
    assert cards.collective_seconds("all-reduce", 100_000_000) == pytest.approx(3e-3)
    assert parse_topology("h100:1").collective_seconds("all-reduce", 100_000_000) == 0


def test_a_program_can_use_what_the_chip_has():
    for chip in CHIPS.values():
        share = chip.usable_bytes / chip.hbm_bytes
        assert 0.95 < share < 1.01 if chip.platform == "tpu" else share == pytest.approx(0.75)
        assert chip.source
        assert chip.rates.bfloat16.flops >= chip.rates.default.flops > chip.rates.float32.flops
