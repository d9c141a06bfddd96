"""Prepare a dataset: read, check, store and describe it.

  rpn-jax prepare --config=shapes
  rpn-jax prepare --config=bccd --config.data.source=FOLDER

Every image is decoded once. Clipped and dropped boxes are listed by file. An unreadable image or
annotation ends the preparation; with --skip-bad it is left out and listed. A dataset that is
prepared already is compared with its source: a damaged one is prepared again, and a changed source
is named; --anew replaces the dataset.
"""

import argparse
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help="names the dataset")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave unreadable images and annotations out"
    )
    parser.add_argument(
        "--anew", action="store_true", help="replace what is prepared already from the same source"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Prepares the dataset of the config and prints the report."""
    from rpn_jax.data.datasets import open_dataset, prepare_dataset
    from rpn_jax.errors import UserError
    from rpn_jax.runs.config_files import load_config

    config = load_config(arguments.config, overrides)
    data = config.data
    place = {"data_dir": data.data_dir, "source": data.source, **data.options.to_dict()}
    report = prepare_dataset(
        data.dataset, skip_bad=arguments.skip_bad, anew=arguments.anew, **place
    )
    print(report)
    for field in ["train_split", *(["eval_split"] if config.evaluation.every else [])]:
        try:
            open_dataset(data.dataset, data[field], **place)
        except UserError as error:
            raise UserError(f"config.data.{field}={data[field]}: {error}") from error
