"""The shipped sweeps, which `--sweep=NAME` finds."""
