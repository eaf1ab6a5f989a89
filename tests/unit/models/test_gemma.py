"""What Gemma 3, PaliGemma and Aya Vision need of a checkpoint, and the parts that one tiny model of each does not show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moir_edge.checkpoint import load_checkpoint, load_processor
from moir_edge.data.rows import Row
from moir_edge.errors import DataError, UnsupportedError
from moir_edge.export.attention import export_attention
from moir_edge.models import get_architecture
from moir_edge.runtime.families.gemma import _runs
from moir_edge.tuning.data import AnswerBatches
from tests.unit.families import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that saves a tiny checkpoint once; tests put back what they change."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = tiny.save_tiny(name, tmp_path_factory.mktemp(name) / name, router=False)
        return made[name]

    return of


def test_a_block_for_each_run_of_image_tokens_as_the_model_numbers_them() -> None:
    from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

    flags = np.random.default_rng(0).integers(0, 2, (5, 30)).astype(bool)
    theirs = get_block_sequence_ids_for_mask(torch.from_numpy(flags).long())
    np.testing.assert_array_equal(_runs(flags), theirs.numpy())


def test_paligemma_without_a_chat_template_gets_its_own(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folders("paligemma")
    stored = folder / "chat_template.jinja"
    kept = stored.read_text()
    stored.unlink()
    try:
        processor = load_checkpoint(folder).processor
    finally:
        stored.write_text(kept)
    parts = [{"type": "text", "text": "caption en"}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}])
    assert text == "<image>caption en"
    encoded = processor(images=Image.new("RGB", (9, 9)), text=text, return_tensors="pt")
    assert (
        processor.tokenizer.decode(encoded["input_ids"][0]) == f"{'<image>' * 16}<bos>caption en\n"
    )


def test_answers_of_paligemma_are_a_causal_suffix(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = folders("paligemma")
    processor = load_processor(folder, load_checkpoint(folder, exported=False).config)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    row = Row(id="1", task="vqa", images=(tmp_path / "a.png",), prompt="what?", answers=("red",))
    batch = AnswerBatches(processor, frozenset({2}))([row])
    np.testing.assert_array_equal(batch["token_type_ids"] == 1, batch["labels"] != -100)


@torch.no_grad()
def test_paligemma_of_the_first_generation() -> None:
    """Gemma has neither windows nor caps; the graphs' modules give the logits of the model."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    torch.manual_seed(0)
    tower = {**tiny.TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
    text = {**tiny.TEXT, "model_type": "gemma", "head_dim": 12, "vocab_size": 40}
    config = PaliGemmaConfig(
        vision_config=tower, text_config=text, image_token_id=3, projection_dim=32
    )
    model = PaliGemmaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter += 0.15 * torch.randn(parameter.shape)
    architecture = get_architecture("paligemma")
    assert architecture.config_problem(config) is None
    ids = torch.tensor([[3] * 9 + [1, 9, 8, 7]])
    pixels, mask = torch.randn(1, 3, 24, 24), torch.ones_like(ids)
    types = torch.zeros_like(ids)
    expected = model(ids, pixels, attention_mask=mask, token_type_ids=types).logits[:, -1]

    embeds = model.get_input_embeddings()(ids)
    embeds[:, :9] = architecture.vision_graph(model)(pixels)
    past = [torch.zeros(1, 2, 0, 12)] * 4
    graph, positions = architecture.decoder_graph(model), torch.arange(1, 14)[None]
    with export_attention(model):
        whole = graph(embeds, mask, positions, types, past)[0][:, 0]
        causal = graph(embeds, mask, positions, types - 1, past)[0][:, 0]
    # float32 sums in another order.
    torch.testing.assert_close(whole, expected, atol=2e-5, rtol=0)
    assert not torch.allclose(causal, expected, atol=1e-3)


def test_an_image_token_without_a_row_is_refused(folders: Callable[[str], Path]) -> None:
    path = folders("gemma3") / "config.json"
    kept = path.read_text()
    record: dict[str, Any] = json.loads(kept)
    record["image_token_index"] = 5000
    path.write_text(json.dumps(record))
    try:
        with pytest.raises(UnsupportedError, match="image_token_index 5000 has no row in the emb"):
            load_checkpoint(path.parent)
    finally:
        path.write_text(kept)


def test_other_words_around_tiles_are_refused(folders: Callable[[str], Path]) -> None:
    path = folders("aya_vision") / "processor_config.json"
    kept = path.read_text()
    path.write_text(json.dumps({**json.loads(kept), "tile_token": "PIECE"}))
    try:
        with pytest.raises(DataError, match="has tile_token 'PIECE', export supports 'TILE'"):
            load_checkpoint(path.parent)
    finally:
        path.write_text(kept)


def test_tokens_of_the_published_models() -> None:
    from transformers import AyaVisionConfig, Gemma3Config, PaliGemmaConfig

    gemma = Gemma3Config(vision_config={"image_size": 896, "patch_size": 14})
    assert get_architecture("gemma3").image_grid(gemma).tokens == 256
    tower = {"image_size": 448, "patch_size": 14, "model_type": "siglip_vision_model"}
    assert (
        get_architecture("paligemma").image_grid(PaliGemmaConfig(vision_config=tower)).tokens
        == 1024
    )
    aya = AyaVisionConfig(vision_config={**tower, "image_size": 364})
    assert get_architecture("aya_vision").image_grid(aya).tokens == 169
