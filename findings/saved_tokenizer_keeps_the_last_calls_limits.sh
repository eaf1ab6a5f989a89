#!/usr/bin/env bash
# transformers 5.23.0 with tokenizers 0.23.3: padding and truncation of the last call are saved with the tokenizer.
#
# Expected: a call's `truncation`, `max_length` and `padding` hold for that call; `save_pretrained` writes the tokenizer as it was made.
# Seen:     the call leaves them in the backend, and `save_pretrained` writes them to tokenizer.json. transformers sets its own for each call,
#           so it never notices. A program that reads the file with the tokenizers library, as runtimes on a device do, gets every
#           prompt cut to the length of that call, without a word.
# Output seen:
#   saved before a call: [2, 3, 4]; after it: [2, 3]; transformers reads the same file as [2, 3, 4]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet transformers==5.23.0 tokenizers==0.23.3 2> pip.txt
cat > probe.py <<'PY'
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

PROMPT = "a red seven"
words = {"[UNK]": 0, "[PAD]": 1, "a": 2, "red": 3, "seven": 4}
backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
backend.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]"
)
tokenizer.save_pretrained("before")
tokenizer(["a"], padding="max_length", truncation=True, max_length=2)  # a batch of training, say
tokenizer.save_pretrained("after")

before, after = (
    Tokenizer.from_file(f"{name}/tokenizer.json").encode(PROMPT).ids for name in ("before", "after")
)
again = PreTrainedTokenizerFast.from_pretrained("after")(PROMPT)["input_ids"]
print(f"saved before a call: {before}; after it: {after}; transformers reads the same file as {again}")
assert (before, after, again) == ([2, 3, 4], [2, 3], [2, 3, 4])
PY
env/bin/python probe.py 2> noise.txt || { cat noise.txt; exit 1; }
