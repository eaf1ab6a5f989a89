"""Compile a component's graph by OpenVINO, or take what an earlier process compiled, and run it.

Quantized weights are unpacked and laid out anew while a graph is compiled, which takes seconds. What came of that is kept on disk,
under a name made of everything that it depends on: graph, weights, OpenVINO, CPU, and settings. Float weights gain nothing
by it and are compiled anew. A file that is missing, damaged or cannot be written changes nothing but the start.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moir_edge.bundle.reader import file_sha256
from moir_edge.errors import BundleError, EnvironmentProblem, one_line
from moir_edge.limits import COMPILED_GRAPH_BYTES
from moir_edge.precisions import PRECISIONS
from moir_edge.runtime.component import Component
from moir_edge.runtime.openvino.library import DEVICE, cpu_text
from moir_edge.runtime.openvino.stateful import make_stateful
from moir_edge.runtime.providers import check_signature
from moir_edge.runtime.tensorrt.kernel_cache import cache_folder
from moir_edge.version import __version__
from moir_edge.whole_files import write_whole

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle

__all__ = ["Compiled", "CompiledComponent", "compile_component", "sealed"]

_PRIVATE = 0o700  # what is compiled here is run, so nobody else may write it
_FORM = "1"  # of the rewritten graphs; goes up with every change of `make_stateful`
_DIGEST = hashlib.sha256().digest_size
_LENGTH = 4  # bytes of the length of the note


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled graph.

    Attributes:
        model: An `openvino.CompiledModel`.
        note: What its form costs, for `backend`; empty where it costs nothing.
        memory: The mapped file that its weights lie in, which OpenVINO reads without holding it; None where it has its own.
    """

    model: Any
    note: str = ""
    memory: Any = None


def compile_component(
    openvino: Any, bundle: Bundle, name: str, settings: Mapping[str, Any]
) -> Compiled:
    """Compile a component, or import what was compiled before.

    Args:
        openvino: The module.
        bundle: An opened bundle.
        name: ``vision`` or ``decoder``.
        settings: From `settings_of`.

    Raises:
        BundleError: The component is missing, or OpenVINO cannot read or compile its graph.
    """
    core = openvino.Core()
    path = bundle.graph(name)
    kept = _kept_file(openvino, core, bundle, name, settings)
    found = None if kept is None else _imported(openvino, core, kept, settings)
    if found is not None:
        return found
    try:
        compiled = _compiled(core, bundle, name, path, settings)
    except (RuntimeError, ValueError) as error:  # what OpenVINO's binding raises
        raise BundleError(f"OpenVINO cannot load {path}: {one_line(error)}") from error
    if kept is not None:
        _keep(kept, compiled)
    return compiled


def _compiled(
    core: Any, bundle: Bundle, name: str, path: Path, settings: Mapping[str, Any]
) -> Compiled:
    model, note = core.read_model(str(path)), ""
    entry = bundle.manifest.components[name]
    check_signature(entry, path, _signature(model.inputs), _signature(model.outputs))
    if name == "decoder":
        rewritten = make_stateful(model, bundle.manifest.model)
        model, note = rewritten.model, rewritten.note()
    return Compiled(model=core.compile_model(model, DEVICE, dict(settings)), note=note)


def _signature(values: Sequence[Any]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Return type and shape of inputs or outputs by name; None is a size that may vary."""
    return {
        value.get_any_name(): (
            value.element_type.to_dtype().name,
            tuple(None if one.is_dynamic else one.get_length() for one in value.partial_shape),
        )
        for value in values
    }


def _kept_file(
    openvino: Any, core: Any, bundle: Bundle, name: str, settings: Mapping[str, Any]
) -> Path | None:
    """Return where a component is kept once it is compiled; None where it is not."""
    entry = bundle.manifest.components[name]
    if not PRECISIONS[entry.precision].quantized:
        return None
    try:
        folder = cache_folder("openvino")
    except EnvironmentProblem:
        return None
    # The files as they are now: the manifest may not have been checked against them.
    files = [file_sha256(bundle.file(one)) for one in (entry.graph, *entry.data)]
    set_to = [f"{key}={value}" for key, value in sorted(settings.items())]
    parts = [__version__, _FORM, name, openvino.__version__, cpu_text(core), *set_to, *files]
    return folder / f"{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:32]}.blob"


def _imported(openvino: Any, core: Any, path: Path, settings: Mapping[str, Any]) -> Compiled | None:
    """Return what lies in a file; None where it is missing, damaged, or OpenVINO does not take it."""
    try:
        if not path.is_file() or not _DIGEST < os.stat(path).st_size <= COMPILED_GRAPH_BYTES:
            return None
        content = np.memmap(path, dtype=np.uint8, mode="c")
    except OSError:
        return None
    # OpenVINO parses no other bytes than those it wrote.
    if hashlib.sha256(content[:-_DIGEST].data).digest() != content[-_DIGEST:].tobytes():
        return None
    end = len(content) - _DIGEST - _LENGTH
    length = int.from_bytes(content[end : end + _LENGTH].tobytes(), "little")
    blob, note = content[: end - length], content[end - length : end].tobytes().decode()
    try:
        tensor = openvino.Tensor(blob, shared_memory=True)
        model = core.import_model(tensor, DEVICE, dict(settings))
    except RuntimeError:
        return None
    return Compiled(model=model, note=note, memory=content)


def _keep(path: Path, compiled: Compiled) -> None:
    """Write what was compiled; the file appears whole or not at all."""
    # A full disk, a read-only home or a model that cannot be written costs only the saving.
    with suppress(EnvironmentProblem, OSError, RuntimeError):
        content = sealed(compiled.model.export_model().getvalue(), compiled.note)
        if len(content) <= COMPILED_GRAPH_BYTES:
            path.parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            write_whole(path, content)


def sealed(blob: bytes, note: str) -> bytes:
    """Return what a file holds: the graph as OpenVINO wrote it, the note and its length, and the hash of them all."""
    text = note.encode()
    content = b"".join([blob, text, len(text).to_bytes(_LENGTH, "little")])
    return content + hashlib.sha256(content).digest()


class CompiledComponent(Component):
    """A graph that OpenVINO runs on arrays of the host.

    Args:
        compiled: The graph.
        name: What messages call it.
    """

    def __init__(self, compiled: Compiled, name: str) -> None:
        super().__init__(compiled.model.create_infer_request(), name)
        self.compiled = compiled
        self._outputs = [output.get_any_name() for output in compiled.model.outputs]

    def new_request(self) -> Any:
        """Return a request with a state of its own; it shares weights and working memory with the others."""
        return self.compiled.model.create_infer_request()

    @property
    def provider(self) -> str:
        """The library that runs the graph."""
        return f"OpenVINO {DEVICE}"

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs, in order."""
        return self._outputs

    def arrays(
        self,
        feed: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str],
        *,
        give_back: bool = False,
    ) -> list[npt.NDArray[Any]]:
        """Run on arrays and return arrays, one for each name of `outputs`.

        Args:
            feed: Arrays by input name.
            outputs: Names.
            give_back: Not used: OpenVINO keeps its memory for the next run.

        Raises:
            BundleError: OpenVINO cannot run the graph.
        """
        try:
            found = self.session.infer(dict(feed), share_inputs=True)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"OpenVINO cannot run {self.name}: {one_line(error)}") from error
        return [found[name] for name in outputs]
