"""Every router kind goes the whole way: attached by the command line, exported, run without torch, drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.cli.main import main
from moir_edge.export import export_bundle
from moir_edge.runtime.routing_picture import draw_routing_map

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["channel", "gate"])
def test_kind_goes_from_checkpoint_to_routing_map(
    kind: str,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain, routed = make_checkpoint("smolvlm"), tmp_path / "routed"
    (plain / "chat_template.jinja").write_text(TEMPLATE)
    assert main(["retrofit", str(plain), "-o", str(routed), "--kind", kind, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["router"]["kind"] == kind
    # α is ½ per channel and direction; the gate has two layers per direction for pairs of 32-wide tokens.
    expected = {"channel": 2 * 32, "gate": 2 * ((64 + 1) * 2 + (64 + 1) * 32)}
    assert summary["router_parameters"] == expected[kind]

    bundle = export_bundle(routed, tmp_path / "bundle")
    manifest = open_bundle(bundle).manifest
    assert manifest.router == summary["router"]
    # The contract's tolerance is 1e-3; logits of a model this small agree far better.
    assert max(manifest.parity["max_abs_error"].values()) < 1e-4
    assert manifest.parity["greedy_agreement"] == 1.0
    figures = manifest.parity["router"]
    assert figures["routed_tokens"] > 0
    assert figures["gate_flips"] == 0
    # Shares in [0, 1] in float32 on two runtimes.
    assert figures["score_max_abs_error"] < 1e-5
    assert "index_agreement" not in figures

    model = moir_edge.load(bundle, threads=1)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    prompt = "What is left of the red digit?"
    generation = model.generate(prompt, [picture], max_new_tokens=2)
    assert generation.routing is not None
    off = model.generate(prompt, [picture], max_new_tokens=2, router=False)
    assert off.routing is None
    routing = model.routing_map(prompt, [picture])
    assert not routing.names_sources
    assert len(routing.routed) == len(routing.positions)
    assert all(token.sources == () and token.margin == 0 for token in routing.routed)
    assert json.dumps(routing.to_dict())
    assert draw_routing_map(routing, [picture]).mode == "RGB"
