"""The commands that read and write weights."""
