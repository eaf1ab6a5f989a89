"""The table of the families that export knows, produced by the test over the registry."""
