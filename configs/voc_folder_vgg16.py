"""VGG-16 on a small folder of VOC photographs, 3000 steps of one image."""

from rpn_jax.training.config import default_config


def get_config():
    config = default_config()
    config.data.dataset = "voc_folder"
    config.data.train_split = "trainval"
    config.data.eval_split = "test"
    config.data.shorter_side = 400
    config.data.longer_side = 667

    config.model.backbone = "vgg16"
    config.model.frozen_stages = 2
    config.model.input_convention = "caffe"

    config.anchors.sizes = (85.0, 171.0, 341.0)  # the paper's, scaled as the images are
    config.targets.drop_straddling = False
    config.loss.normalizer = "sampled"
    config.loss.balance = 10.0  # with 1, box regression has hardly begun after 3000 steps

    config.batch_size = 1
    config.steps = 3000
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 10.0

    config.evaluation.every = 3000
    config.checkpoint.every = 250
    return config
