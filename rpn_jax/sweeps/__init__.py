"""Many runs as one: what they are, how they are started, how they stand."""
