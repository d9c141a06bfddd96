"""Commands, one file each: flags, and one call into the floors below.

A command's docstring is its help. Its imports are in `run`, so that `--help` answers at once.
"""
