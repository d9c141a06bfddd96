"""One file per command: its flags, and the one call into the floors below.

A command's docstring is its help. It imports what it needs when it runs, so that `--help` answers
at once.
"""
