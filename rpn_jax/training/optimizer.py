"""The paper's stochastic gradient descent; AdamW and Muon for networks that start from scratch."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict
from optax import contrib

from rpn_jax.errors import UserError, first_line
from rpn_jax.parts import check_call, import_part, is_import_path, running, wrong_part
from rpn_jax.typing import Array

# Optax's 1e-8 would amplify the rounding of tiny gradients to whole steps, and runs on different
# numbers of devices would diverge within 50 steps.
_EPSILON = 1e-6
Scalar = float | Array  # a constant of a program, or its argument
_NAME, _SCHEDULE = "config.optimizer.name", "config.optimizer.schedule"


def build_optimizer(
    config: ConfigDict,
) -> tuple[optax.Schedule, optax.GradientTransformationExtraArgs]:
    """Returns the learning-rate schedule and the optimiser of `config.optimizer`.

    Its `update` takes the learning rate and `optimizer_numbers` as further arguments, so that one
    compiled program serves all of them. Without the rate they are constants of the program. An
    optimiser of one's own has its rate and weight decay as constants always.

    "muon" is Optax's Muon: it makes the momentum of a hidden layer's kernel orthogonal before the
    step; all other parameters use Adam. On `configs/shapes.py`, 300 steps of Muon reach the result
    of 900 steps of AdamW. Its cost does not depend on the images, and is small beside a step of a
    large batch.
    """
    fields = config.optimizer
    schedule = learning_rate_schedule(
        learning_rate=scaled_learning_rate(
            fields.learning_rate,
            config.batch_size,
            reference=fields.reference_batch_size,
            rule=fields.batch_size_rule,
        ),
        schedule=fields.schedule,
        steps=config.steps,
        decay_at=fields.decay_at,
        decay_factor=fields.decay_factor,
        warmup_steps=fields.warmup_steps,
    )
    constants = optimizer_numbers(config)
    build = functools.partial(_build_chain, fields.name, fields.momentum)
    if is_import_path(fields.name):
        own = _own_rule(
            fields.name, schedule, momentum=fields.momentum, weight_decay=fields.weight_decay
        )
        build = functools.partial(_own_chain, own)
    chain = build(schedule, **constants)

    # Two constant factors are multiplied first by XLA, and rounded otherwise than one after the
    # other. Such a program stays as it is, for the same bits as before.
    is_constant = fields.schedule == "step" and not fields.decay_at and not fields.warmup_steps
    is_folded = is_constant and "backbone_factor" in constants

    def update(grads, state, params=None, *, learning_rate=None, **numbers):
        if learning_rate is None or is_folded:
            return chain.update(grads, state, params)
        return build(lambda _: learning_rate, **constants | numbers).update(grads, state, params)

    return schedule, optax.GradientTransformationExtraArgs(chain.init, update)


def optimizer_numbers(config: ConfigDict) -> dict[str, float]:
    """Returns the optimiser's numbers that need no program of their own, for its `update`.

    The learning rate of a step is another. Beta1 of Adam is none: as an argument, 1 - beta1 would
    be rounded otherwise, and no run of before would have the same bits.
    """
    fields = config.optimizer
    numbers = {"weight_decay": fields.weight_decay}
    if fields.name == "sgd":
        numbers["momentum"] = fields.momentum
    if fields.clip_norm:
        numbers["clip_norm"] = fields.clip_norm
    if fields.backbone_factor != 1:
        numbers["backbone_factor"] = fields.backbone_factor
    return numbers


def _build_chain(
    name: str, beta: float, schedule: optax.Schedule, *, weight_decay: Scalar, momentum=None, **ends
) -> optax.GradientTransformation:
    if name == "sgd":
        rule = sgd(schedule, momentum=momentum, weight_decay=weight_decay)
    elif name == "adamw":
        rule = optax.adamw(
            schedule,
            b1=beta,
            eps=_EPSILON,
            weight_decay=weight_decay,
            mask=_is_kernel,
        )
    elif name == "muon":
        rule = contrib.muon(
            schedule,
            beta=beta,
            adam_b1=beta,
            eps=_EPSILON,
            weight_decay=weight_decay,
            weight_decay_mask=_is_kernel,
            muon_weight_dimension_numbers=_hidden_kernels,
            consistent_rms=0.2,  # gives the learning rate the same meaning as with adamw
        )
    else:
        raise UserError(f"config.optimizer.name={name}: give sgd, adamw or muon, or an import path")
    return _with_ends(rule, **ends)


def _own_chain(
    rule: optax.GradientTransformation, schedule: optax.Schedule, *, weight_decay: Scalar, **ends
) -> optax.GradientTransformation:
    del schedule, weight_decay  # it was made with its own
    return _with_ends(rule, **ends)


def _with_ends(
    rule: optax.GradientTransformation, *, clip_norm=None, backbone_factor=None
) -> optax.GradientTransformation:
    """Returns the rule on the clipped gradient, with its updates of the backbone scaled."""
    return optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        rule,
        optax.identity() if backbone_factor is None else scale_backbone(backbone_factor),
    )


def _own_rule(path: str, schedule: optax.Schedule, **fields: float) -> optax.GradientTransformation:
    """Returns what the function of an import path makes; raises a `UserError` if it is no rule."""
    make = import_part(_NAME, path)
    check_call(_NAME, path, make, "schedule", **fields)
    with running(_NAME, path):
        rule = make(schedule, **fields)
    if not (hasattr(rule, "init") and hasattr(rule, "update")):
        raise wrong_part(_NAME, path, f"makes no GradientTransformation, but {type(rule).__name__}")
    return rule


def scaled_learning_rate(
    learning_rate: float, batch_size: int, *, reference: int | None, rule: str
) -> float:
    """Returns the learning rate for `batch_size`, given the learning rate for `reference` images.

    "linear" multiplies it by `batch_size / reference`, "sqrt" by the square root of that. Without
    a `reference` it is unchanged.
    """
    powers = {"linear": 1.0, "sqrt": 0.5}
    if reference is None:
        return learning_rate
    return learning_rate * (batch_size / reference) ** powers[rule]


def learning_rate_schedule(
    *,
    learning_rate: float,
    schedule: str,
    steps: int,
    decay_at: tuple[int, ...] = (),
    decay_factor: float = 0.1,
    warmup_steps: int = 0,
) -> optax.Schedule:
    """Returns the learning rate of each step.

    "step" multiplies it by `decay_factor` at each step of `decay_at`; "cosine" lowers it to 0 at
    the end; the function of an import path is given `(learning_rate, steps)` and returns a schedule
    of its own. All are first raised linearly from 0 over `warmup_steps`, which count as steps of
    the schedule.

    Raises:
        UserError: the schedule is unknown.
    """
    if is_import_path(schedule):
        main = _own_schedule(schedule, learning_rate, steps)
    elif schedule == "step":
        main = optax.piecewise_constant_schedule(
            learning_rate, dict.fromkeys(decay_at, decay_factor)
        )
    elif schedule == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, steps)
    else:
        raise UserError(
            f"config.optimizer.schedule={schedule}: give step or cosine, or an import path"
        )
    if not warmup_steps:
        return main
    return lambda step: main(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)


def _own_schedule(path: str, learning_rate: float, steps: int) -> optax.Schedule:
    """Returns what the function of an import path makes; no schedule raises a `UserError`."""
    make = import_part(_SCHEDULE, path)
    check_call(_SCHEDULE, path, make, "learning_rate", "steps")
    with running(_SCHEDULE, path):
        schedule = make(learning_rate, steps)
        try:
            rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
            what = f"gives no number for a step, but {rate}"
        except TypeError as error:
            rate, what = None, f"makes no schedule, a function of the step ({first_line(error)})"
    if getattr(rate, "shape", None) != ():
        raise wrong_part(_SCHEDULE, path, what)
    return schedule


def sgd(
    schedule: optax.Schedule, *, momentum: Scalar, weight_decay: Scalar
) -> optax.GradientTransformation:
    """Returns SGD with momentum; weight decay is added to the gradient, as in Caffe and torch.

    Kernels decay; biases and the scales of norms, which have one axis, do not.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_is_kernel),
        optax.sgd(schedule, momentum=momentum),
    )


def scale_backbone(factor: Scalar) -> optax.GradientTransformation:
    """Returns a transformation that multiplies the backbone's learning rate by `factor`.

    It comes last and scales updates. Pretrained weights need smaller steps than layers drawn from a
    seed; DETR (Carion et al., arXiv 2005.12872) uses 0.1.
    """

    def scale(updates, params):
        del params
        return updates | {"backbone": jax.tree.map(lambda x: factor * x, updates["backbone"])}

    return optax.stateless(scale)


def _hidden_kernels(params):
    """Returns Muon's matrix axes of each kernel between the stem and the outputs, else None.

    Leaves masked by Optax, and the None of frozen layers, have no axes.
    """
    matrices = {
        2: contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=1),
        4: contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
    }

    def numbers(path, leaf):
        outer = path[:2] == ("backbone", "c1") or path[-2] in ("objectness", "scores", "deltas")
        return None if outer else matrices.get(getattr(leaf, "ndim", 0))

    return traverse_util.path_aware_map(numbers, params)


def _is_kernel(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
