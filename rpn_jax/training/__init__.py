"""Training and measuring: everything between a config and a work folder."""
