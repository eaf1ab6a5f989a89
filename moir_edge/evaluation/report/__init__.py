"""Parts that the reports of all commands share: page templates, terminal tables, spelled figures."""
