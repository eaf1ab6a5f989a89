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
    ("config", "record"),
    [
        (
            RouterConfig(kind="channel"),
            {"version": 1, "kind": "channel", "ratio": 0.1, "direction": "both"},
        ),
        (
            RouterConfig(kind="channel", ratio=0.2, direction="text-to-image"),
            {"version": 1, "kind": "channel", "ratio": 0.2, "direction": "text-to-image"},
        ),
        (RouterConfig(kind="gate"), {"version": 1, "kind": "gate", "direction": "both"}),
    ],
)
def test_record_holds_the_settings_of_its_kind_alone(
    config: RouterConfig, record: dict[str, object]
) -> None:
    assert config.to_record() == record
    again = RouterConfig.from_record(record)
    assert again == config
    assert again.hash() == config.hash() != RouterConfig().hash()
    assert again.sources == 1


def test_learned_gate_is_in_the_record_only_where_it_is_on() -> None:
    """Records and hashes of other routers are those of versions without the setting."""
    assert "learned_gate" not in RouterConfig().to_record()
    config = RouterConfig(learned_gate=True)
    record = config.to_record()
    assert (record["learned_gate"], record["ratio"], record["threshold"]) == (True, None, None)
    assert RouterConfig.from_record(record) == config
    assert config.hash() != RouterConfig().hash()


def test_number_of_exchanged_channels() -> None:
    config = RouterConfig(kind="channel")
    assert [config.exchanged_channels(width) for width in (4, 14, 15, 24, 576)] == [1, 1, 2, 2, 58]
    assert RouterConfig(kind="channel", ratio=1.0).exchanged_channels(576) == 576


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"top_q": 3}, "router config: top_q: Extra inputs"),
        ({"version": 2}, "router config: version: Input should be 1"),
        ({"kind": "chanel"}, "router config: kind: Input should be 'token', 'channel' or 'gate'"),
        ({"kind": ["gate"]}, "router config: kind: Input should be"),
        (
            {"kind": "channel", "top_k": 2, "merge": "add"},
            "router config: record: the channel router has no merge, top_k; its settings are ratio, direction;",
        ),
        (
            {"kind": "gate", "ratio": 0.5},
            "the gate router has no ratio; its settings are direction",
        ),
        ({"kind": "gate", "top_q": 2}, "router config: top_q: Extra inputs"),
        ({"kind": "gate", "direction": "auto"}, "compares token densities, which the gate router"),
        ({"kind": "channel", "ratio": 0.0}, "needs a ratio above 0"),
        ({"kind": "channel", "ratio": None}, "needs a ratio above 0"),
        ({"ratio": 1.5}, "router config: ratio: Input should be less than or equal to 1"),
        ({"ratio": None}, "neither ratio nor threshold"),
        (
            {"learned_gate": True, "ratio": 0.5},
            "a learned gate finds its own edge; leave ratio and threshold out, or learned_gate",
        ),
        ({"learned_gate": True, "threshold": 0.5}, "a learned gate finds its own edge"),
        ({"kind": "gate", "learned_gate": True}, "the gate router has no learned_gate"),
        ({"learned_gate": 3}, "router config: learned_gate: Input should be a valid boolean"),
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
