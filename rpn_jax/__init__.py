"""Region Proposal Networks in JAX and Flax (Ren, He, Girshick, Sun, arXiv 1506.01497)."""

__version__ = "0.1.0"
