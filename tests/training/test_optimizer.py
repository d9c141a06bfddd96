import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.errors import UserError
from rpn_jax.runs.config import default_config
from rpn_jax.runs.config_files import apply_overrides
from rpn_jax.training.optimizer import (
    build_optimizer,
    learning_rate_schedule,
    optimizer_numbers,
    sgd,
)


def rates(steps, **fields):
    schedule = learning_rate_schedule(**{"learning_rate": 1.0, "steps": 100, **fields})
    return [float(schedule(step)) for step in steps]


def test_the_step_schedule_falls_by_the_factor_at_each_of_its_steps():
    actual = rates([0, 9, 10, 19, 20], schedule="step", decay_at=(10, 20), decay_factor=0.1)
    np.testing.assert_allclose(actual, [1, 1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_the_cosine_schedule_ends_at_0():
    np.testing.assert_allclose(rates([0, 50, 100], schedule="cosine"), [1, 0.5, 0], atol=1e-6)


def test_warm_up_grows_linearly_and_ends_in_the_schedule():
    actual = rates([0, 1, 3, 4], schedule="step", warmup_steps=4)
    np.testing.assert_allclose(actual, [0.25, 0.5, 1, 1], rtol=1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match=r"config.optimizer.schedule=linear: give step or cosine"):
        rates([0], schedule="linear")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 0.02),
        (["reference_batch_size=16"], 0.02 * 4),
        (["reference_batch_size=16", "batch_size_rule=sqrt"], 0.02 * 2),
        (["reference_batch_size=256"], 0.02 / 4),
    ],
)
def test_the_learning_rate_grows_with_the_batch_by_rule(options, expected):
    overrides = ["batch_size=64", "accumulation=2", "optimizer.learning_rate=0.02"]
    overrides += [f"optimizer.{option}" for option in options]
    config = apply_overrides(default_config(), [f"--config.{each}" for each in overrides])
    schedule, _ = build_optimizer(config)
    assert float(schedule(0)) == pytest.approx(expected)


def test_three_steps_by_hand():
    # v <- 0.9 v + (g + 0.5 w); w <- w - 0.1 v, where only the kernel (two axes) decays.
    optimizer = sgd(lambda _: 0.1, momentum=0.9, weight_decay=0.5)
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, 2.0)}
    state = optimizer.init(params)
    kernel, bias, kernel_velocity, bias_velocity = 2.0, 2.0, 0.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        grads = {"kernel": jnp.full((1, 1), gradient), "bias": jnp.full(1, gradient)}
        updates, state = optimizer.update(grads, state, params)
        params = {name: params[name] + updates[name] for name in params}
        kernel_velocity = 0.9 * kernel_velocity + gradient + 0.5 * kernel
        bias_velocity = 0.9 * bias_velocity + gradient
        kernel -= 0.1 * kernel_velocity
        bias -= 0.1 * bias_velocity
    np.testing.assert_allclose(params["kernel"][0, 0], kernel, rtol=1e-6)
    np.testing.assert_allclose(params["bias"][0], bias, rtol=1e-6)


def test_muon_orthogonalises_hidden_kernels_and_leaves_the_rest_to_adam():
    config = apply_overrides(
        default_config(),
        [
            "--config.optimizer.name=muon",
            "--config.optimizer.learning_rate=0.5",
            "--config.optimizer.schedule=cosine",
            "--config.optimizer.weight_decay=0",
        ],
    )
    _, optimizer = build_optimizer(config)
    shapes = {
        "backbone": {
            "c1": {"conv": {"kernel": (3, 3, 3, 8)}},
            "c2": {"conv": {"kernel": (3, 3, 4, 16), "bias": (16,)}},
        },
        "rpn": {"conv": {"kernel": (3, 3, 16, 8)}, "deltas": {"kernel": (1, 1, 8, 12)}},
    }
    rng = np.random.default_rng(0)
    grads = jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    for path in (("backbone", "c2"), ("rpn",)):
        kernel = functools.reduce(dict.__getitem__, path, updates)["conv"]["kernel"]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        # Of root mean square 0.2, whatever the shape: 0.2 sqrt(m) times an orthogonal m x n matrix.
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.5 * 0.2 * len(matrix) ** 0.5)
        assert singular.min() > 0.6
        assert singular.max() < 1.3
    for adams in (
        updates["backbone"]["c1"]["conv"]["kernel"],
        updates["backbone"]["c2"]["conv"]["bias"],
        updates["rpn"]["deltas"]["kernel"],
    ):
        # Adam's first step goes as far in every direction; with Nesterov's look ahead, 1.47 rates.
        np.testing.assert_allclose(np.abs(adams), 0.5 * 1.4737, rtol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_frozen_layers_have_neither_update_nor_state(name):
    config = apply_overrides(default_config(), [f"--config.optimizer.name={name}"])
    _, optimizer = build_optimizer(config)
    kernel, bias = jnp.ones((3, 3, 4, 8)), jnp.ones(8)
    params = {
        "backbone": {
            "c1": {"conv1": {"kernel": None, "bias": None}},
            "c2": {"conv2": {"kernel": kernel, "bias": bias}},
        }
    }
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    moments = [x.shape for x in jax.tree.leaves(state) if x.shape in (kernel.shape, bias.shape)]
    assert moments.count(kernel.shape) == {"sgd": 1, "adamw": 2, "muon": 1}[name]
    assert moments.count(bias.shape) == {"sgd": 1, "adamw": 2, "muon": 2}[name]


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_the_backbone_has_a_learning_rate_of_its_own(name):
    params = {
        part: {"c2": {"conv": {"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)}}}
        for part in ("backbone", "neck", "rpn")
    }
    params["backbone"]["c1"] = {"conv": {"kernel": None, "bias": None}}  # frozen
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), x.shape), params)

    def second_update(factor):
        fields = [f"name={name}", f"backbone_factor={factor}", "weight_decay=0.1"]
        overrides = [f"--config.optimizer.{field}" for field in fields]
        _, optimizer = build_optimizer(apply_overrides(default_config(), overrides))
        _, state = optimizer.update(grads, optimizer.init(params), params)
        return optimizer.update(grads, state, params)[0]

    whole, slower = second_update(1.0), second_update(0.1)
    expected = whole | {"backbone": jax.tree.map(lambda x: 0.1 * x, whole["backbone"])}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), slower, expected)


def test_clipping_is_of_the_whole_gradient():
    config = apply_overrides(
        default_config(),
        [
            "--config.optimizer.clip_norm=5",
            "--config.optimizer.momentum=0",
            "--config.optimizer.learning_rate=1",
        ],
    )
    _, optimizer = build_optimizer(config)
    grads = {"a": jnp.array([30.0]), "b": jnp.array([40.0])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-3, -4], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_numbers_as_arguments_do_what_they_do_as_constants(name):
    overrides = [
        f"--config.optimizer.name={name}",
        "--config.optimizer.weight_decay=0.1",
        "--config.optimizer.clip_norm=0.5",
        "--config.optimizer.backbone_factor=0.3",
        "--config.optimizer.schedule=cosine",
        "--config.optimizer.warmup_steps=3",
    ]
    config = apply_overrides(default_config(), overrides)
    other = apply_overrides(
        default_config(),
        [
            *overrides[:1],
            "--config.optimizer.weight_decay=0.7",
            "--config.optimizer.clip_norm=9.0",
            "--config.optimizer.backbone_factor=0.9",
        ],
    )
    schedule, optimizer = build_optimizer(config)
    _, of_other = build_optimizer(other)
    key = jax.random.key(0)
    params = {
        part: {"kernel": jax.random.normal(key, (3, 4)), "bias": jnp.ones(4)}
        for part in ("backbone", "rpn")
    }
    grads = jax.tree.map(jnp.cos, params)
    ours = theirs = optimizer.init(params)
    assert jax.tree.structure(of_other.init(params)) == jax.tree.structure(ours)
    numbers = optimizer_numbers(config)
    for step in range(3):
        expected, ours = jax.jit(optimizer.update)(grads, ours, params)
        # Nothing of the other config but what was given is in its program.
        given = {**numbers, "learning_rate": schedule(step)}
        updates, theirs = jax.jit(of_other.update)(grads, theirs, params, **given)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), updates, expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), theirs, ours)
