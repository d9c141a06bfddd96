"""What the commands `prepare` and `train` do, as functions of a config."""

import os

from ml_collections import ConfigDict

from rpn_jax.data.datasets import prepare_dataset
from rpn_jax.data.datasets.report import PreparationReport
from rpn_jax.files import user_path
from rpn_jax.runs.determinism import apply_determinism
from rpn_jax.runs.fields import check_config
from rpn_jax.trained.model import Model, load
from rpn_jax.training import loop
from rpn_jax.training.splits import sources_of


def prepare(config: ConfigDict, *, skip_bad: bool = False, anew: bool = False) -> PreparationReport:
    """Reads, checks and stores the dataset of a config; returns a report, which can be printed.

    Of several sources all are prepared, and the report is that of the first. What is prepared
    already is left alone, unless it is damaged.

    Args:
      config: whose `data` names the dataset.
      skip_bad: leave out, and report, what cannot be read.
      anew: replace what is prepared already from the same source.

    Raises:
      UserError: the source is not there, or something in it cannot be read.
    """
    check_config(config)
    data = config.data
    first, *_ = (
        prepare_dataset(
            data.dataset,
            data_dir=data.data_dir,
            source=source,
            skip_bad=skip_bad,
            anew=anew,
            **data.options.to_dict(),
        )
        for source in sources_of(config)
    )
    return first


def train(config: ConfigDict, workdir: str | os.PathLike) -> Model:
    """Trains to `config.steps` on all devices and returns the trained network.

    The dataset must be prepared. The folder `workdir` keeps the run; called again with the same
    config it goes on from the newest checkpoint, or returns what is trained already.

    Raises:
      UserError: what the config asks for cannot be done, or the folder is another run's.
      StoppedError: a signal, such as Ctrl-C, asked the run to stop; it has saved.
    """
    workdir = user_path(workdir)
    apply_determinism(config)
    loop.train(config, workdir)
    return load(workdir)
