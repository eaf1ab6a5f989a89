"""Tiny random checkpoints of every exported class, saved as folders."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from moir_edge.bundle import open_bundle, seal

SPECIALS = [
    "<pad>",
    "<bos>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
]
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def byte_tokens(specials: list[str]) -> Any:
    """Return a byte-level tokenizer of `tokenizers` without merges: specials, then the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(specials)
    return core


def build_tokenizer() -> Any:
    """Return `byte_tokens` as transformers has tokenizers."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_tokens(SPECIALS),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end_of_utterance>",
        additional_special_tokens=SPECIALS[3:],
    )


def build_smolvlm(vocabulary: int, *, tied: bool = True, model_type: str = "smolvlm") -> Any:
    """Return a SmolVLM of the second generation, or of the first (`idefics3`)."""
    import transformers

    prefix = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[model_type]
    config = getattr(transformers, f"{prefix}Config")(
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={**TEXT, "vocab_size": vocabulary, "tie_word_embeddings": tied},
        image_token_id=3,
        scale_factor=2,
        tie_word_embeddings=tied,
        pad_token_id=0,
    )
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(config)


def build_llava(vocabulary: int) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 24,
            "patch_size": 8,
            "projection_dim": 16,
        },
        text_config={**TEXT, "vocab_size": vocabulary},
        image_token_id=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)


def _processor(model_type: str, tokenizer: Any) -> Any:
    if model_type == "llava":
        from transformers import LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        size = {"height": 24, "width": 24}
        images = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=size)
        return LlavaProcessor(
            images,
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
    from transformers import Idefics3Processor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    size = {"longest_edge": 32}
    images = SmolVLMImageProcessorPil(do_image_splitting=False, size=size, max_image_size=size)
    return Idefics3Processor(images, tokenizer, image_seq_len=4)


def _randomize(model: Any) -> None:
    """Move every parameter off its initial ones and zeros, so that none is mistaken for another."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def save_checkpoint(
    folder: Path, model_type: str, *, router: bool = False, kind: str = "token", tied: bool = True
) -> Path:
    """Save a tiny checkpoint of a `model_type` in a folder, and return it."""
    import torch

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = (
        build_llava(len(tokenizer))
        if model_type == "llava"
        else build_smolvlm(len(tokenizer), tied=tied, model_type=model_type)
    )
    if router:
        from moir_edge.router import RouterConfig, retrofit

        sizes = {"rank": 4, "top_k": 2} if kind == "token" else {}
        config = RouterConfig.from_record({"kind": kind, **sizes})
        retrofit(model, config, special_token_ids=tokenizer.all_special_ids)
    _randomize(model)
    model.save_pretrained(folder)
    _processor(model_type, tokenizer).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


def require_openvino() -> None:
    """Skip a test, or the module that calls it, where OpenVINO is not installed.

    `pytest.importorskip` would import it as it is, and the import reports its use.
    """
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed (extra `openvino`)", allow_module_level=True)


@pytest.fixture(scope="session")
def put_file() -> Callable[..., None]:
    """Return a function that writes a file into a bundle and into its manifest, as export would have."""

    def put(bundle: Path, name: str, text: str) -> None:
        (bundle / name).write_text(text, encoding="utf-8")
        seal(bundle, open_bundle(bundle, verify=False).manifest)

    return put


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a tiny checkpoint of a `model_type` and returns its folder."""

    def make(
        model_type: str, *, router: bool = False, kind: str = "token", tied: bool = True
    ) -> Path:
        folder = tmp_path_factory.mktemp(model_type)
        return save_checkpoint(folder, model_type, router=router, kind=kind, tied=tied)

    return make


@pytest.fixture(scope="session")
def traced_models(make_checkpoint: Callable[..., Path]) -> Callable[[str], Any]:
    """Return a function that gives the traced model of a `model_type`, traced once per session.

    The LLaVA has a router, the SmolVLM has none.
    """
    from moir_edge.checkpoint import load_checkpoint
    from moir_edge.export.components import trace_components

    done: dict[str, Any] = {}

    def traced(model_type: str) -> Any:
        if model_type not in done:
            folder = make_checkpoint(model_type, router=model_type == "llava")
            checkpoint = load_checkpoint(folder)
            done[model_type] = trace_components(checkpoint)
        return done[model_type]

    return traced
