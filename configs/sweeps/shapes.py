"""The quick start's network, shorter: the balance of the loss, the learning rate, three seeds.

    rpn-jax sweep --sweep=shapes --out=runs/sweep --jobs=2

Twelve runs of 100 steps.
"""

from rpn_jax.sweeps.definition import Sweep, grid, seeds


def get_sweep():
    return Sweep(
        config="shapes",
        fixed={
            "data.options.num_train": 400,
            "data.options.num_test": 100,
            "steps": 100,
            "optimizer.warmup_steps": 20,
            "evaluation.every": 50,
        },
        axes=[
            grid({"rpn.loss.balance": (3.0, 1.0), "optimizer.learning_rate": (5e-3, 2e-3)}),
            seeds(3),
        ],
    )
