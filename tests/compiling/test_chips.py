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
    assert topology.links == links <= 2 * topology.chip.axes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "give a chip (v4, v5e, v5p, v6e)"),
        ("v5e", "give a chip"),
        ("v5e:0x2", "give a chip"),
        ("v5e:2x2 ", "give a chip"),
        ("v5e:4", "v5e chips stand in 2 dimensions; give as many sides, such as v5e:4x4"),
        ("v4:2x2", "v4 chips stand in 3 dimensions; give as many sides, such as v4:4x4x4"),
        ("v5e:3x2", "a host has 2x2 chips"),
        ("v5e:1x2", "a host has 2x2 chips"),
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


def test_a_program_can_use_what_the_chip_has():
    for chip in CHIPS.values():
        assert 0.95 < chip.usable_bytes / chip.hbm_bytes < 1.01
        assert chip.source
