"""What a program is made of once it is lowered for a platform."""

import collections
import re

import jax

ACCELERATORS = ("cuda", "tpu")


def operations(function, *arguments) -> dict[str, collections.Counter]:
    """Returns, for each accelerator, how often each StableHLO operation stands in the program.

    Nothing is compiled.
    """
    traced = jax.jit(function).trace(*arguments)
    programs = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ACCELERATORS}
    return {
        name: collections.Counter(re.findall(r"stablehlo\.(\w+)", program))
        for name, program in programs.items()
    }
