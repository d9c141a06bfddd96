"""Rules for the values of config fields, as a test and in words."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from rpn_jax.parts import is_import_path


class Rule(NamedTuple):
    """A rule for a value: its type `kind`, a test `accepts`, and the rule in words."""

    kind: type
    accepts: Callable[[Any], bool]
    words: str


def whole(least: int, most: int | None = None) -> Rule:
    """Returns the rule of a whole number from `least` to `most`, both inclusive."""
    top = math.inf if most is None else most
    words = f"from {least} up" if most is None else f"from {least} to {most}"
    return Rule(
        int,
        lambda x: isinstance(x, int) and not isinstance(x, bool) and least <= x <= top,
        f"a whole number {words}",
    )


def number(accepts: Callable[[float], bool], words: str) -> Rule:
    """Returns the rule of a finite number for which `accepts` is true."""
    return Rule(
        float,
        lambda x: (
            isinstance(x, int | float)
            and not isinstance(x, bool)
            and math.isfinite(x)
            and accepts(x)
        ),
        words,
    )


def one_of(*names: str) -> Rule:
    """Returns the rule of one of the given names."""
    return Rule(str, lambda x: x in names, _listed(names))


def one_of_or_own(*names: str) -> Rule:
    """Returns the rule of one of the given names, or of the import path of a part of one's own."""
    words = f"{_listed(names)}, or an import path MODULE:NAME"
    return Rule(str, lambda x: x in names or is_import_path(x), words)


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return " or ".join(filter(None, [", ".join(most), last]))


def several(rule: Rule, words: str, counts: Collection[int] = range(1, 1000)) -> Rule:
    """Returns the rule of a tuple whose values all follow `rule`."""
    return Rule(
        tuple,
        lambda x: isinstance(x, tuple) and len(x) in counts and all(map(rule.accepts, x)),
        words,
    )


FLAG = Rule(bool, lambda x: isinstance(x, bool), "True or False")
NAME = Rule(str, lambda x: isinstance(x, str) and x != "", "a name")
NOT_NEGATIVE = number(lambda x: x >= 0, "a number from 0 up")
POSITIVE = number(lambda x: x > 0, "a number above 0")
PART = number(lambda x: 0 <= x <= 1, "a number from 0 to 1")
DECAY = number(lambda x: 0 <= x < 1, "a number from 0 to below 1")
POSITIVES = several(POSITIVE, "numbers above 0")
_COUNTS = several(whole(1), "")


def _are_sizes(sizes: Any) -> bool:
    levels = several(POSITIVES, "").accepts(sizes) and len(set(map(len, sizes))) == 1
    return levels or POSITIVES.accepts(sizes)


SIZES = Rule(tuple, _are_sizes, "numbers above 0, or a tuple of equally many for each level")
RISING = Rule(
    tuple,
    lambda x: _COUNTS.accepts(x) and list(x) == sorted(set(x)),
    "at least one whole number from 1 up, the smaller first, such as (100, 300)",
)
RANGE = Rule(
    tuple,
    lambda x: x == () or (several(POSITIVE, "", (2,)).accepts(x) and x[0] <= x[1]),
    "two numbers above 0, the smaller first, such as (0.1, 2.0), or ()",
)
