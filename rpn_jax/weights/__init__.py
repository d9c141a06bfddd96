"""Files of trained weights: this project's own, and those of others."""
