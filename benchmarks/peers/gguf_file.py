"""The text decoder of SmolVLM-256M as a GGUF file, the format of llama.cpp, which OpenVINO GenAI reads too.

Needs `pip install gguf`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["gguf_model"]


def gguf_model(source: Path, work: Path, precision: str) -> Path:
    """Return a Llama checkpoint as a GGUF file; made where it is missing.

    Args:
        source: Folder of the checkpoint, in one `model.safetensors`.
        work: Folder that keeps the file.
        precision: ``fp32``, or ``int4``: blocks of 32 with one float16 scale (`Q4_0`), the token table too.
    """
    path = work / f"text-decoder-{precision}.gguf"
    if not path.is_file():
        part = path.with_suffix(".part")
        _write(source, part, precision)
        part.replace(path)
    return path


def _write(source: Path, path: Path, precision: str) -> None:
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    quantized = precision == "int4"
    kind = gguf.GGMLQuantizationType.Q4_0 if quantized else gguf.GGMLQuantizationType.F32
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    # OpenVINO GenAI (2026.4) looks it up, though the format calls it optional.
    writer.add_file_type(
        gguf.LlamaFileType.MOSTLY_Q4_0 if quantized else gguf.LlamaFileType.ALL_F32
    )
    _add_words(writer, source)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, value in load_file(source / "model.safetensors").items():
        weights = value.astype(np.float32)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weights = _interleaved(weights, heads if "q_proj" in name else shared)
        stored = kind if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(target, gguf.quants.quantize(weights, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_words(writer: Any, source: Path) -> None:
    """Add the vocabulary, which OpenVINO GenAI makes a tokenizer of; no text is read here, so the only merge is any."""
    import gguf

    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    special = {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    ids = {**tokenizer["model"]["vocab"], **special}
    words = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    )
    writer.add_token_merges([" ".join(words[-2:])])
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _interleaved(weights: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return rows in llama.cpp's order: its rotation turns neighbours, where Llama's turns the halves of a head."""
    halves = weights.reshape(heads, 2, -1, weights.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weights.shape)
