"""Vision towers of timm, which is imported without torchvision where torchvision is absent.

timm imports torchvision for the transforms of its training scripts, and for a class that it looks for when it takes models
apart; transformers calls timm available only beside it. A tower needs neither. PyPI's torchvision does not load beside a CPU
build of torch, and then breaks every import of a transformers model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from moir_edge.errors import EnvironmentProblem

__all__ = ["prepare_timm"]

_TOWER = "timm_wrapper"
_ABSENT = "torchvision"


def prepare_timm(name: str | Path, config: Mapping[str, Any]) -> None:
    """Import timm if a model has one of its towers, so that transformers can build it.

    Args:
        name: How messages call the checkpoint.
        config: The object in its config.json.

    Raises:
        EnvironmentProblem: timm is not installed, or cannot be imported.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or vision.get("model_type") != _TOWER:
        return
    if find_spec("timm") is None:
        raise EnvironmentProblem(
            f"{name} has a vision tower of timm, which is not installed; install it with: pip install 'moir-edge[timm]'"
        )
    if find_spec(_ABSENT) is not None:
        return  # as transformers wants it
    try:
        with _empty_torchvision():
            timm = import_module("timm")
    except ImportError as error:
        raise EnvironmentProblem(
            f"{name} has a vision tower of timm, and timm cannot be imported without torchvision: {error}; install "
            "the torchvision that belongs to your torch"
        ) from error
    _tell_transformers(timm)


def _tell_transformers(timm: Any) -> None:
    """Give transformers timm, which it takes for absent without torchvision (`is_timm_available`, seen in 5.23 and 5.24)."""
    backends = import_module("transformers.utils.import_utils").BACKENDS_MAPPING
    backends["timm"] = (lambda: True, backends["timm"][1])
    wrapper = "transformers.models.timm_wrapper"
    # What both modules import from timm where they find it.
    configuration: Any = import_module(f"{wrapper}.configuration_timm_wrapper")
    configuration.ImageNetInfo = timm.data.ImageNetInfo
    configuration.infer_imagenet_subset = timm.data.infer_imagenet_subset
    modeling: Any = import_module(f"{wrapper}.modeling_timm_wrapper")
    modeling.timm = timm


@contextmanager
def _empty_torchvision() -> Iterator[None]:
    """Give empty classes in place of whatever is imported from torchvision, and take its modules away afterwards."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for module in [key for key in sys.modules if key.partition(".")[0] == _ABSENT]:
            del sys.modules[module]


class _Finder(MetaPathFinder, Loader):
    """Finds torchvision and every module in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname.partition(".")[0] != _ABSENT:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        del module


class _EmptyModule(ModuleType):
    """A module with an empty class of any name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _EmptyClass(name, (), {"__module__": self.__name__})
        setattr(self, name, found)
        return found


class _EmptyClass(type):
    """A class with a word as the value of every attribute, as enumerations have them."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"
