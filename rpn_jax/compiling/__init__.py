"""Ahead-of-time compilation for absent accelerators, and the cost of the programs."""
