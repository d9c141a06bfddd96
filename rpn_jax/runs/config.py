"""Every field of an experiment, with the paper's value as its default; reading and comparing them.

A file in `configs/` starts from `default_config()` and changes what it needs. Section numbers are
those of the paper (arXiv 1506.01497).
"""

import jax
from ml_collections.config_dict import ConfigDict, placeholder

from rpn_jax.errors import UserError

VERSION = 2  # of the fields, see `config_files.upgrade`


def default_config(detector: str = "rpn") -> ConfigDict:
    """Returns a config with every field of a kind of detector.

    A config can change them but not add any, so that a field without effect is refused.
    """
    config = ConfigDict()
    config.version = VERSION  # of these fields; older configs are upgraded when they are read
    config.detector = detector  # "rpn"
    config.seed = 0  # everything random follows from it
    config.steps = 80_000
    config.batch_size = 1  # images a step, over all devices, processes and micro-batches
    # Micro-batches that a device's share of a step is worked through in, to fit its memory; the
    # gradient is that of the whole batch. sync_batch_norm takes its statistics of each of them.
    config.accumulation = 1
    # Evaluation, proposals and exports use an average of the parameters (and of the batch
    # statistics), of which each step keeps this share, such as 0.9998, and less in early steps.
    config.ema_decay = 0.0
    # On GPUs, whose sums are otherwise in any order: the same bits from the same config on the same
    # devices. The cost: XLA takes its first choice of each kernel that sums in a fixed order, in
    # place of the fastest that it has measured. CPUs and TPUs give the same bits anyway.
    config.deterministic = False

    config.data = ConfigDict()
    config.data.dataset = "voc/2007"  # shapes, voc_folder, coco_json, voc/2007, voc/2012, coco/2017
    config.data.source = placeholder(str)  # the folder that voc_folder and coco_json read
    config.data.options = ConfigDict()  # of the dataset, such as num_train of shapes
    config.data.data_dir = "~/.cache/rpn_jax/datasets"  # where prepared datasets are kept
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.shorter_side = 600  # pixels, section 3.3
    config.data.longer_side = 1000
    config.data.num_buckets = 4  # canvas shapes that images are padded to; each is compiled once
    config.data.flip_probability = 0.5
    config.data.max_objects = placeholder(int)  # ground-truth slots; none: what the data needs
    # With every stage of the backbone frozen: its features of each image are computed once and kept
    # in data_dir; 2 MB for a VGG-16 and an image of 400 x 600, and as much for its mirror image.
    config.data.cache_features = False
    config.data.num_threads = placeholder(int)  # that load batches; none: one for each CPU

    config.model = ConfigDict()
    config.model.backbone = "vgg16"
    config.model.output_stage = placeholder(str)  # none: the one at stride 16, such as c5 of VGG-16
    config.model.neck = placeholder(str)  # fpn: levels p2 to p6 from c2 to c5
    config.model.fpn_channels = 256  # of each of its levels
    config.model.norm = placeholder(str)  # frozen_batch_norm (none), sync_batch_norm, group_norm
    config.model.stem = placeholder(str)  # of a ResNet: imagenet (none), small (half the stride)
    config.model.stride_in_1x1 = placeholder(bool)  # of a ResNet of bottlenecks, as Caffe's are
    config.model.dilate_c5 = placeholder(bool)  # of a ResNet: c5 keeps c4's stride, by dilation
    config.model.ceil_pools = placeholder(bool)  # Caffe's rounding of pools; vgg16, zf, alexnet
    config.model.frozen_stages = 0  # 2 tunes VGG-16 from conv3_1 up, as the paper does
    # Run each stage of the backbone again for its gradient: a third more computation, less memory
    # on GPUs and TPUs (a CPU's XLA undoes what it saves).
    config.model.remat = False
    config.model.dtype = "float32"  # of the layers: or bfloat16; boxes and losses stay float32
    config.model.input_convention = "caffe"  # the pixels that the weights expect, see inputs.py
    config.model.pretrained = placeholder(str)  # a file of trained weights, see weights/layouts.py
    config.model.pretrained_head = True  # where the file holds one

    config.rpn = _rpn_fields()

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw, muon
    config.optimizer.learning_rate = 1e-3
    config.optimizer.backbone_factor = 1.0  # of that, for the layers of the backbone
    # The batch_size that learning_rate was found for; with another it grows by batch_size_rule.
    config.optimizer.reference_batch_size = placeholder(int)  # none: learning_rate as it is
    # With the ratio of the two (Goyal et al., arXiv 1706.02677, for SGD), or its square root: sqrt
    # (Malladi et al., arXiv 2205.10287, for Adam).
    config.optimizer.batch_size_rule = "linear"
    config.optimizer.momentum = 0.9  # beta1 of adamw, beta of muon
    config.optimizer.weight_decay = 5e-4  # of kernels; biases and norms are spared
    config.optimizer.clip_norm = 0.0  # of the whole gradient; 0: no clipping
    config.optimizer.schedule = "step"  # or cosine
    config.optimizer.decay_at = (60_000,)  # steps where "step" multiplies the rate by decay_factor
    config.optimizer.decay_factor = 0.1
    config.optimizer.warmup_steps = 0  # the rate grows linearly from 0

    config.evaluation = ConfigDict()
    config.evaluation.every = 5000  # steps between validations; 0: never
    config.evaluation.batch_size = placeholder(int)  # none: as batch_size
    config.evaluation.top_ns = (10, 50, 100, 300, 1000)
    config.evaluation.pictures = 4  # images drawn at each validation

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1000
    config.checkpoint.keep = 3  # the newest ones

    config.log_every = 20
    return config.lock()


def _rpn_fields() -> ConfigDict:
    """Returns the fields of the first stage: its head, anchors, targets, loss and proposals."""
    rpn = ConfigDict()
    rpn.channels = 512  # section 3.1: 512 for VGG-16, 256 for ZF (and for FPN)
    rpn.objectness = "sigmoid"  # k logistic scores, or softmax: 2k as in the paper

    rpn.anchors = ConfigDict()
    # Square roots of areas in pixels of the resized image; of several levels a tuple for each,
    # finest first: ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)).
    rpn.anchors.sizes = (128.0, 256.0, 512.0)
    rpn.anchors.aspect_ratios = (0.5, 1.0, 2.0)  # width / height
    rpn.anchors.rounding = "none"  # or torchvision (which rounds strides too), caffe
    rpn.anchors.offset = 0.5  # of the first anchor's centre, in strides

    rpn.targets = ConfigDict()  # section 3.1.2 and 3.1.3
    rpn.targets.fg_iou_threshold = 0.7
    rpn.targets.bg_iou_threshold = 0.3
    rpn.targets.allow_low_quality = True  # an object's best anchors are positive at any IoU
    rpn.targets.ignore_ioa_threshold = 0.5
    rpn.targets.drop_straddling = True  # anchors across the image's border, section 3.3
    rpn.targets.straddle_tolerance = 0.0  # pixels
    rpn.targets.batch_size_per_image = 256
    rpn.targets.positive_fraction = 0.5

    rpn.box_weights = (1.0, 1.0, 1.0, 1.0)  # multiply tx, ty, tw, th of the targets

    rpn.loss = ConfigDict()
    rpn.loss.normalizer = "paper"  # or sampled
    rpn.loss.balance = 10.0  # lambda of equation 1
    rpn.loss.beta = 1 / 9  # where smooth L1 turns from a square to a line

    rpn.proposals = ConfigDict()
    rpn.proposals.train = ConfigDict()  # those a detector on top would train on
    rpn.proposals.train.pre_nms_top_n = 12_000
    rpn.proposals.train.post_nms_top_n = 2000
    rpn.proposals.test = ConfigDict()
    rpn.proposals.test.pre_nms_top_n = 6000
    rpn.proposals.test.post_nms_top_n = 300
    rpn.proposals.nms_threshold = 0.7
    rpn.proposals.min_size = 0.0  # pixels of the resized image
    rpn.proposals.keep_padding = False  # also of anchors on the canvas beyond the image
    return rpn


def flatten(config: ConfigDict) -> dict[str, object]:
    """Returns the config as `{"data.shorter_side": 600, …}` with values as JSON has them."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f"{name}.{key}": inner for key, inner in flatten(value).items()})
        else:
            flat[name] = _with_lists(value)
    return flat


def _with_lists(value: object) -> object:
    return list(map(_with_lists, value)) if isinstance(value, tuple | list) else value


def random_key(config: ConfigDict) -> jax.Array:
    """Returns the key that all of a run's randomness on devices is drawn from."""
    return jax.random.key(config.seed)


def sizes_per_level(config: ConfigDict) -> tuple[tuple[float | int, ...], ...]:
    """Returns the sizes of each level's anchors, finest first.

    Numbers alone are those of the only level. Levels with fewer sizes than others are a
    `UserError`, because all share one head.
    """
    sizes = config.rpn.anchors.sizes
    levels = tuple(tuple(level) for level in sizes if isinstance(level, tuple | list))
    if not levels:
        return (sizes,)
    if len(levels) < len(sizes) or len(set(map(len, levels))) > 1:
        raise UserError(
            f"config.rpn.anchors.sizes: {sizes} are not as many for each level; give either "
            "numbers, or a tuple of equally many for each level"
        )
    return levels
