"""What is done with a trained network: measure it, use it, export it, describe it."""
