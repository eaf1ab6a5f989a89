#!/usr/bin/env bash
# openvino-genai 2026.4.1.0: a GGUF file without general.file_type, a key that the format's description calls optional.
#
# Expected: the file is read, as the types of its tensors say all that the key could; or an error names the key.
# Seen:     IndexError: unordered_map::at. The same file with the key answers.
# Output seen:
#   with general.file_type: 4 tokens
#   without general.file_type: IndexError unordered_map::at
set -euo pipefail
export OPENVINO_TELEMETRY_DISABLED=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet openvino==2026.4.1 openvino-tokenizers==2026.4.1.0 openvino-genai==2026.4.1.0 gguf==0.19.0 numpy==2.4.6
cat > probe.py <<'PY'
import gguf
import numpy as np
import openvino
import openvino_genai

HIDDEN, HEADS, WORDS = 64, 2, 260
NAMES = ["<unk>", "<s>", "</s>", "<pad>", *(f"w{at}" for at in range(WORDS - 4))]
MATRICES = ["token_embd", *(f"blk.0.{one}" for one in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"))]


def write(path, file_type):
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(WORDS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    if file_type:
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(NAMES)
    writer.add_token_types([3] * 4 + [1] * (WORDS - 4))
    writer.add_token_merges(["w 0", "w 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kind = gguf.GGMLQuantizationType.Q4_0
    for name in MATRICES:
        rows = WORDS if name == "token_embd" else HIDDEN
        weights = rng.standard_normal((rows, HIDDEN), np.float32) / 8
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


write("with.gguf", True)
write("without.gguf", False)
pipeline = openvino_genai.LLMPipeline("with.gguf", "CPU")
prompt = openvino.Tensor(np.arange(8, 16)[None])
answer = pipeline.generate(prompt, max_new_tokens=4, min_new_tokens=4, ignore_eos=True)
print(f"with general.file_type: {len(answer.tokens[0])} tokens")
assert len(answer.tokens[0]) == 4
try:
    openvino_genai.LLMPipeline("without.gguf", "CPU")
except Exception as error:
    print(f"without general.file_type: {type(error).__name__} {error}")
    assert "file_type" not in str(error)
else:
    raise SystemExit("the file without the key is read")
PY
env/bin/python probe.py 2> log.txt || { cat log.txt; exit 1; }
