"""Refuse NaN and infinity in every float option of every command, as text like ``nan`` and ``1e999`` converts to a float."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

__all__ = ["App"]


class _Command(TyperCommand):
    """A command whose float options are finite."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        left = super().parse_args(ctx, args)
        params: list[Any] = self.get_params(ctx)
        for param in params:
            given = ctx.params.get(param.name)
            for value in given if isinstance(given, list | tuple) else [given]:
                if isinstance(value, float) and not math.isfinite(value):
                    raise typer.BadParameter(
                        f"{value} is not a finite number; give one or leave the option out",
                        ctx=ctx,
                        param=param,
                    )
        return left


class App(typer.Typer):
    """An application whose commands take finite numbers alone."""

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[[Any], Any]:
        """Return the decorator that registers a command; arguments are those of `typer.Typer.command`."""
        return super().command(name, **{"cls": _Command, **kwargs})
