#!/usr/bin/env bash
# onnxruntime-genai 0.18.0: what the model builder does with the name that an option had in earlier versions.
#
# Expected: as the text of its own help says, the former names that begin with int4_ "are deprecated aliases that still work".
# Seen:     int4_block_size=128 is taken without a word and without effect: blocks have 32 rows, the default. block_size=128 works.
# Output seen:
#   help calls the former names aliases that still work: yes
#   int4_block_size=128: blocks of 32
#   block_size=128: blocks of 128
#   lines of output that name the option: 0
set -euo pipefail
export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 onnxruntime==1.31.1 onnxruntime-genai==0.18.0 \
    onnx==1.23.2 onnx-ir==1.1.0
cat > checkpoint.py <<'PY'
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {f"w{at}": at for at in range(256)}
core = Tokenizer(models.WordLevel(words, unk_token="w0"))
PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0", eos_token="w2").save_pretrained("checkpoint")
config = LlamaConfig(
    vocab_size=256, hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
    bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
LlamaForCausalLM(config).save_pretrained("checkpoint")
PY
cat > blocks.py <<'PY'
import sys

import onnx

nodes = onnx.load(f"{sys.argv[1]}/model.onnx", load_external_data=False).graph.node
print(*{one.i for node in nodes if node.op_type == "MatMulNBits" for one in node.attribute if one.name == "block_size"})
PY
env/bin/python checkpoint.py > checkpoint.log 2>&1 || { cat checkpoint.log; exit 1; }
builder="env/bin/python -m onnxruntime_genai.models.builder"
# Read in the file: --help itself ends in a ValueError.
grep -q "deprecated aliases that still work" env/lib/python3*/site-packages/onnxruntime_genai/models/builder.py
echo "help calls the former names aliases that still work: yes"
build() {  # folder, option
    $builder -i checkpoint -o "$1" -p int4 -e cpu -c cache --extra_options "$2" > "$1.log" 2>&1 || { cat "$1.log"; exit 1; }
    echo "$2: blocks of $(env/bin/python blocks.py "$1")"
}
build former int4_block_size=128
build current block_size=128
test "$(env/bin/python blocks.py former)" = 32
test "$(env/bin/python blocks.py current)" = 128
# The builder prints all options that it was given on one line.
named=$(tr '\r' '\n' < former.log | grep "int4_block_size" | grep -vc "^Extra options: {" || true)
echo "lines of output that name the option: $named"
test "$named" = 0
