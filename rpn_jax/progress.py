"""The progress bar for work of more than a few seconds."""

import sys

from tqdm import tqdm


def progress_bar(iterable=None, *, description: str, unit: str, **options) -> tqdm:
    """Returns a tqdm bar with the rate and the time left.

    In a terminal it is drawn ten times a second; in a log file it adds a line every half minute.
    """
    in_terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=description,
        unit=unit,
        mininterval=0.1 if in_terminal else 30,
        bar_format=None if in_terminal else "{l_bar}{bar:20}{r_bar}\n",
        **options,
    )
