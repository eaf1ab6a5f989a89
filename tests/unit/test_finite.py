"""The rule for NaN and infinity: counted, never dropped, and refused by name in JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from moir_edge.errors import NotFiniteError
from moir_edge.finite import count_text, is_finite, json_text, largest


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_value_decides_wherever_it_stands(bad: float, place: int) -> None:
    values = np.ones(3, np.float32)
    values[place] = bad
    assert not is_finite(values)
    assert math.isnan(largest(np.abs(values)))
    assert count_text(values) == "1 of 3 values is NaN or infinite"


def test_finite_values() -> None:
    assert is_finite([1.0, -2.0])
    assert is_finite(np.zeros((0, 3)))
    assert is_finite(np.arange(3))
    assert largest([0.5, 2.0]) == 2.0
    assert largest([]) == 0.0
    assert count_text([math.nan, math.inf, 1.0]) == "2 of 3 values are NaN or infinite"


def test_json_is_that_of_the_standard_library() -> None:
    record = {"b": [1, 2.5, None], "a": {"c": "é", "d": True}}
    assert json_text(record) == json.dumps(record)
    assert json_text(record, indent=1, ensure_ascii=False) == json.dumps(
        record, indent=1, ensure_ascii=False
    )
    assert json_text(record, sort_keys=True, separators=(",", ":")) == json.dumps(
        record, sort_keys=True, separators=(",", ":")
    )


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"loss": math.nan}, "loss"),
        (
            {"figures": [{"ttft": {"mean": 1.0}}, {"ttft": {"mean": math.inf}}]},
            "figures[1].ttft.mean",
        ),
        ([(1.0, -math.inf)], "[0][1]"),
        (math.nan, "the value"),
    ],
)
def test_json_names_the_place_of_a_number_that_is_not_finite(record: object, place: str) -> None:
    with pytest.raises(NotFiniteError) as caught:
        json_text(record)
    assert str(caught.value) == (
        f"{place} is NaN or infinite, which JSON cannot hold; nothing was written"
    )


def test_a_key_that_is_not_finite_keeps_pythons_own_message() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        json_text({math.nan: 1})


PLAIN_JSON = {
    "moir_edge/finite.py": "the rule itself",
    "moir_edge/bundle/manifest.py": "a hash, also of a manifest that somebody else wrote",
    "moir_edge/runtime/chat.py": "what a chat template sees, as transformers gives it",
    "moir_edge/runtime/template_sandbox.py": "what a chat template writes, as transformers does",
    "moir_edge/runtime/prompt_bound.py": "a part of a tokenizer, to look into",
    "moir_edge/runtime/control_tokens.py": "a tokenizer, for the library that reads it",
    "moir_edge/runtime/generation_config.py": "a value quoted in an error message",
    "moir_edge/runtime/families/settings.py": "settings of a manifest, read again at once",
    "moir_edge/data/rows.py": "a value quoted in an error message",
    "moir_edge/engines/worker.py": "answers to our own process, which reads them as Python does",
    "benchmarks/serve/attacks.py": "hostile requests, some with numbers that are not finite",
    "benchmarks/serve/process.py": "bodies of requests, hostile ones among them",
    "moir_edge/engines/jobs.py": "requests to our own process, and a hash",
}
_WRITES = re.compile(r"\bjson\.dumps?\(|\bmodel_dump_json\(|import dumps?\b")
_ROOT = Path(__file__).parents[2]


def test_all_json_is_written_by_the_one_rule() -> None:
    folders = ("moir_edge", "benchmarks")
    files = [path for name in folders for path in (_ROOT / name).rglob("*.py")]
    found = {
        path.relative_to(_ROOT).as_posix()
        for path in files
        if _WRITES.search(path.read_text(encoding="utf-8"))
    }
    assert len(files) > 200
    assert found == set(PLAIN_JSON)
