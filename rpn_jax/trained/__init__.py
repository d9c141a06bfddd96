"""Trained networks: measure, use, export and describe them."""
