"""Fill a page template of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from moir_edge.printable import printable

__all__ = ["render_template"]


def render_template(
    name: str, context: Mapping[str, Any], filters: Mapping[str, Callable[..., str]]
) -> str:
    """Return a page; everything but `Markup` is escaped, text cannot reorder the page, and an unknown name is an error.

    Args:
        name: File in the folder `templates`.
        context: The template's names.
        filters: Further filters by name.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_finished,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(context)


def _source(name: str) -> str:
    return files("moir_edge.evaluation").joinpath("templates", name).read_text("utf-8")


def _finished(value: Any) -> Any:
    """Return what stands for a value on the page."""
    return printable(value) if type(value) is str else value
