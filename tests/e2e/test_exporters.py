"""The documented way through transformers' exporters, on the demo checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import moir_edge.export  # noqa: F401  (registers the formats)
from moir_edge.cli.main import main


def test_auto_exporter_makes_a_bundle_with_engines(
    demo_checkpoint: Path, demo_image: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed (extra `rtx`)")
    from PIL import Image
    from transformers import AutoProcessor
    from transformers.exporters import AutoExportConfig, AutoHfExporter

    from moir_edge.router import load_retrofitted

    model = load_retrofitted(demo_checkpoint, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(demo_checkpoint)
    turn = [{"type": "image"}, {"type": "text", "text": "how many digits are there ?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": turn}], add_generation_prompt=True
    )
    inputs = dict(processor(text=text, images=[Image.open(demo_image)], return_tensors="pt"))

    config = AutoExportConfig.from_dict(
        {"export_format": "moir_tensorrt_rtx", "target": "rtx-40", "precision": "fp16"}
    )
    exported = AutoHfExporter.from_config(config).export(model, inputs, config)
    engines = exported.program.manifest.engines
    assert {one.component for one in engines} == {"vision", "embedding", "router", "decoder"}
    assert {one.target for one in engines} == {"rtx-40"}

    exported.to("cpu")  # the graphs: the engines need the GPU
    with torch.no_grad():
        expected = model(**inputs, logits_to_keep=1).logits
    got = exported(**inputs).logits
    # half precision has 11 bits: the largest logits, around 20, are known to 0.01, and errors add up over four layers
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1)
    assert got.argmax() == expected.argmax()

    exported.save_pretrained(tmp_path / "saved")
    assert main(["inspect", str(tmp_path / "saved" / "model.bundle")]) == 0
