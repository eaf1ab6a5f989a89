"""The command line: one module per command, each with `register(app)`; heavy imports wait for the command."""
