"""XLA's own choice of code, for tests that compare the bits of two programs."""

import jax

# The suite's flags compile in a third of the time, and round what programs share in several ways.
FUSED = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": True}


def fused_pmap(monkeypatch):
    """Lets `jax.pmap` compile by `FUSED`; each function that it maps has one set of shapes."""
    plain = jax.pmap

    def pmap(*args, **kwargs):
        mapped, compiled = plain(*args, **kwargs), []

        def run(*operands):
            if not compiled:
                compiled.append(mapped.lower(*operands).compile(compiler_options=FUSED))
            return compiled[0](*operands)

        return run

    monkeypatch.setattr(jax, "pmap", pmap)
