"""Train a Faster R-CNN in the paper's four steps: RPN and Fast R-CNN in turns (section 3.2).

  rpn-jax alternate --config=shapes_faster_rcnn --workdir=runs/four
  rpn-jax evaluate --weights=runs/four/detector.safetensors --out=runs/four/evaluation
  rpn-jax detect --weights=runs/four/detector.safetensors --folder=PHOTOS --out=detections

  1_rpn         from config.model.pretrained, or the seed
  2_fast_rcnn   from the same once more, on the proposals of 1_rpn
  3_rpn         on the features of 2_fast_rcnn, which stay as they are; its RPN begins anew
  4_fast_rcnn   on the same features and the proposals of 3_rpn; its head begins as that of step 2

Each is an ordinary run in a folder of that name in WORKDIR, with a config.json that says all this,
metrics and checkpoints; 1_rpn and 3_rpn keep their proposals. The detector has the features of
step 2, the RPN of step 3 and the head of step 4. --config is that of the whole detector, as `train`
takes it. A single step, or both of a kind, has other fields by --NAME.FIELD=VALUE:

  --rpn.steps=80000       "--rpn.optimizer.decay_at=(60000,)"       --rpn.batch_size=1
  --fast_rcnn.steps=40000 "--fast_rcnn.optimizer.decay_at=(30000,)" --fast_rcnn.batch_size=2
  --4_fast_rcnn.model.pretrained_last=False   (py-faster-rcnn draws the last layers anew there)

The same command, given again after any end, goes on from where it was, and ends with the same
detector. To do a step again, delete its folder, those of the steps after it and the detector. DIR
must stay where it is, since the configs name its files. It stops as `train` does. It has one
process, which uses all devices of its machine.
"""

import argparse
import re
from collections.abc import Sequence

from rpn_jax.errors import UserError
from rpn_jax.files import user_path
from rpn_jax.flags import CONFIG_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--config", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--workdir", required=True, type=user_path, metavar="DIR", help="for the four runs"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Trains to the end."""
    from rpn_jax.alternating import NAMES, alternate
    from rpn_jax.runs.config_files import load_config
    from rpn_jax.runs.determinism import apply_determinism

    for flag in overrides:
        name = re.match(r"--(\w+)\.", flag)
        if name and name[1] not in ("config", *NAMES):
            raise UserError(f"--{name[1]}: there is no such step; there are {', '.join(NAMES)}")
        if name and "=" not in flag:
            raise UserError(f"{flag}: write {flag}=VALUE")
    of_steps = {
        name: [flag for flag in overrides if flag.startswith(f"--{name}.")] for name in NAMES
    }
    taken = [flag for flags in of_steps.values() for flag in flags]
    config = load_config(arguments.config, [flag for flag in overrides if flag not in taken])
    apply_determinism(config)
    alternate(config, arguments.workdir, of_steps)
