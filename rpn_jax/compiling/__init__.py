"""Steps compiled for accelerators that are not here, and what their programs cost."""
