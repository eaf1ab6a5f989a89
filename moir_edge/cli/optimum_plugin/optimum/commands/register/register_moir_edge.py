"""Installed as `optimum/commands/register/register_moir_edge.py`, where optimum-cli looks for commands of other packages."""

from optimum.commands.export.base import ExportCommand

from moir_edge.cli.optimum_export import MoirEdgeExportCommand

REGISTER_COMMANDS = [(MoirEdgeExportCommand, ExportCommand)]
