"""Ways to alter an input that know its structure."""
