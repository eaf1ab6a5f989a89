"""Make the formats `moir_tensorrt` and `moir_tensorrt_rtx` known to `transformers.exporters`, without importing it.

That import costs seconds and pulls torch, which a machine that only compiles engines need not have. So the formats are
registered at once where `transformers.exporters` is there already, and else by an import hook in the moment it comes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["REGISTRY", "register_when_imported"]

REGISTRY = "transformers.exporters.auto"
"""The module that holds transformers' table of export formats."""


def register_when_imported() -> None:
    """Register both formats now, or as soon as the registry is imported."""
    if REGISTRY in sys.modules:
        _register()
    elif not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())


def _register() -> None:
    from moir_edge.export.hf_exporters import register_formats

    register_formats()


class _RegistryFinder(MetaPathFinder):
    """Finds the registry as the other finders would, and follows its execution with the registration."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)  # its work is done, and the search below must not come back here
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


class _RegisteringLoader(Loader):
    """A loader that registers the formats once the module has run."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # what reads the module's source through its loader gets the real one
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _register()
