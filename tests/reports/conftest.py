"""The data, the sweep and the run that reports are written on."""

import pytest
from folders import VocFolder
from studies import a_sweep, begun, evaluated

from rpn_jax.data.datasets import open_dataset, prepare_dataset
from rpn_jax.reports.report import write_report
from rpn_jax.sweeps.published import Published


@pytest.fixture(scope="package")
def source(tmp_path_factory):
    """A prepared dataset: five images with six objects and a difficult one."""
    root = tmp_path_factory.mktemp("data")
    folder = VocFolder(root / "voc").root
    prepare_dataset("voc_folder", data_dir=root / "prepared", source=folder)
    return folder, root / "prepared"


@pytest.fixture(scope="package")
def dataset(source):
    return open_dataset("voc_folder", "train", data_dir=source[1], source=source[0])


@pytest.fixture(scope="package")
def sweep(tmp_path_factory, source, dataset):
    """The report on a sweep with failed runs and one that was never begun, beside another's."""
    out = tmp_path_factory.mktemp("sweep")
    values = {f"rpn.loss.balance={key}": value for key, value in (("1", 68.9), ("100", 69.0))}
    published = Published("Ren et al., table 9", "mAP", values, "recall@0.7")
    a_sweep(out, source, dataset, {"1": 0.72, "10": 0.92, "100": None}, published=published)
    printed = write_report([out])
    return out, printed


@pytest.fixture(scope="package")
def alone(tmp_path_factory, source, dataset):
    """The report on a run that misses all objects at IoU 0.75, with an ablation."""
    folder = begun(tmp_path_factory.mktemp("runs") / "alone", source)
    evaluated(folder, dataset, 0.72)
    evaluated(folder, dataset, 0.3, name="train-without-nms", without=("nms",))
    write_report([folder])
    return folder
