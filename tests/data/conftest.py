"""A small prepared dataset."""

import pytest
from folders import VocFolder

from rpn_jax.data.datasets import open_dataset, prepare_dataset


@pytest.fixture(scope="session")
def voc_dataset(tmp_path_factory):
    """The split `train` of an unbroken VOC folder, prepared."""
    root = tmp_path_factory.mktemp("prepared")
    VocFolder(root / "voc")
    prepare_dataset("voc_folder", data_dir=root / "data", source=root / "voc")
    return open_dataset("voc_folder", "train", data_dir=root / "data", source=root / "voc")
