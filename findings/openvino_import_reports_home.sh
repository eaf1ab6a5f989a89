#!/usr/bin/env bash
# openvino 2026.4.1 with openvino-telemetry 2025.2.0 (which it requires): `import openvino` alone reports the use and leaves files in the home.
#
# Expected: importing a library touches neither the network nor the home; a report is sent after a question, as openvino's tools ask it.
# Seen:     openvino/tools/ovc/__init__.py sends an event "import" to Google Analytics with enable_opt_in_dialog=False: no question, and
#           consent is assumed where ~/intel holds no file that declines. Without a network the import is silent and the files stay.
#           A module of that name that cannot be imported makes openvino take its own stub; so does CI=true in the environment.
# Output seen:
#   plain                                 events sent: 1, files: intel/openvino_ga_cid intel/stats
#   sys.modules[openvino_telemetry]=None  events sent: 0, files:
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0
cat > plain.py <<'PY'
from openvino_telemetry.utils import sender

sent = []
sender.TelemetrySender.send = lambda self, backend, message: sent.append(message)  # in place of the network
import openvino

print(f"events sent: {len(sent)}", end=", ")
PY
cat > hidden.py <<'PY'
import sys

sys.modules["openvino_telemetry"] = None
import openvino

loaded = [name for name in sys.modules if name.startswith("openvino_telemetry.")]
print(f"events sent: {len(loaded)}", end=", ")
PY
for name in plain hidden; do
    mkdir "home-$name"
    said=$(env -u CI HOME="$work/home-$name" env/bin/python "$name.py")
    files=$(cd "home-$name" && find . -type f | sort | sed 's|^\./||' | tr '\n' ' ')
    label=plain
    [ "$name" = plain ] || label='sys.modules[openvino_telemetry]=None'
    printf '%-37s %sfiles: %s\n' "$label" "$said" "$files"
done
[ -e home-plain/intel/openvino_ga_cid ]
[ ! -e home-hidden/intel ]
