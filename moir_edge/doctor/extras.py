"""Optional parts of moir-edge, as its own metadata lists them: installed, or what is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires

from moir_edge.doctor.installed import Installed

__all__ = ["Extra", "judge_extras"]

_OWN = "moir-edge"
_TOOLS = ("dev",)  # what only developers of moir-edge need


@dataclass(frozen=True, kw_only=True)
class Extra:
    """One extra.

    Attributes:
        name: As in ``pip install 'moir-edge[export]'``.
        missing: Packages of it that are not installed.
    """

    name: str
    missing: tuple[str, ...]


def judge_extras(
    installed: Installed, requirements: Sequence[str] | None = None
) -> tuple[Extra, ...]:
    """Return each extra with the packages that are missing; none where moir-edge runs without being installed.

    Args:
        installed: The software.
        requirements: Lines of the package's metadata; those of the installed moir-edge by default.
    """
    lines = _own_requirements() if requirements is None else requirements
    packages: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"""extra == ["']([\w-]+)["']""", line)
        name = re.match(r"[A-Za-z0-9._-]+", line)
        elsewhere = "sys_platform" in line and not installed.system.startswith("Linux")
        if extra and name and not elsewhere and name[0].lower() != _OWN:
            packages.setdefault(extra[1], []).append(name[0].lower().replace("_", "-"))
    return tuple(
        Extra(
            name=extra,
            missing=tuple(one for one in dict.fromkeys(names) if one not in installed.packages),
        )
        for extra, names in packages.items()
        if extra not in _TOOLS
    )


def _own_requirements() -> Sequence[str]:
    try:
        return requires(_OWN) or ()
    except PackageNotFoundError:
        return ()
