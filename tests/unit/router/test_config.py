from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from moir_edge.errors import DataError
from moir_edge.router.config import RouterConfig


def test_record_round_trip_keeps_hash() -> None:
    config = RouterConfig(ratio=None, threshold=0.4, top_k=2, merge="concat", direction="auto")
    again = RouterConfig.from_record(config.to_record())
    assert again == config
    assert again.hash() == config.hash()


def test_hash_is_the_sha256_of_canonical_json() -> None:
    # Computed once with sha256sum on the canonical text; a change of the on-disk format must be noticed.
    text = (
        '{"density":"confidence","direction":"both","kind":"token","merge":"add","rank":32,"ratio":0.5,'
        '"temperature":0.1,"threshold":null,"top_k":4,"version":1}'
    )
    import hashlib

    assert RouterConfig().hash() == hashlib.sha256(text.encode()).hexdigest()
    assert RouterConfig(top_k=5).hash() != RouterConfig().hash()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"top_q": 3}, "router config: top_q: Extra inputs"),
        ({"version": 2}, "router config: version: Input should be 1"),
        ({"kind": "channel"}, "router config: kind: Input should be 'token'"),
        ({"ratio": 1.5}, "router config: ratio: Input should be less than or equal to 1"),
        ({"ratio": None}, "neither ratio nor threshold"),
    ],
)
def test_bad_record_names_the_key(record: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        RouterConfig.from_record(record)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RouterConfig().top_k = 2  # type: ignore[misc]


def test_config_and_positions_import_no_torch() -> None:
    code = (
        "import sys; from moir_edge.router import RouterConfig, prompt_positions; "
        "sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
