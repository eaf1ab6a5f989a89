"""Export every component of a checkpoint with transformers' own exporter, in a process that `export_time` measures."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["export_all"]


def export_all(checkpoint: Path) -> list[str]:
    """Export the components that `decompose_multimodal` finds, and return their names; nothing is written.

    Args:
        checkpoint: A folder.
    """
    import torch
    from PIL import Image
    from transformers.exporters.utils import decompose_multimodal

    from moir_edge.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    with loaded.without_router():
        inputs = loaded.processor(
            images=[Image.new("RGB", (512, 512))],
            text="<image> Tell me",
            return_tensors="pt",
        )
        parts = decompose_multimodal(loaded.model, dict(inputs))
        exporters: Any = import_module("transformers.exporters.exporter_onnx")
        exporter, config = exporters.OnnxExporter(), exporters.OnnxConfig(dynamic=True)
        kept = []
        with torch.no_grad():
            for module, given in parts.values():
                kept.append(exporter.export(module, given, config=config))
    return list(parts)


if __name__ == "__main__":
    export_all(Path(sys.argv[1]))
