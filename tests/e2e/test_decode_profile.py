"""The benchmark that profiles a decoded token, on the demo's own decoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.peers import decode_profile
from benchmarks.peers.decode_profile import RUN
from moir_edge.bundle import open_bundle


def test_the_bundles_decoder_is_profiled(demo_bundle: Path) -> None:
    options = argparse.Namespace(context=8, tokens=3)
    times = decode_profile._bundle(open_bundle(demo_bundle, verify=False), 1, options)()
    assert times["GroupQueryAttention"] > 0
    assert sum(ms for name, ms in times.items() if name != RUN) <= times[RUN]
