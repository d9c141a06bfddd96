"""Datasets, the order of their images, and host batches. NumPy only: nothing here uses jax."""
