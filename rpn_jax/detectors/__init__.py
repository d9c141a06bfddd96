"""Detectors: stages of pure functions on one image, strung together under one interface."""
