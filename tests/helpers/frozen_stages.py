"""What a step does to a backbone whose first stage is frozen."""

import jax
import jax.numpy as jnp


def step_beyond_the_first_stage(model, variables, images):
    """Returns the gradients and, leaf by leaf, which running statistics have changed.

    `model` puts out c2 alone, with c1 frozen and norms over the devices; `images` are those of two.
    c1 is held to be as it was.
    """

    def loss(params, image):
        (c2,), updated = model.apply(
            {**variables, "params": params}, image, True, mutable=["batch_stats"]
        )
        assert c2.dtype == model.dtype
        return (c2.astype(jnp.float32) ** 2).sum(), updated["batch_stats"]

    gradients, statistics = jax.jit(
        jax.vmap(
            jax.grad(loss, has_aux=True),
            in_axes=(None, 0),
            out_axes=(0, None),
            axis_name="data",
        )
    )(variables["params"], images)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), statistics, variables["batch_stats"])
    assert not any(jax.tree.leaves(changed["c1"]))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["c1"]))
    return gradients, changed
