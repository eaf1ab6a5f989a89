#!/usr/bin/env bash
# transformers 5.23.0: SmolVLMConfig and Idefics3Config give 128002 as pad_token_id where the checkpoint names none.
#
# Expected: None, or an id that the embedding table has: the smallest SmolVLM has 49,280 rows.
# Seen:     the id of Llama 3, which both classes inherit. config.pad_token_id hands it out, with a note that the property goes away
#           in 5.22, although this is 5.23. Padding with that id ends in an index error in the embedding.
# Output seen:
#   SmolVLMConfig: pad 128002, rows 49280
#   Idefics3Config: pad 128002, rows 49280
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet torch==2.13.0
env/bin/pip install --quiet transformers==5.23.0
cat > probe.py <<'PY'
import transformers

for name in ("SmolVLMConfig", "Idefics3Config"):
    config = getattr(transformers, name)(text_config={"model_type": "llama", "vocab_size": 49280})
    print(f"{name}: pad {config.pad_token_id}, rows {config.text_config.vocab_size}")
    assert config.pad_token_id == 128002 > config.text_config.vocab_size
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
