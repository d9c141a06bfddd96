"""Calibrates the tests of a report: how often they call equal settings different, by simulation.

    python scripts/calibrate_statistics.py
    python scripts/calibrate_statistics.py --quick
    python scripts/calibrate_statistics.py --trials=100 --precision

An A/A simulation: the settings of a study are truly the same, and a trial counts if the report
would mark anything at all, in its table of settings or in that of differences. At nominal 5 %, no
row should be above 6 % by more than the simulation's own error, which stands below the table. The
same trials, with a real difference given to the second setting, say how often that is marked: the
power.

A run finds the share `level + image + seed + interaction` of the objects of an image, and hits are
drawn by that share, so that the variance components of a figure are

  image        the difficulty of an image, the same for all runs
  seed         of a run, the same for all images: `ratio` times the variance by the images
  interaction  seed x image: of a run and image, beside the hits' own noise
  setting      setting x image, with --setting_x_image: settings that are the same on the average
               of all images, but not on each; a harder null, and what two real settings are

The columns of a study are recalls at falling thresholds. --precision judges by AP instead, of
drawn detections, by the report's own matches; it takes much longer and has fewer rows.

Axes: R  runs    I  images    M  figures
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

import numpy as np

from rpn_jax.evaluation.matching import IOU_THRESHOLDS
from rpn_jax.evaluation.weighted import SplitMatches
from rpn_jax.progress import progress_bar
from rpn_jax.reports.comparison import SIGNIFICANT, Figures
from rpn_jax.reports.results import Result
from rpn_jax.reports.statistics import resample_images, resamples
from rpn_jax.tables import format_table

SEEDS, IMAGES, RATIOS = (1, 2, 3, 5, 10), (50, 300, 5000), (0.0, 0.3, 1.0, 4.0)
# Of settings and marked columns; a trial has the most of both, and its first ones serve the others.
STUDIES = ((2, 1), (2, 5), (6, 1), (6, 5))
LEVEL, DIFFICULTY, INTERACTION, OBJECTS = 0.5, 0.2, 0.1, 7
LIMIT = 0.06
AT_ONCE = 2**22  # hits: 32 MB


def study(
    values: np.ndarray, replicates: np.ndarray, settings: int, columns: int, images: int
) -> Figures:
    """Returns the figures of a trial's first settings and columns, from those of all (K, S, M)."""
    values, replicates = values[:settings, :, :columns], replicates[:, :settings, :, :columns]
    seeds = values.shape[1]
    return Figures(
        names=[f"figure {m}" for m in range(columns)],
        kinds=[],
        measured=[],
        runs=[_run(seed) for _ in range(settings) for seed in range(seeds)],
        values=values.reshape(-1, columns),
        replicates=replicates.reshape(len(replicates), -1, columns),
        settings={f"{k}": list(range(k * seeds, (k + 1) * seeds)) for k in range(settings)},
        images=images,
    )


def _run(seed: int) -> Result:
    """Returns a run without anything but a seed, all that a comparison asks of it."""
    return Result("", None, "", {}, seed, None, None, [], None, None)


def marks(figures: Figures) -> bool:
    """Returns whether a report on the figures would have a bold cell."""
    differences = figures.compare("0", against_it=True).values()
    if any((difference.p < SIGNIFICANT).any() for difference in differences):
        return True
    # Of two settings the best is marked by the same comparison.
    return len(figures.settings) > 2 and any(name is not None for name in figures.best())


def finds(figures: Figures) -> bool:
    """Returns whether the second setting is marked by the first figure."""
    return figures.compare("0", against_it=True)["1"].p[0] < SIGNIFICANT


def seed_deviation(images: int, ratio: float) -> float:
    """Returns the seeds' standard deviation that has `ratio` times the variance by images."""
    by_image = DIFFICULTY**2 + INTERACTION**2 + LEVEL * (1 - LEVEL) / OBJECTS
    return np.sqrt(ratio * by_image / images)


def draw_recalls(
    random: np.random.Generator,
    trials: int,
    shape: tuple[int, int, int],
    *,
    images: int,
    seed: float,
    setting: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns hits (trials, K, S, I, M) and each image's objects, the same in all trials."""
    settings, seeds, columns = shape
    objects = random.poisson(OBJECTS - 1, images) + 1.0
    image = DIFFICULTY * random.normal(size=(trials, 1, 1, images))
    run = seed * random.normal(size=(trials, settings, seeds, 1))
    both = INTERACTION * random.normal(size=(trials, settings, seeds, images))
    kind = setting * random.normal(size=(trials, settings, 1, images)) if setting else 0.0
    share = LEVEL + image + run + both + kind
    # Neighbouring thresholds see much the same boxes.
    common, own = np.sqrt(0.8), np.sqrt(0.2)
    noise = common * random.normal(size=share.shape)[..., None]
    noise = noise + own * random.normal(size=(*share.shape, columns))
    share = np.clip(share[..., None] + np.linspace(0, 0.2, columns), 0, 1)
    mean = share * objects[:, None]
    # Whole hits of about binomial spread, drawn faster than by `random.binomial`.
    hits = np.rint(mean + np.sqrt(mean * (1 - share)) * noise)
    return np.clip(hits, 0, objects[:, None]), objects


def recall_figures(hits: np.ndarray, objects: np.ndarray, replicates: int):
    """Returns values (trials, K, S, M) and replicates (B, trials, K, S, M)."""
    *runs, images, columns = hits.shape
    values = hits.sum(axis=-2) / objects.sum()
    drawn = resample_images(hits.reshape(-1, images, columns), objects, replicates)
    return values, drawn.reshape(len(drawn), *runs, columns)


def precision_figures(
    random: np.random.Generator, trials: int, shape: tuple[int, int, int], replicates: int, **drawn
):
    """Returns the same of AP, of detections that are right as `draw_recalls` has them.

    Each object that is found has a detection, whose IoU is drawn, and each image as many false
    ones as objects; right ones score higher in the mean.
    """
    settings, seeds, _ = shape
    hits, objects = draw_recalls(random, trials, (settings, seeds, 1), **drawn)
    images, counts = len(objects), objects.astype(int)
    image_id = np.arange(images)
    draws = list(resamples(images, replicates))
    runs = hits.reshape(-1, images).astype(int)
    values, drawn = [], []
    for found in runs:
        image = np.concatenate([np.repeat(image_id, found), np.repeat(image_id, counts)])
        is_right = np.arange(len(image)) < found.sum()
        iou = np.where(is_right, random.uniform(0.5, 1.0, len(image)), 0.0)
        score = random.normal(size=len(image)) + 1.5 * is_right
        matches = SplitMatches(
            label=np.zeros(len(image), int),
            score=score,
            image_id=image,
            hit=iou[:, None] >= IOU_THRESHOLDS,
            ignored=np.zeros((len(image), len(IOU_THRESHOLDS)), bool),
            object_label=np.zeros(counts.sum(), int),
            object_image_id=np.repeat(image_id, counts),
        )
        values.append(matches.precision(image_id, np.ones((1, images), int)).mean())
        drawn.append(np.concatenate([matches.precision(image_id, rows) for rows in draws]).mean(1))
    values = np.array(values).reshape(trials, settings, seeds, 1)
    return values, np.stack(drawn, axis=1).reshape(-1, trials, settings, seeds, 1)


def calibrate(
    seeds: int,
    images: int,
    ratio: float,
    *,
    trials: int,
    studies: Sequence[tuple[int, int]] = STUDIES,
    difference: float = 0.03,
    setting: float = 0.0,
    replicates: int = 500,
    precision: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of trials that mark anything, and the power, for each study.

    Args:
        seeds: number of seeds of each setting.
        images: number of images.
        ratio: seeds' variance of a figure over that by the images.
        trials: number of simulated studies.
        studies: numbers of settings and of marked columns.
        difference: real one of the second setting, for the power.
        setting: standard deviation by setting x image.
        replicates: number of resamples of the images.
        precision: whether the figure is AP, the one column of a study.
        seed: of the random numbers.
    """
    random = np.random.default_rng([seed, seeds, images, int(10 * ratio)])
    shape = (max(k for k, _ in studies), seeds, max(m for _, m in studies))
    drawn = {"images": images, "seed": seed_deviation(images, ratio), "setting": setting}
    called, found = np.zeros(len(studies)), np.zeros(len(studies))
    at_once = max(1, AT_ONCE // (images * int(np.prod(shape))))
    for start in range(0, trials, at_once):
        count = min(at_once, trials - start)
        if precision:
            values, resampled = precision_figures(random, count, shape, replicates, **drawn)
        else:
            hits, objects = draw_recalls(random, count, shape, **drawn)
            values, resampled = recall_figures(hits, objects, replicates)
        for t, (place, (k, m)) in itertools.product(range(count), enumerate(studies)):
            called[place] += marks(study(values[t], resampled[:, t], k, m, images))
            # As if it found that share of the objects of each image besides.
            better = np.zeros(values[t].shape)
            better[1] = difference
            found[place] += finds(study(values[t] + better, resampled[:, t] + better, k, m, images))
    return called / trials, found / trials


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a row is above the limit by more than the error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500, help="simulated studies of each row")
    parser.add_argument("--replicates", type=int, default=500, help="resamples of the images")
    parser.add_argument("--difference", type=float, default=0.03, help="real one, for the power")
    parser.add_argument("--setting_x_image", type=float, default=0.0, metavar="DEVIATION")
    parser.add_argument("--precision", action="store_true", help="judge by AP, at 50 images")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--quick", action="store_true", help="a few rows and trials, for tests")
    arguments = parser.parse_args(argv)
    trials, studies = arguments.trials, STUDIES
    rows = list(itertools.product(SEEDS, IMAGES, RATIOS))
    if arguments.precision:
        rows, studies = list(itertools.product(SEEDS[:4], IMAGES[:1], RATIOS)), ((2, 1),)
    if arguments.quick:
        rows = [row for row in rows if row[0] < 3 and row[1] == IMAGES[0] and row[2] in (0, 1)]
        trials = min(trials, 20)
    named = [f"{k}×{m}" for k, m in studies]
    header = ["seeds", "images", "ratio", "seeds ±", *named, *(f"power {name}" for name in named)]
    table, above = [], 0
    error = 2 * np.sqrt(LIMIT * (1 - LIMIT) / trials)
    for row in progress_bar(rows, description="simulating", unit="row"):
        called, found = calibrate(
            *row,
            trials=trials,
            studies=studies,
            difference=arguments.difference,
            setting=arguments.setting_x_image,
            replicates=arguments.replicates,
            precision=arguments.precision,
            seed=arguments.seed,
        )
        seeds, images, ratio = row
        deviation = f"{100 * seed_deviation(images, ratio):.2f}"
        shares = [f"{100 * share:.1f}" for share in [*called, *found]]
        table.append([f"{seeds}", f"{images}", f"{ratio:g}", deviation, *shares])
        above += bool((called > LIMIT + error).any())
    print(format_table([header, *table]))
    print(
        "K×M: studies of K settings and M marked columns. Ratio: the seeds' variance over that by "
        "the images; seeds ±: their standard deviation in points.\n"
        f"In per cent of {trials} trials (±{100 * error:.1f} at {100 * LIMIT:.0f} %): studies of "
        f"equal settings in which anything is marked at nominal {100 * SIGNIFICANT:.0f} %, and in "
        f"which a real difference of {100 * arguments.difference:g} points is.\n"
        f"Rows above {100 * LIMIT:.0f} % by more than the simulation's error: {above} of "
        f"{len(rows)}."
    )
    return int(above > 0)


if __name__ == "__main__":
    sys.exit(main())
