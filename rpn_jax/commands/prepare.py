"""Prepare a dataset: read, check, store and describe it.

  rpn-jax prepare --config=shapes
  rpn-jax prepare --config=bccd --config.data.source=FOLDER
  rpn-jax prepare --config=bccd --config.data.source=FOLDER --report=page

Every image is decoded once. Clipped and dropped boxes are listed by file. An unreadable image or
annotation ends the preparation; with --skip-bad it is left out and listed. A dataset that is
prepared already is compared with its source: a damaged one is prepared again, and a changed source
is named; --anew replaces the dataset. --report writes DIR/dataset.html: some images of each split
with their annotations, how many objects there are of each class and size, and what looks wrong:
boxes that are there twice or cover the whole image, tiny and very long ones, copies of images.
"""

import argparse
from collections.abc import Sequence

from rpn_jax.files import check_out, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="names the dataset")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave unreadable images and annotations out"
    )
    parser.add_argument(
        "--anew", action="store_true", help="replace what is prepared already from the same source"
    )
    parser.add_argument(
        "--report", type=user_path, metavar="DIR", help="a page of what is annotated, to look at"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=12,
        metavar="N",
        help="how many of each split the page shows (%(default)s)",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prepares the dataset of the config and prints the report."""
    from rpn_jax.data.datasets import open_dataset, prepare_dataset
    from rpn_jax.errors import UserError
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.text import printable

    config = load_config(arguments.config, overrides)
    if arguments.report:
        check_out(arguments.report, folder=True, flag="--report")
    if arguments.images < 0:
        raise UserError(f"--images={arguments.images}: give a number from 0 up")
    data = config.data
    place = {"data_dir": data.data_dir, "source": data.source, **data.options.to_dict()}
    report = prepare_dataset(
        data.dataset, skip_bad=arguments.skip_bad, anew=arguments.anew, **place
    )
    print(report)
    for source in data.more_sources:
        flags = {"skip_bad": arguments.skip_bad, "anew": arguments.anew}
        other = {**place, "source": source}
        print(prepare_dataset(data.dataset, **other, **flags))
        try:
            open_dataset(data.dataset, data.train_split, **other)
        except UserError as error:
            raise UserError(f"config.data.more_sources: {source}: {error}") from error
    for field in ["train_split", *(["eval_split"] if config.evaluation.every else [])]:
        try:
            open_dataset(data.dataset, data[field], **place)
        except UserError as error:
            raise UserError(f"config.data.{field}={data[field]}: {error}") from error
    if arguments.report:
        from rpn_jax.reports.annotations import write_annotations

        datasets = {split: open_dataset(data.dataset, split, **place) for split in report.splits}
        write_annotations(report, datasets, arguments.report, images=arguments.images)
        print(printable(arguments.report / "dataset.html"))
