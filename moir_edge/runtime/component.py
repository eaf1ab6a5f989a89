"""One graph in ONNX Runtime: arrays of the host in and out, or values that stay where the provider computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moir_edge.errors import BundleError, one_line
from moir_edge.mapped_pages import give_back_pages, mapped_ranges, written_ranges

__all__ = ["Component", "placed"]


def placed(array: npt.NDArray[Any], device: str) -> Any:
    """Return an ONNX Runtime value of an array; on the CPU it shares the memory of a contiguous one.

    Args:
        array: Of any shape.
        device: ONNX Runtime's name of the memory, ``"cpu"`` or ``"cuda"``.
    """
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device)


class Component:
    """Runs one graph.

    Args:
        session: An ONNX Runtime session.
        name: What messages call the graph.
        weights: A file that the session has mapped and only reads; None for one that it copied.
    """

    def __init__(self, session: Any, name: str, weights: Path | None = None) -> None:
        self.session = session
        self.name = name
        mapped = mapped_ranges([] if weights is None else [weights])
        written = set(written_ranges(mapped))
        self._mapped = [span for span in mapped if span not in written]

    def give_back_weights(self) -> None:
        """Let go of the pages of mapped weights until the next run; they come back from the system's copy of the file."""
        for start, end in self._mapped:
            give_back_pages(start, end)

    @property
    def provider(self) -> str:
        """The execution provider that ONNX Runtime gave to the session."""
        return str(self.session.get_providers()[0])

    @cached_property
    def _giving_back(self) -> Any:
        """Options of a run after which ONNX Runtime gives the memory of its activations back to the system.

        None on a GPU, and where it keeps none: in a session without an arena, and in a process of 32 bits.
        """
        import onnxruntime

        arena = self.session.get_session_options().enable_cpu_mem_arena and sys.maxsize > 1 << 32
        if self.provider != "CPUExecutionProvider" or not arena:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    @cached_property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs, in order."""
        return [output.name for output in self.session.get_outputs()]

    @cached_property
    def inputs(self) -> list[str]:
        """The names of the graph's inputs, in order."""
        return [one.name for one in self.session.get_inputs()]

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
            give_back: Give the memory of activations back to the system; for runs that are large and seldom.

        Raises:
            BundleError: ONNX Runtime cannot run the graph.
        """
        with self._named():
            found: list[npt.NDArray[Any]] = self.session.run(
                list(outputs), dict(feed), self._giving_back if give_back else None
            )
        return found

    def values(self, feed: Mapping[str, Any], outputs: Mapping[str, str]) -> list[Any]:
        """Run without copies of what lies on a device.

        Args:
            feed: Input name to an array of the host or an ONNX Runtime value.
            outputs: Output name to the memory that takes it, ``"cpu"`` or ``"cuda"``.

        Returns:
            ONNX Runtime values, in the order of `outputs`.

        Raises:
            BundleError: ONNX Runtime cannot run the graph.
        """
        with self._named():
            binding = self.session.io_binding()
            for name, value in feed.items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
                else:
                    binding.bind_ortvalue_input(name, value)
            for name, memory in outputs.items():
                binding.bind_output(name, memory)
            self.session.run_with_iobinding(binding)
            found: list[Any] = binding.get_outputs()
        return found

    def bound(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, give_back: bool = False
    ) -> Callable[[], None]:
        """Bind values once and return what runs the graph on them, as often as it is called.

        Args:
            inputs: Input name to an ONNX Runtime value, read at each run.
            outputs: Output name to the value that each run writes into.
            give_back: As in `arrays`.
        """
        options = self._giving_back if give_back else None
        binding = self.session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)

        def run() -> None:
            with self._named():
                self.session.run_with_iobinding(binding, options)

        return run

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn what ONNX Runtime raises into an error that names the graph."""
        try:
            yield
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise BundleError(f"ONNX Runtime cannot run {self.name}: {one_line(error)}") from error
