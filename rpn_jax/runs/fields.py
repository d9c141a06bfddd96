"""Every field of a config: its default, what it may be, what it means.

Defaults are the paper's (arXiv 1506.01497, whose sections are named), or where it has none
torchvision's. `default_config` makes a config of this table, `check_config` holds one
against it, `rpn-jax info --fields` and the documentation list it (`reference.py`): a new field is
one more entry here.
"""

import collections
import difflib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rpn_jax.errors import UserError
from rpn_jax.parts import is_import_path
from rpn_jax.runs.rules import (
    DECAY,
    FLAG,
    NAME,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    POSITIVES,
    RANGE,
    RISING,
    SIZES,
    Rule,
    number,
    one_of,
    one_of_or_own,
    several,
    whole,
)

VERSION = 2  # of the fields, see `config_files.upgrade`


class Field(NamedTuple):
    """A default, which is None where a value is optional, a rule and a meaning."""

    default: Any
    rule: Rule
    meaning: str


# Parts of a trained network that an evaluation can go without, as in the paper's Table 2.
LEFT_OUT = ("nms", "ranking", "regression")
_MOST_SIDE = 2**14  # pixels of a side of a resized image; a square one takes 800 MB
# Beyond these no network can be built, or only in hours, which is to be said before it is tried.
_CHANNELS = whole(1, 2**16)
_CONVOLUTIONS = 100
_CELLS = whole(1, 256)  # rows and columns of a pooled region
_SAMPLES = whole(0, 100)  # of a bin, along each side

FIELDS: Mapping[str, Field] = {
    "version": Field(VERSION, whole(VERSION, VERSION), "of these fields; not to be changed"),
    "detector": Field(
        "rpn",
        NAME,
        "what is trained: rpn, faster_rcnn, mask_rcnn or fast_rcnn; not to be changed on the "
        "command line",
    ),
    "seed": Field(
        0,
        whole(0, 2**63 - 1),
        "everything random follows from it; what devices draw, from its lowest 32 bits",
    ),
    "steps": Field(80_000, whole(1), "that a run has in all"),
    "batch_size": Field(
        1, whole(1), "images a step, over all devices, processes and micro-batches"
    ),
    "accumulation": Field(
        1,
        whole(1),
        "micro-batches that a device's share of a step is worked through in, to fit its memory; "
        "the gradient is that of the whole batch; sync_batch_norm takes its statistics of each",
    ),
    "ema_decay": Field(
        0.0,
        DECAY,
        "evaluation, proposals and exports use an average of the parameters (and of the batch "
        "statistics), of which each step keeps this share, such as 0.9998, and less in early "
        "steps; 0: no average",
    ),
    "deterministic": Field(
        False,
        FLAG,
        "on GPUs, whose sums are otherwise in any order: the same bits from the same config on the "
        "same devices; XLA then takes its first choice of each kernel that sums in a fixed order, "
        "in place of the fastest that it has measured; CPUs and TPUs give the same bits anyway",
    ),
    "fork.run": Field(
        None, NAME, "the folder of the run that this one goes on from, see train --from"
    ),
    "fork.step": Field(None, whole(0), "the step of that run after which this one begins"),
    "log_every": Field(20, whole(1), "steps from one line of metrics to the next"),
    "loggers": Field(
        (),
        several(one_of_or_own("wandb", "mlflow"), "wandb, mlflow or import paths", range(10)),
        "where the metrics go beside metrics.jsonl and TensorBoard: wandb, mlflow, or import paths "
        "of one's own, such as ('wandb',); see docs/training.md",
    ),
    "data.dataset": Field(
        "voc/2007",
        NAME,
        "shapes, voc_folder, coco_json, yolo, voc/2007, voc/2012, coco/2017, or the import path "
        "of a reader of one's own, see docs/extending.md",
    ),
    "data.source": Field(
        None,
        NAME,
        "the folder that voc_folder, coco_json and yolo read; a relative one is looked for from "
        "where the command is given",
    ),
    "data.more_sources": Field(
        (),
        several(NAME, "names of folders", range(1000)),
        "further folders, which are read as source is, with the same options and classes; a "
        "training shows the images of train_split of all, evaluations those of source alone",
    ),
    "data.source_weights": Field(
        (),
        several(POSITIVE, "numbers above 0, such as (2.0, 1.0)", range(1000)),
        "of source and of each of more_sources: how much of what a training shows is of it, beside "
        "the others; (): as much as it has images",
    ),
    "data.options": Field(
        {}, Rule(dict, lambda x: True, "options"), "of the dataset, such as num_train of shapes"
    ),
    "data.data_dir": Field(
        "~/.cache/rpn_jax/datasets", NAME, "the folder where prepared datasets are kept"
    ),
    "data.train_split": Field("train", NAME, "the split that is trained on"),
    "data.eval_split": Field("test", NAME, "the split that validations and evaluations measure"),
    "data.shorter_side": Field(
        600, whole(1, _MOST_SIDE), "pixels that an image's shorter side is resized to, section 3.3"
    ),
    "data.shorter_sides": Field(
        (),
        several(whole(1, _MOST_SIDE), f"whole numbers from 1 to {_MOST_SIDE}", range(1000)),
        "of which each step of the training draws one in place of shorter_side, which evaluations "
        "keep; each has num_buckets canvases; (): shorter_side always",
    ),
    "data.jitter.scales": Field(
        (),
        RANGE,
        "large-scale jitter in place of shorter_side: each image of a step is resized by a factor "
        "from this range, 1 being that with which it fits the canvas, and cropped or padded to it; "
        "evaluations keep shorter_side; (): no jitter",
    ),
    "data.jitter.canvas": Field(
        (1024, 1024),
        several(whole(8), "height and width, each 8 pixels or more", (2,)),
        "of the jitter",
    ),
    "data.jitter.min_side": Field(
        1.0, POSITIVE, "pixels; a box of which the crop leaves less in width or height goes"
    ),
    "data.longer_side": Field(
        1000,
        whole(1),
        "pixels that the longer side has at most; below shorter_side it decides alone",
    ),
    "data.num_buckets": Field(
        4, whole(1), "canvas shapes that images are padded to; each is compiled once"
    ),
    "data.flip_probability": Field(0.5, PART, "that an image of a step is mirrored"),
    "data.repeat_threshold": Field(
        0.0,
        PART,
        "repeat-factor sampling: of an image whose rarest class is in a part f of the images, a "
        "training shows max(1, sqrt(this / f)) for one of the others, 0.001 in LVIS; 0: all "
        "equally often",
    ),
    "data.augmentations": Field(
        (),
        several(
            one_of_or_own("crop", "color"),
            "names of crop and color, and import paths MODULE:NAME",
            range(100),
        ),
        "of each image of a step, before it is mirrored and resized, in this order: crop, color, "
        "or the import path of one's own, see docs/extending.md",
    ),
    "data.crop.min_overlaps": Field(
        (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
        several(PART, "numbers from 0 to 1"),
        "of which a crop draws one: the IoU that some object whose centre it keeps has with it at "
        "least; 1: the whole image",
    ),
    "data.crop.scales": Field(
        (0.3, 1.0),
        Rule(
            tuple,
            lambda x: RANGE.accepts(x) and x != () and x[1] <= 1,
            "two numbers above 0 and to 1, the smaller first",
        ),
        "range of a crop's sides, each drawn by itself, in parts of the image's",
    ),
    "data.crop.aspect_ratios": Field(
        (0.5, 2.0),
        Rule(
            tuple,
            lambda x: RANGE.accepts(x) and x != (),
            "two numbers above 0, the smaller first, such as (0.5, 2.0)",
        ),
        "range of a crop's width / height",
    ),
    "data.color.brightness": Field(
        0.125, NOT_NEGATIVE, "color draws a factor from 1 less this, but at least 0, to 1 plus this"
    ),
    "data.color.contrast": Field(0.5, NOT_NEGATIVE, "the same"),
    "data.color.saturation": Field(0.5, NOT_NEGATIVE, "the same"),
    "data.color.hue": Field(
        0.05,
        number(lambda x: 0 <= x <= 0.5, "a number from 0 to 0.5"),
        "turns of the circle of hues, in either direction",
    ),
    "data.max_objects": Field(
        None, whole(1, 100_000), "ground-truth slots; None: what the data needs"
    ),
    "data.cache_features": Field(
        False,
        FLAG,
        "with every stage of the backbone frozen: its features of each image are computed once "
        "and kept in data_dir; 2 MB for a VGG-16 and an image of 400 x 600, and as much for its "
        "mirror image",
    ),
    # Stored proposals; only a config of a detector without an RPN has these fields.
    "data.proposals.train": Field(
        None,
        NAME,
        "the file of the proposals of train_split: results in COCO's format (.json), or what "
        "propose --split wrote (.json or .npz)",
    ),
    "data.proposals.eval": Field(None, NAME, "the same of the split that is measured"),
    "data.proposals.train_top_n": Field(
        2000, whole(1), "of an image's proposals, the best, are trained on"
    ),
    "data.proposals.eval_top_n": Field(300, whole(1), "of them are classified in evaluations"),
    "data.num_threads": Field(None, whole(1), "that load batches; None: one for each CPU"),
    "model.backbone": Field(
        "vgg16",
        NAME,
        "its name, docs/weights.md has them all; or the import path of one's own, such as "
        "mypackage.nets:my18, see docs/extending.md",
    ),
    "model.output_stage": Field(
        None,
        one_of("c1", "c2", "c3", "c4", "c5"),
        "where the head sits; None: at stride 16, such as c5 of VGG-16",
    ),
    "model.neck": Field(
        None,
        one_of_or_own("fpn"),
        "fpn has levels p2 to p6 from c2 to c5; or the import path of one's own",
    ),
    "model.fpn_channels": Field(256, _CHANNELS, "of each of the neck's levels"),
    "model.fpn_norm": Field(
        None,
        one_of("frozen_batch_norm", "group_norm"),
        "behind the neck's convolutions; None: no norm",
    ),
    "model.norm": Field(
        None,
        one_of("frozen_batch_norm", "sync_batch_norm", "group_norm"),
        "of a ResNet, DenseNet or VGG-16; None: frozen_batch_norm, but no norm in VGG-16",
    ),
    "model.stem": Field(
        None,
        one_of("imagenet", "small"),
        "of a ResNet; small halves the stride; None: imagenet",
    ),
    "model.stride_in_1x1": Field(None, FLAG, "of a ResNet of bottlenecks, as Caffe's are"),
    "model.dilate_c5": Field(None, FLAG, "of a ResNet: c5 keeps c4's stride, by dilation"),
    "model.ceil_pools": Field(None, FLAG, "Caffe's rounding of pools; vgg16, zf, alexnet"),
    "model.frozen_stages": Field(
        0, whole(0), "2 tunes VGG-16 from conv3_1 up, as the paper does; 0 tunes all"
    ),
    "model.frozen_neck": Field(
        False, FLAG, "whether the neck is not trained either, as in the last steps of alternate"
    ),
    "model.remat": Field(
        False,
        FLAG,
        "run each stage of the backbone again for its gradient: a third more computation, less "
        "memory on GPUs and TPUs (a CPU's XLA undoes what it saves)",
    ),
    "model.dtype": Field(
        "float32", one_of("float32", "bfloat16"), "of the layers; boxes and losses stay float32"
    ),
    "model.input_convention": Field(
        "caffe", NAME, "the pixels that the weights expect, see models/inputs.py"
    ),
    "model.pretrained": Field(
        None, NAME, "a file of trained weights, or hf://OWNER/REPO[@REVISION][/FILE]"
    ),
    "model.pretrained_head": Field(True, FLAG, "whether to take the head too, if the file has one"),
    "model.pretrained_last": Field(
        True,
        FLAG,
        "whether to take of a second or third stage its last layers too, if they are of the same "
        "classes; False draws them from the seed, as py-faster-rcnn does in its fourth step",
    ),
    "rpn.channels": Field(512, _CHANNELS, "section 3.1: 512 for VGG-16, 256 for ZF (and for FPN)"),
    "rpn.convolutions": Field(
        1, whole(1, _CONVOLUTIONS), "3x3 convolutions of the head; 2 of torchvision's v2"
    ),
    "rpn.objectness": Field(
        "sigmoid",
        one_of("sigmoid", "softmax"),
        "k logistic scores, or 2k of which pairs are compared, as in the paper",
    ),
    "rpn.anchors.sizes": Field(
        (128.0, 256.0, 512.0),
        SIZES,
        "square roots of areas in pixels of the resized image; of several levels a tuple for "
        "each, finest first: ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))",
    ),
    "rpn.anchors.aspect_ratios": Field((0.5, 1.0, 2.0), POSITIVES, "width / height"),
    "rpn.anchors.rounding": Field(
        "none", one_of("none", "torchvision", "caffe"), "torchvision rounds strides too"
    ),
    "rpn.anchors.offset": Field(
        0.5, number(lambda x: True, "a number"), "of the first anchor's centre, in strides"
    ),
    # Section 3.1.2 and 3.1.3.
    "rpn.targets.fg_iou_threshold": Field(0.7, PART, "from this IoU on an anchor is positive"),
    "rpn.targets.bg_iou_threshold": Field(0.3, PART, "below this IoU an anchor is negative"),
    "rpn.targets.allow_low_quality": Field(
        True, FLAG, "an object's best anchors are positive at any IoU"
    ),
    "rpn.targets.ignore_ioa_threshold": Field(
        0.5, PART, "an anchor with more of its area inside an ignore region is not trained on"
    ),
    "rpn.targets.drop_straddling": Field(
        True, FLAG, "leave out anchors across the image's border, section 3.3"
    ),
    "rpn.targets.straddle_tolerance": Field(
        0.0, number(lambda x: True, "a number"), "pixels by which they may cross it"
    ),
    "rpn.targets.batch_size_per_image": Field(256, whole(1), "anchors that are sampled"),
    "rpn.targets.positive_fraction": Field(0.5, PART, "of them that is positive at most"),
    "rpn.box_weights": Field(
        (1.0, 1.0, 1.0, 1.0),
        several(POSITIVE, "four numbers above 0", (4,)),
        "multiply tx, ty, tw, th of the targets",
    ),
    "rpn.loss.normalizer": Field(
        "paper", one_of("paper", "sampled"), "what losses are divided by, see ops/losses.py"
    ),
    "rpn.loss.balance": Field(10.0, NOT_NEGATIVE, "lambda of equation 1"),
    "rpn.loss.beta": Field(1 / 9, NOT_NEGATIVE, "where smooth L1 turns from a square to a line"),
    "rpn.proposals.train.pre_nms_top_n": Field(
        12_000, whole(1), "anchors of a level that enter NMS, where a second stage is trained"
    ),
    "rpn.proposals.train.post_nms_top_n": Field(2000, whole(1), "proposals that leave it there"),
    "rpn.proposals.test.pre_nms_top_n": Field(
        6000, whole(1), "anchors of a level that enter NMS, where the network is used"
    ),
    "rpn.proposals.test.post_nms_top_n": Field(300, whole(1), "proposals that leave it there"),
    "rpn.proposals.nms_threshold": Field(
        0.7, PART, "a box goes that overlaps a better one by more than this IoU"
    ),
    "rpn.proposals.min_size": Field(
        0.0, NOT_NEGATIVE, "pixels of the resized image; a narrower or lower proposal goes"
    ),
    "rpn.proposals.keep_padding": Field(
        False, FLAG, "propose from anchors on the canvas beyond the image too"
    ),
    # The second stage; only a config of a detector that has one has these fields.
    "box.class_names": Field(
        (),
        several(NAME, "names, such as ('cat', 'dog')", range(10_000)),
        "of the classes, without background; (): those of the dataset, which a run's config.json "
        "then lists",
    ),
    "box.category_ids": Field(
        (),
        several(
            Rule(str, lambda x: isinstance(x, int | str) and not isinstance(x, bool), ""),
            "numbers or names, such as (17, 18)",
            range(10_000),
        ),
        "the source's own id of each class, for results in COCO's format; (): the dataset's, or "
        "1, 2, … where it has none",
    ),
    "box.head": Field(
        "fc",
        one_of("fc", "conv", "c5"),
        "fc6 and fc7; four 3x3 convolutions and fc6; or stage c5 of a ResNet whose output is c4",
    ),
    "box.channels": Field(4096, _CHANNELS, "of fc6 and fc7: 4096 of VGG-16, 1024 of an FPN"),
    "box.dropout": Field(0.5, DECAY, "part of the units of fc6 and fc7 that a step drops"),
    "box.norm": Field(
        None,
        one_of("frozen_batch_norm", "group_norm"),
        "of the convolutions of the head conv; None: no norm",
    ),
    "box.class_agnostic": Field(False, FLAG, "whether all classes share one box"),
    "box.pooling.kind": Field(
        "pool", one_of("pool", "align"), "Fast R-CNN's RoIPool, or RoIAlign; an FPN needs align"
    ),
    "box.pooling.size": Field(7, _CELLS, "rows and columns of a region; 6 of ZF, 14 of c5"),
    "box.pooling.sampling_ratio": Field(
        2, _SAMPLES, "of align: samples of a bin along each side; 0: as many as it has cells"
    ),
    "box.pooling.aligned": Field(
        False, FLAG, "of align: shift by half a cell, as detectron2 does and torchvision does not"
    ),
    "box.pooling.canonical_size": Field(
        224.0, POSITIVE, "of a pyramid: side in pixels of the regions with which level p4 begins"
    ),
    "box.pooling.level_eps": Field(
        1e-6,
        PART,
        "of a pyramid: part of a level that a region may lack and still belong to it; 1e-6 of "
        "torchvision, 1e-8 of detectron2",
    ),
    "box.targets.fg_iou_threshold": Field(
        0.5, PART, "from this IoU with an object on a proposal has its class"
    ),
    "box.targets.bg_iou_threshold": Field(0.5, PART, "below this IoU it is background"),
    "box.targets.lowest_bg_iou": Field(
        0.0, PART, "below this IoU it is not trained on; Fast R-CNN's 0.1, or 0"
    ),
    "box.targets.ignore_ioa_threshold": Field(
        0.5, PART, "a proposal with more of its area inside an ignore region is not trained on"
    ),
    "box.targets.batch_size_per_image": Field(128, whole(1), "proposals that are sampled"),
    "box.targets.positive_fraction": Field(0.25, PART, "of them that covers objects at most"),
    "box.targets.append_gt": Field(True, FLAG, "whether annotated boxes are proposals too"),
    "box.box_weights": Field(
        (10.0, 10.0, 5.0, 5.0),
        several(POSITIVE, "four numbers above 0", (4,)),
        "multiply tx, ty, tw, th of the targets",
    ),
    "box.loss.balance": Field(1.0, NOT_NEGATIVE, "what the loss of the boxes is multiplied by"),
    "box.loss.beta": Field(1.0, NOT_NEGATIVE, "where smooth L1 turns from a square to a line"),
    "box.detections.score_threshold": Field(
        0.05, PART, "a box of a class is a detection if its probability is above this"
    ),
    "box.detections.nms_threshold": Field(
        0.5, PART, "a box goes that overlaps a better one of its class by more than this IoU"
    ),
    "box.detections.top_n": Field(100, whole(1), "detections of an image at most"),
    "box.detections.max_candidates": Field(
        2000,
        whole(1),
        "boxes above the threshold that enter NMS, the best ones; a line says where more did and "
        "it mattered",
    ),
    "box.detections.min_size": Field(
        0.0, NOT_NEGATIVE, "pixels of the resized image; a narrower or lower detection goes"
    ),
    # Both stages in one step.
    "joint.box_gradient": Field(
        False,
        FLAG,
        "whether the second stage's loss has a gradient by the proposals' boxes too, through "
        "RoIAlign and its targets: non-approximate joint training, section 3.2 (iii)",
    ),
    # The third stage.
    "mask.cut_size": Field(
        112,
        whole(1, 1024),
        "rows and columns of an object's mask, cut to its box, that is trained on",
    ),
    "mask.channels": Field(256, _CHANNELS, "of the head's convolutions"),
    "mask.convolutions": Field(
        4,
        whole(0, _CONVOLUTIONS),
        "3x3 convolutions of the head; 0 with box.head c5, whose stage the two heads share",
    ),
    "mask.norm": Field(
        None,
        one_of("frozen_batch_norm", "group_norm"),
        "of these convolutions; None: no norm",
    ),
    "mask.pooling.size": Field(
        14, _CELLS, "rows and columns of a region; a mask has twice as many, or as many with c5"
    ),
    "mask.pooling.sampling_ratio": Field(
        2, _SAMPLES, "samples of a bin along each side; 0: as many as it has cells"
    ),
    "mask.pooling.aligned": Field(
        False, FLAG, "shift by half a cell, as detectron2 does and torchvision does not"
    ),
    "mask.pooling.canonical_size": Field(
        224.0, POSITIVE, "side in pixels of the regions with which level p4 begins"
    ),
    "mask.pooling.level_eps": Field(1e-6, PART, "as box.pooling.level_eps"),
    "mask.targets.soft": Field(
        False,
        FLAG,
        "the part of a cell that the object covers, as in torchvision; or 1 from a half up",
    ),
    "mask.targets.aligned": Field(
        True, FLAG, "a pixel's centre lies at half a pixel; in torchvision at a whole one"
    ),
    "mask.loss.balance": Field(1.0, NOT_NEGATIVE, "what the loss of the masks is multiplied by"),
    "mask.pasting": Field(
        "continuous",
        one_of("continuous", "torchvision"),
        "how a mask is put into its image: by continuous coordinates, or by whole pixels",
    ),
    "mask.threshold": Field(0.5, PART, "from this probability on a pixel belongs to the object"),
    "optimizer.name": Field(
        "sgd",
        one_of_or_own("sgd", "adamw", "muon"),
        "the rule; or the import path of one's own, see docs/extending.md",
    ),
    "optimizer.learning_rate": Field(1e-3, NOT_NEGATIVE, "before any decay, after the warm-up"),
    "optimizer.backbone_factor": Field(
        1.0,
        POSITIVE,
        "of that, for the layers of the backbone; frozen_stages keeps them as they are",
    ),
    "optimizer.reference_batch_size": Field(
        None,
        whole(1),
        "the batch_size that learning_rate was found for; with another it grows by "
        "batch_size_rule; None: learning_rate as it is",
    ),
    "optimizer.batch_size_rule": Field(
        "linear",
        one_of("linear", "sqrt"),
        "with the ratio of the two (Goyal et al., arXiv 1706.02677, for SGD), or its square root: "
        "sqrt (Malladi et al., arXiv 2205.10287, for Adam)",
    ),
    "optimizer.momentum": Field(0.9, DECAY, "beta1 of adamw, beta of muon"),
    "optimizer.weight_decay": Field(5e-4, NOT_NEGATIVE, "of kernels; biases and norms are spared"),
    "optimizer.clip_norm": Field(0.0, NOT_NEGATIVE, "of the whole gradient; 0: no clipping"),
    "optimizer.schedule": Field(
        "step",
        one_of_or_own("step", "cosine"),
        "how the rate falls; or the import path of one's own, such as optax:cosine_decay_schedule",
    ),
    "optimizer.decay_at": Field(
        (60_000,),
        several(whole(0), "whole numbers from 0 up", range(1000)),
        'steps where "step" multiplies the rate by decay_factor',
    ),
    "optimizer.decay_factor": Field(0.1, NOT_NEGATIVE, "what it multiplies the rate by"),
    "optimizer.warmup_steps": Field(0, whole(0), "the rate grows linearly from 0"),
    "evaluation.every": Field(5000, whole(0), "steps between validations; 0: never"),
    "evaluation.patience": Field(
        None,
        whole(1),
        "validations in a row without a higher headline (AP, or AR@300 of an RPN), after which the "
        "training stops; None: all steps are trained",
    ),
    "evaluation.batch_size": Field(
        None, whole(1), "images on each device at once; None: batch_size, but at most 8"
    ),
    "evaluation.top_ns": Field(
        (10, 50, 100, 300, 1000), RISING, "numbers of proposals whose recall is measured"
    ),
    "evaluation.pictures": Field(4, whole(0), "images drawn at each validation"),
    "checkpoint.every": Field(1000, whole(1), "steps from one checkpoint to the next"),
    "checkpoint.keep": Field(3, whole(1), "checkpoints that are kept, the newest ones"),
    "checkpoint.keep_best": Field(
        False,
        FLAG,
        "keep the checkpoint of the best validation too, by its headline (AP, or AR@300 of an "
        "RPN); --step=best finds it",
    ),
}
# The first of each two is at most the second.
AT_MOST = (
    ("rpn.targets.bg_iou_threshold", "rpn.targets.fg_iou_threshold"),
    ("box.targets.bg_iou_threshold", "box.targets.fg_iou_threshold"),
    ("box.targets.lowest_bg_iou", "box.targets.bg_iou_threshold"),
    # The loss is a mean over so many regions, whether or not there are as many.
    ("box.targets.batch_size_per_image", "rpn.proposals.train.post_nms_top_n"),
    ("box.targets.batch_size_per_image", "data.proposals.train_top_n"),
)
# The groups of fields that only some detectors have, by the name in a config's `detector`.
STAGES = {
    "rpn": ("rpn",),
    "faster_rcnn": ("rpn", "box", "joint"),
    "mask_rcnn": ("rpn", "box", "mask"),
    "fast_rcnn": ("box", "data.proposals"),
}
_OPTIONAL = {group for groups in STAGES.values() for group in groups}
# The fields that may name a part of one's own.
PARTS = (
    "data.dataset",
    "data.augmentations",
    "model.backbone",
    "model.neck",
    "optimizer.name",
    "optimizer.schedule",
)
LIST = "rpn-jax info --fields"


def fields_of(detector: str) -> dict[str, Field]:
    """Returns the fields of a kind of detector; raises a `UserError` if there is no such kind."""
    if detector not in STAGES:
        raise UserError(f"config.detector: {detector!r} is unknown; use {', '.join(STAGES)}")
    kept = {None, *STAGES[detector]}
    return {name: field for name, field in FIELDS.items() if _optional_group(name) in kept}


def _optional_group(name: str) -> str | None:
    """Returns the optional group that a field is in, or that is meant itself; None without one."""
    return next((group for group in _OPTIONAL if f"{name}.".startswith(f"{group}.")), None)


def check_config(config: Any) -> None:
    """Raises a `UserError` that names the first field that is wrong, before anything is compiled.

    Everything that takes a config from somewhere calls it: commands, sweeps and Python.
    """
    check_names(config)
    flat = flatten(config)
    for name, (default, rule, _) in fields_of(config.detector).items():
        value = flat.get(name, {})  # only the options may be absent
        if not (rule.accepts(value) or (value is None and default is None)):
            optional = ", or None" if default is None else ""
            raise UserError(f"config.{name}={value}: give {rule.words}{optional}")
    for lower, upper in AT_MOST:
        if {lower, upper} <= flat.keys() and flat[lower] > flat[upper]:
            raise UserError(
                f"config.{lower}={flat[lower]}: give at most config.{upper}, which is {flat[upper]}"
            )
    jitter, sides = flat["data.jitter.scales"], flat["data.shorter_sides"]
    if jitter and sides:
        raise UserError(
            f"config.data.jitter.scales={jitter}: give () here, or as config.data.shorter_sides, "
            f"which is {sides}"
        )
    canvas = flat["data.jitter.canvas"]
    if jitter and jitter[1] * max(canvas) > _MOST_SIDE:
        raise UserError(
            f"config.data.jitter.scales={jitter}: give factors of at most "
            f"{_MOST_SIDE / max(canvas):g}, which resize to {_MOST_SIDE} pixels a side on "
            f"config.data.jitter.canvas, which is {canvas}"
        )
    _check_sources(config.detector, flat)
    if "box.class_names" in flat:
        _check_classes(flat["box.class_names"], flat["box.category_ids"])


def _check_sources(detector: str, flat: Mapping[str, Any]) -> None:
    """Raises a `UserError` unless each source of the training has one weight, or none has."""
    more, weights = flat["data.more_sources"], flat["data.source_weights"]
    if more and not flat["data.source"]:
        raise UserError(
            f"config.data.more_sources={more}: config.data.source has the first folder; give that"
        )
    if more and detector == "fast_rcnn":
        raise UserError(
            f"config.data.more_sources={more}: a fast_rcnn is given proposals of one folder; give "
            "() here"
        )
    if weights and len(weights) != 1 + len(more):
        raise UserError(
            f"config.data.source_weights={weights}: give {1 + len(more)}, one for "
            "config.data.source and one for each of config.data.more_sources; or ()"
        )


def _check_classes(names: tuple[str, ...], ids: tuple[int | str, ...]) -> None:
    """Raises a `UserError` unless names and ids tell the classes apart, and fit each other."""
    for field, values in {"class_names": names, "category_ids": ids}.items():
        if twice := [value for value, count in collections.Counter(values).items() if count > 1]:
            raise UserError(
                f"config.box.{field}: has {twice[0]!r} twice; give each class one of its own"
            )
    if ids and len(ids) != len(names):
        raise UserError(
            f"config.box.category_ids: number of ids is {len(ids)}, but that of "
            f"config.box.class_names is {len(names)}; give one id for each name, or ()"
        )


def check_names(config: Any) -> None:
    """Raises a `UserError` unless the config has the fields of `FIELDS`, and no others."""
    flat = flatten(config)
    known = fields_of(flat.get("detector", "rpn"))
    for name in flat:
        if name not in known and not name.startswith("data.options."):
            raise UserError(no_such_field(f"config.{name}", name, known=known))
    for name in known:
        if name not in flat and name != "data.options":
            raise UserError(f"config.{name}: is missing; begin with default_config()")


def flatten(config: Any) -> dict[str, Any]:
    """Returns `{"data.shorter_side": 600, …}` of groups in groups."""
    flat = {}
    for name, value in config.items():
        inner = flatten(value) if hasattr(value, "items") else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": inner[key] for key in inner}
    return flat


def own_parts(config: Any) -> dict[str, str]:
    """Returns the import path of each part of one's own that a config names, by field.

    Of a field with several names, each has its place behind it, such as `data.augmentations[0]`.
    """
    named, flat = {}, flatten(config)
    for field in PARTS:
        if isinstance(value := flat[field], tuple):
            named |= {f"{field}[{i}]": name for i, name in enumerate(value)}
        else:
            named[field] = value
    return {field: name for field, name in named.items() if is_import_path(name)}


def no_such_field(
    where: str, name: str, prefix: str = "config.", known: Collection[str] = ()
) -> str:
    """Returns a line about a field that there is not, with the nearest that there is.

    `known` are the fields of the config, of which `name` may be one that was called otherwise.
    """
    near = nearest_field(name)
    if name == "data.options":
        return f"{where}: give its fields one by one, {prefix}data.options.NAME=…"
    if inner := next((field for field in known if field.startswith(f"{name}.")), None):
        return f"{where}: is a group of fields, such as {prefix}{inner}; give these"
    group = _optional_group(name)
    if group and name not in known and (name in FIELDS or name == group):
        having = next(kind for kind, groups in STAGES.items() if group in groups)
        return (
            f'{where}: this detector has no such field; begin with default_config("{having}"), '
            "which has it"
        )
    hint = (
        f"did you mean {prefix}{near}{'=…' if prefix.startswith('-') else ''}?"
        if near
        else f"{LIST} lists them all"
    )
    return f"{where}: there is no such field; {hint}"


def nearest_field(name: str) -> str | None:
    """Returns the field that was most likely meant, None if none is alike.

    That is one of the same group whose words begin with the letters given (`lr`), one of the same
    name in another group, one with such words in another group, or one that is spelt alike.
    """
    group, _, last = name.rpartition(".")
    siblings = [field for field in FIELDS if field.rpartition(".")[0] == group]

    def initials(field):
        words = field.rpartition(".")[2].split("_")
        return "".join(word[0] for word in words) if len(words) > 1 else None

    top = name.partition(".")[0]
    in_turn = sorted(FIELDS, key=lambda field: not field.startswith(f"{top}."))
    found = (
        [field for field in FIELDS if field == name]
        + [field for field in siblings if initials(field) == last]
        + [field for field in in_turn if field.rpartition(".")[2] == last]
        + [field for field in FIELDS if initials(field) == last]
        + difflib.get_close_matches(name.lstrip("-"), FIELDS, n=1, cutoff=0.5)
    )
    return found[0] if found else None
