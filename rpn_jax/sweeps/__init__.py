"""Sweeps of many runs: their definition, launching and states."""
