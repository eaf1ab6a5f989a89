"""The export formats `moir_tensorrt` and `moir_tensorrt_rtx` of `transformers.exporters`: config and exporter of each.

The program of such an export is a bundle. Its graphs share weights and are sealed by one manifest, so that it is one
component, `model`, whichever entry point made it.

The names `tensorrt` and `tensorrt_rtx` lead to the same formats as long as no other package has registered them. A saved
export carries the longer name, so it loads again where the short one belongs to another package.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils import _pytree
from transformers.exporters.auto import EXPORT_BACKENDS, register_backend
from transformers.exporters.base import ExportedModel, HfExporter
from transformers.exporters.configs import ExportConfigMixin
from transformers.exporters.metadata import (
    ExportMetadata,
    build_export_metadata,
    record_output_structure,
)

from moir_edge.arguments import wrong_type
from moir_edge.bundle import open_bundle, staged_bundle
from moir_edge.errors import DataError, UnsupportedError, closest
from moir_edge.export.hf_runner import BundleProgram, BundleRunner
from moir_edge.precisions import FP16
from moir_edge.targets import TARGETS, get_target
from moir_edge.temporary import TemporaryFolder

if TYPE_CHECKING:
    from moir_edge.calibration import CalibrationSettings

__all__ = [
    "BundleProgram",
    "TensorRTConfig",
    "TensorRTExporter",
    "TensorRTRTXConfig",
    "TensorRTRTXExporter",
    "register_formats",
]

_log = logging.getLogger(__name__)

# What a processor consists of; the weights and their config come from the model in memory.


@dataclass
class _BundleConfig(ExportConfigMixin):
    """Settings of one export, as `moir-edge export` takes them.

    Attributes:
        builder: Of the engines, as a target names it: ``"tensorrt"`` or ``"tensorrt_rtx"``.
        export_format: `builder` with the prefix ``moir_``, whichever name the caller gave.
        target: Device profile whose engines the builder makes.
        precision: Of the bundle.
        component_precision: Overrides by component, such as ``{"vision": "fp16"}``.
        calibration: Fields of `moir_edge.calibration.CalibrationSettings` by name, for precisions that need data.
        processor: Folder or hub id with tokenizer and image processor; None takes the one the model was loaded from.

    Raises:
        UnsupportedError: The target is missing, unknown, or another format's.
    """

    builder: ClassVar[str]

    export_format: str = ""
    target: str | None = None
    precision: str = FP16
    component_precision: dict[str, str] | None = None
    calibration: dict[str, Any] | None = None
    processor: str | None = None

    def __post_init__(self) -> None:
        self.export_format = format_name(self.builder)
        own = [name for name, one in TARGETS.items() if one.builder == self.builder]
        if self.target is None:
            raise UnsupportedError(
                f"the format {self.export_format} needs a target; one of {', '.join(own)}"
            )
        if get_target(self.target).builder != self.builder:
            raise UnsupportedError(
                f"the format {self.export_format} has no target {self.target!r}: {closest(self.target, own)}"
            )


@dataclass
class TensorRTConfig(_BundleConfig):
    """Settings of an export for a Jetson, whose engines TensorRT builds on the device; see `_BundleConfig`."""

    builder: ClassVar[str] = "tensorrt"


@dataclass
class TensorRTRTXConfig(_BundleConfig):
    """Settings of an export for an RTX GPU, whose engines are compiled at once; see `_BundleConfig`."""

    builder: ClassVar[str] = "tensorrt_rtx"


def format_name(builder: str) -> str:
    """Return the name of the format whose engines a builder makes; it is this project's alone."""
    return f"moir_{builder}"


class _BundleExporter(HfExporter):
    """Exports a vision-language model, with or without a router, to a bundle with engines."""

    config_class: type[_BundleConfig]
    program_suffix = ".bundle"

    def export_program(
        self,
        model: Any,
        sample_inputs: MutableMapping[str, Any],
        config: ExportConfigMixin,
    ) -> tuple[BundleProgram, ExportMetadata]:
        """Write the bundle to a temporary folder, which lives as long as the program.

        Args:
            model: The model in memory; its weights are saved and read again in float32.
            sample_inputs: What ``model(**sample_inputs)`` takes. The graphs are traced from samples of their own; these
                tell which inputs the exported model takes.
            config: A config of this format.

        Raises:
            DataError: There is no processor, or no `input_ids` in the inputs.
            MoirEdgeError: As `moir_edge.export.export_bundle`.
        """
        if not isinstance(config, _BundleConfig):
            raise wrong_type("config", config, f"a {self.config_class.__name__}")
        metadata = _describe(model, sample_inputs, self.required_packages)
        folder = TemporaryFolder()
        try:
            return BundleProgram(_export(model, config, folder.path), folder), metadata
        except BaseException:
            folder.remove()
            raise

    def export_for_generation(
        self,
        model: Any,
        sample_inputs: MutableMapping[str, Any],
        config: Any,
        **options: Any,
    ) -> ExportedModel:
        """Do the same as `export`: a bundle holds every stage of generation.

        Raises:
            UnsupportedError: Options of the exporters that trace each stage by itself, which have no meaning here.
        """
        given = [name for name, value in options.items() if value]
        if given:
            raise UnsupportedError(
                f"{', '.join(given)} given; a bundle takes the model's own generation config, leave it out"
            )
        return self.export(model, sample_inputs, config)

    @classmethod
    def save_program(cls, program: BundleProgram, path: str | Path) -> None:
        """Copy the bundle to `path`, a new folder, where every command of moir-edge takes it.

        Raises:
            BundleError: `path` exists.
            EnvironmentProblem: The disk is full or not writable.
        """
        with staged_bundle(path) as folder:
            shutil.copytree(program.path, folder, dirs_exist_ok=True)

    @classmethod
    def load_program(cls, path: str | Path) -> BundleProgram:
        """Open a saved bundle; every file is verified.

        Raises:
            BundleError: The folder is not a bundle, or a file is missing or has changed.
        """
        return BundleProgram(open_bundle(path).path)

    @classmethod
    def program_files(cls, filename: str) -> list[str]:
        """Return the one file by which a bundle is known; the manifest names the others."""
        return [f"{filename}/manifest.json"]


class TensorRTExporter(_BundleExporter):
    """For Jetson targets: the bundle is made here, its engines by `moir-edge build` on the device."""

    export_format = format_name(TensorRTConfig.builder)
    config_class = TensorRTConfig
    required_packages = ["torch", "onnx", "onnxscript", "onnx_ir"]  # noqa: RUF012  (as the base declares it)

    def export_program(
        self, model: Any, sample_inputs: MutableMapping[str, Any], config: ExportConfigMixin
    ) -> tuple[BundleProgram, ExportMetadata]:
        """Write the bundle, and say where its engines come from."""
        done = super().export_program(model, sample_inputs, config)
        _log.warning(
            f"engines for {done[0].manifest.target} are built by TensorRT on the device itself: "
            "save the export, copy the bundle there and run `moir-edge build`"
        )
        return done


class TensorRTRTXExporter(_BundleExporter):
    """For RTX targets: engines are compiled ahead of time, on any machine."""

    export_format = format_name(TensorRTRTXConfig.builder)
    config_class = TensorRTRTXConfig
    required_packages = [*TensorRTExporter.required_packages, "tensorrt_rtx"]  # noqa: RUF012


def register_formats() -> None:
    """Add both formats to transformers' table; a short name that another package took stays with that package."""
    for exporter in (TensorRTExporter, TensorRTRTXExporter):
        if exporter.export_format not in EXPORT_BACKENDS:
            register_backend(exporter, BundleRunner)
        EXPORT_BACKENDS.setdefault(
            exporter.config_class.builder, EXPORT_BACKENDS[exporter.export_format]
        )


def _describe(model: Any, sample_inputs: Mapping[str, Any], packages: list[str]) -> ExportMetadata:
    """Run the model once and record which inputs it took and how its output is built around the logits."""
    if "input_ids" not in sample_inputs:
        raise DataError(
            f"sample inputs {sorted(sample_inputs)} hold no input_ids; pass what the processor returned"
        )
    with torch.no_grad():
        outputs = model(**{**sample_inputs, "use_cache": False, "logits_to_keep": 1})
    _, spec = _pytree.tree_flatten(((), dict(sample_inputs)))
    call = SimpleNamespace(call_spec=SimpleNamespace(in_spec=spec, out_spec=spec))
    metadata = build_export_metadata(model, sample_inputs, call, packages)
    record_output_structure(metadata, type(outputs)(logits=outputs.logits))
    metadata.export_dtype = "float32"  # what goes in and out of a bundle, whatever is inside
    metadata.export_device = "cpu"
    return metadata


def _export(model: Any, config: _BundleConfig, folder: Path) -> Path:
    """Write the bundle into `folder` and return its path."""
    from moir_edge.export.bundle import export_bundle

    calibration = _calibration(config.calibration)
    checkpoint = _save_checkpoint(model, config.processor, folder)
    bundle = export_bundle(
        checkpoint,
        folder / "model.bundle",
        target=config.target or "",
        precision=config.precision,
        component_precision=config.component_precision,
        calibration=calibration,
    )
    shutil.rmtree(checkpoint)
    return bundle


def _calibration(fields: Mapping[str, Any] | None) -> CalibrationSettings | None:
    """Return the settings that a config names; paths stand in it as text, as JSON has them."""
    from moir_edge.calibration.settings import CalibrationSettings

    if fields is None:
        return None
    paths = {name: Path(fields[name]) for name in ("data", "cache", "evaluation") if name in fields}
    return CalibrationSettings(**{**fields, **paths})


def _save_checkpoint(model: Any, processor: str | None, folder: Path) -> Path:
    """Save the model as it is in memory, with the processor's files beside it, under its own name."""
    from moir_edge.checkpoint import write_checkpoint
    from moir_edge.weights import resolve_checkpoint

    origin = processor or getattr(model, "name_or_path", "")
    if not origin:
        raise DataError(
            "the model does not say where it was loaded from, so its processor is unknown; "
            "give the config processor=FOLDER or a hub id"
        )
    source = resolve_checkpoint(origin)
    checkpoint = folder / source.resolve().name
    checkpoint.mkdir()
    write_checkpoint(model, source, checkpoint)
    return checkpoint
