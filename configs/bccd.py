"""Blood cells: a ResNet-18 from scratch on the microscope images of BCCD, or any VOC folder.

    rpn-jax prepare --config=bccd --config.data.source=FOLDER
    rpn-jax train --config=bccd --config.data.source=FOLDER \
        --workdir=runs/bccd

About ten minutes on two CPU cores. Trained on the train list (205 images), measured on the test
list (72 images, 945 objects): recall at IoU 0.5 is 0.970, 0.995 and 0.999 with 50, 100 and 300
proposals, AR@100 0.691, AR@300 0.699.
"""

from rpn_jax.runs.config import default_config


def get_config(detector="rpn"):
    config = default_config(detector)
    config.data.dataset = "voc_folder"
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.shorter_side = 240
    config.data.longer_side = 320

    config.model.backbone = "resnet18"
    config.model.norm = "sync_batch_norm"
    config.model.output_stage = "c4"
    config.rpn.channels = 256
    config.model.input_convention = "centred"

    config.rpn.anchors.sizes = (24.0, 48.0, 96.0)
    config.rpn.targets.drop_straddling = False
    config.rpn.targets.batch_size_per_image = 128
    config.rpn.box_weights = (10.0, 10.0, 5.0, 5.0)
    config.rpn.loss.normalizer = "sampled"
    config.rpn.loss.balance = 2.0
    config.rpn.loss.beta = 1.0

    config.batch_size = 4
    config.steps = 800
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 10.0

    config.rpn.proposals.test.pre_nms_top_n = 2000
    config.evaluation.every = 800
    config.checkpoint.every = 200
    return config
