#!/usr/bin/env bash
# lmms-eval 0.7.3: `--model_args timeout=…` of the model `openai` is stored and read by nothing.
#
# Expected: `timeout` (default 10) limits a request, so that a slow device needs a larger one.
# Seen:     neither model class that is registered as `openai` reads it again; the client is made without it, so that the limit is that of the
#           package `openai`, 600 s. A request that fails at every attempt is scored as an answer whose text begins with
#           [LMMS_EVAL_REQUEST_FAILED; the run ends with exit code 0.
# Output seen:
#   models/simple/openai.py: stored 1, read 0
#   OpenAI(api_key=api_key, base_url=base_url, http_client=http_client)
#   models/chat/openai.py: stored 0, read 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip download --quiet --no-deps lmms-eval==0.7.3
env/bin/python -m zipfile -e lmms_eval-0.7.3-*.whl .
cat > probe.py <<'PY'
import ast
import pathlib

for name in ("models/simple/openai.py", "models/chat/openai.py"):
    tree = ast.parse(pathlib.Path("lmms_eval", name).read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "timeout"]
    stored = sum(isinstance(node.ctx, ast.Store) for node in found)
    print(f"{name}: stored {stored}, read {len(found) - stored}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "OpenAI":
            print(ast.unparse(node))
PY
env/bin/python probe.py
