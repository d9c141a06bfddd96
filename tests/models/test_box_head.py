import functools

import jax
import numpy as np
import pytest

from rpn_jax.models.backbones import BACKBONES
from rpn_jax.models.box_head import ConvolutionHead, FullyConnectedHead, StageHead

POOLED = np.random.default_rng(0).normal(size=(2, 3, 7, 7, 8)).astype(np.float32)
RESNET = BACKBONES["resnet18"](output_stages=("c4",))
HEADS = {
    "fc": FullyConnectedHead(num_classes=4, channels=16),
    "agnostic": FullyConnectedHead(num_classes=4, channels=16, class_agnostic=True),
    "conv": ConvolutionHead(num_classes=4, channels=16, convolutions=2, width=8, norm="group_norm"),
    "c5": StageHead(num_classes=4, stage=RESNET.stage_of("c5")),
}


@functools.cache
def variables_of(name):
    return jax.jit(HEADS[name].init)(jax.random.key(0), POOLED)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_has_a_score_and_a_box_for_each_class_of_each_region(name):
    logits, deltas = jax.jit(HEADS[name].apply)(variables_of(name), POOLED)
    assert logits.shape == (2, 3, 4)
    assert deltas.shape == (2, 3, 1 if name == "agnostic" else 4, 4)
    # No region sees another.
    alone, _ = jax.jit(HEADS[name].apply)(variables_of(name), POOLED[1:, 2:])
    np.testing.assert_allclose(alone[0, 0], logits[1, 2], rtol=1e-5, atol=1e-6)


def test_fc_is_two_layers_with_relus_on_rows_columns_channels():
    params = jax.tree.map(np.asarray, variables_of("fc")["params"])
    x = POOLED.reshape(6, -1)
    for name in ("fc6", "fc7"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    expected = x @ params["scores"]["kernel"] + params["scores"]["bias"]
    logits, _ = HEADS["fc"].apply(variables_of("fc"), POOLED)
    np.testing.assert_allclose(logits.reshape(6, 4), expected, rtol=1e-4, atol=1e-5)


def test_dropout_of_an_image_follows_from_its_key_alone():
    head, variables = HEADS["fc"], variables_of("fc")
    keys = jax.random.split(jax.random.key(1), 2)
    dropped, _ = head.apply(variables, POOLED, keys)
    assert np.abs(dropped - head.apply(variables, POOLED)[0]).max() > 1e-4
    alone, _ = head.apply(variables, POOLED[1:], keys[1:])
    np.testing.assert_allclose(alone[0], dropped[1], rtol=1e-5, atol=1e-6)
    other, _ = head.apply(variables, POOLED[1:], keys[:1])
    assert np.abs(other - alone).max() > 1e-4


def test_dropout_keeps_the_mean():
    rate_kept = []
    head = FullyConnectedHead(num_classes=2, channels=2000, dropout=0.25)
    pooled = np.ones((1, 1, 7, 7, 1), np.float32)
    variables = jax.jit(head.init)(jax.random.key(0), pooled)
    ones = jax.tree.map(np.zeros_like, variables["params"])
    ones["fc6"]["bias"][:] = 1  # fc6 gives 1 for each unit
    ones["fc7"]["kernel"][np.diag_indices(2000)] = 1  # fc7 passes them on
    ones["scores"]["kernel"][:, 0] = 1 / 2000
    for key in jax.random.split(jax.random.key(2), 3):
        logits, _ = head.apply({"params": ones}, pooled, key[None])
        rate_kept.append(float(logits[0, 0, 0]))
    assert np.mean(rate_kept) == pytest.approx(1, abs=0.05)
    assert len(set(rate_kept)) == 3


def test_a_mask_head_gets_what_the_stage_makes_or_the_features():
    head, variables = HEADS["c5"], variables_of("c5")
    made = jax.jit(functools.partial(head.apply, method="shared"))(variables, POOLED)
    scores = variables["params"]["scores"]
    logits, _ = jax.jit(head.apply)(variables, POOLED)
    expected = made.mean((2, 3)) @ scores["kernel"] + scores["bias"][None, None]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert HEADS["fc"].shared(POOLED) is POOLED
