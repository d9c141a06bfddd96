"""The search for the largest batch that fits into a chip's memory."""

import math
import re
from collections.abc import Callable

# Most compilations, each of minutes.
_MAX_TRIES = 6


class DoesNotFitError(Exception):
    """The compiler found no way to run the step in the chip's memory; the message is its own."""

    @property
    def needed(self) -> float:
        """The first number of bytes in the message; infinite if there is none.

        For example "temporaries (48.00G) exceeds available HBM (15.75G)" or "Used 17.3G of 15.75G
        hbm".
        """
        found = re.search(r"([\d.]+)([MGT])\b", str(self))
        return float(found[1]) * 2 ** {"M": 20, "G": 30, "T": 40}[found[2]] if found else math.inf


def largest_that_fits(
    needed: Callable[[int], int],
    first: tuple[int, int],
    *,
    fixed: int,
    available: int,
    multiple: int = 1,
) -> tuple[int, int, list[int]]:
    """Returns the largest count found to fit, the bytes it needs, and every count tried.

    Memory grows about linearly with the count. Each try is the count at which the line through the
    last two tries reaches `available`, or half-way to a count that did not fit. Near the limit the
    compiler trades time for memory, and a larger count can need less: such a line is not used. The
    search ends when no larger count is left, or after a handful of tries.

    Args:
      needed: slow function from a count to its bytes; raises `DoesNotFitError`.
      first: a count that fits, and its bytes.
      fixed: bytes independent of the count, for the first line.
      available: available bytes.
      multiple: divisor of every count.
    """
    (best, used), too_large, tried = first, None, [first[0]]
    slope = first_slope = max((used - fixed) / best, 1)
    for _ in range(_MAX_TRIES):
        guess = best + max(int((available - used) / slope), 0)
        if too_large is not None and guess >= too_large:
            guess = max((best + too_large) // 2, best + 1)
        guess -= guess % multiple
        if guess <= best or guess == too_large:
            break
        tried.append(guess)
        try:
            found = needed(guess)
        except DoesNotFitError as error:
            too_large = guess
            if error.needed < math.inf:
                slope = (error.needed - used) / (guess - best)
        else:
            rise = (found - used) / (guess - best)
            slope = rise if rise > first_slope / 12 else slope
            best, used = guess, found
    return best, used, tried
