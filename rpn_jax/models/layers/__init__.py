"""Convolution, norms and pooling, and the forms of them that suit a CPU."""
