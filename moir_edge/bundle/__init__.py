"""The bundle: one folder with graphs, engines, tokenizer, processor config and `manifest.json`."""

from __future__ import annotations

from moir_edge.bundle.engines import check_engine, component_sha256, find_engine
from moir_edge.bundle.manifest import (
    COMPONENTS,
    SCHEMA_VERSION,
    ComponentEntry,
    EngineEntry,
    FileEntry,
    FusedEntry,
    ImageGrid,
    Manifest,
    ModelFacts,
    SourceEntry,
    TableEntry,
    TensorPlace,
    TensorSpec,
)
from moir_edge.bundle.reader import Bundle, open_bundle
from moir_edge.bundle.writer import check_bundle_output, seal, staged_bundle

__all__ = [
    "COMPONENTS",
    "SCHEMA_VERSION",
    "Bundle",
    "ComponentEntry",
    "EngineEntry",
    "FileEntry",
    "FusedEntry",
    "ImageGrid",
    "Manifest",
    "ModelFacts",
    "SourceEntry",
    "TableEntry",
    "TensorPlace",
    "TensorSpec",
    "check_bundle_output",
    "check_engine",
    "component_sha256",
    "find_engine",
    "open_bundle",
    "seal",
    "staged_bundle",
]
