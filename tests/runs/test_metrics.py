import jax.numpy as jnp
import numpy as np
import pytest

from rpn_jax.runs.metrics import (
    MetricsWriter,
    NonFiniteError,
    PendingMetrics,
    check_finite,
    read_metrics,
)


def test_a_resumed_run_has_every_step_once(tmp_path):
    writer = MetricsWriter(tmp_path, start_step=0)
    for step in (1, 2, 3):
        writer.write(step, {"loss": 10.0 * step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "train/lo')  # what a kill in the middle of a line leaves
    writer = MetricsWriter(tmp_path, start_step=2)
    writer.write(3, {"loss": 33.0})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "train/loss": 10.0},
        {"step": 2, "train/loss": 20.0},
        {"step": 3, "train/loss": 33.0},
    ]


def test_damaged_rows_do_not_keep_a_run_from_going_on(tmp_path):
    file = tmp_path / "metrics.jsonl"
    damaged = ['{"stex": 2}', '{"step": "2"}', "7", "[]", '{"step": 2', "\ufffd", "[" * 100_000]
    file.write_text("\n".join(['{"step": 1, "train/loss": 3.0}', *damaged, ""]))
    MetricsWriter(tmp_path, start_step=2).close()
    assert read_metrics(file) == [{"step": 1, "train/loss": 3.0}]


def test_no_file_is_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_fetch_averages_the_steps_since_the_last():
    pending = PendingMetrics()
    for step, loss in ((1, 2.0), (2, 4.0)):
        pending.add(step, {"loss": jnp.float32(loss)})
    assert pending.fetch() == {"loss": 3.0}
    pending.add(3, {"loss": jnp.float32(7.0)})
    assert pending.fetch() == {"loss": 7.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_step_that_is_not_finite_is_named(bad):
    pending = PendingMetrics()
    for step, loss in ((5, 1.0), (6, bad), (7, np.nan)):
        pending.add(step, {"loss": jnp.float32(loss)})
    with pytest.raises(NonFiniteError) as caught:
        pending.fetch()
    assert caught.value.step == 6
    assert str(caught.value) == f"the loss of step 6 is {bad}"


def test_a_gradient_that_is_not_finite_is_noticed_though_the_loss_is():
    pending = PendingMetrics()
    pending.add(3, {"loss": jnp.float32(1.0), "grad_norm": jnp.float32(np.nan)})
    with pytest.raises(NonFiniteError, match="^the norm of the gradient of step 3 is nan$"):
        pending.fetch()


def test_a_validation_loss_that_is_not_finite():
    check_finite(4, {"loss": 1.0})
    with pytest.raises(NonFiniteError, match="^the loss_box of the validation after step 4 is inf"):
        check_finite(4, {"loss": 1.0, "loss_box": np.inf})
