"""Annotation files as people have them: their values, their layouts, the names of their images."""
