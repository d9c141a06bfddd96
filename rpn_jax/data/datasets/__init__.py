"""Annotated images with random access: prepare them once, then open them by name.

    shapes        drawn from a seed (options: seed, image_size, num_train, num_test)
    voc_folder    a folder in the layout of VOC (options: splits)
    coco_json     COCO instances JSONs and their images (options: splits)
    voc/2007, voc/2012, coco/2017    from the catalogue of TFDS

`source` (a folder) and the options say which dataset it is: each combination is prepared into a
directory of its own below `data_dir`, and opening one takes the same `source` and options.
"""

from rpn_jax.data.datasets.library import Dataset, Record, open_dataset, prepare_dataset
from rpn_jax.data.datasets.report import PreparationReport

__all__ = ["Dataset", "PreparationReport", "Record", "open_dataset", "prepare_dataset"]
