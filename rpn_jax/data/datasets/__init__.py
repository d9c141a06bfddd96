"""Annotated images with random access: prepare them once, then open them by name.

    shapes        drawn from a seed (options: seed, image_size, num_train, num_test)
    voc_folder    a folder in the layout of VOC (options: splits, orientation, first_pixel,
                  outside)
    coco_json     COCO instances JSONs and their images (options: splits, orientation, outside)
    yolo          a folder in the layout of YOLO, with a data.yaml (options: splits, outside)
    voc/2007, voc/2012, coco/2017    from the catalogue of TFDS
    MODULE:NAME   what a function of one's own reads (options: its parameters, orientation)

`source` (a folder) and the options say which dataset it is: each combination is prepared into a
directory of its own below `data_dir`, and opening one takes the same `source` and options.
`orientation` says which pixels boxes are in where an image has an EXIF orientation and the size in
its annotation does not tell: those "shown", which is the default, or those "stored".
"""

from rpn_jax.data.datasets.dataset import Dataset, Record
from rpn_jax.data.datasets.library import open_dataset, prepare_dataset
from rpn_jax.data.datasets.report import PreparationReport

__all__ = ["Dataset", "PreparationReport", "Record", "open_dataset", "prepare_dataset"]
