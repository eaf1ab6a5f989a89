"""The table of classes that take a router, on a few of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families import Verdict, main, table, try_family
from benchmarks.shrinking import family_types

TABLE_START = "| model_type | retrofit | with a picture | export | why not |"


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llava_next_video", (True, True, False)),
        ("glm4v", (True, True, False)),
        ("smolvlm", (True, True, True)),
        ("florence2", (False, None, False)),
        ("inkling_mm_model", (None, None, False)),
    ],
)
def test_a_class_gets_its_verdict(
    model_type: str, expected: tuple[bool | None, bool | None, bool]
) -> None:
    found = try_family(model_type)
    assert (found.retrofit, found.picture, found.export) == expected
    assert bool(found.reason) == (found.retrofit is not True)


def test_the_page_gets_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "families.md"
    page.write_text("before\n<!-- families: begin -->\nold\n<!-- families: end -->\nafter\n")
    main(["--only", "vipllava", "blip", "--docs", str(page)])
    written = page.read_text()
    assert written.startswith(f"before\n<!-- families: begin -->\n{TABLE_START}")
    assert written.endswith("<!-- families: end -->\nafter\n")
    assert "old" not in written
    assert capsys.readouterr().out.strip() in written


def test_the_table_puts_those_that_take_a_router_first() -> None:
    rows = [
        Verdict(model_type="a", retrofit=None, export=False, reason="not built: a | b"),
        Verdict(model_type="b", retrofit=False, export=False, reason="refused"),
        Verdict(model_type="c", retrofit=True, picture=True, export=True),
    ]
    assert [line.split(" | ")[0] for line in table(rows).splitlines()[2:]] == ["| c", "| b", "| a"]
    assert r"not built: a \| b" in table(rows)


def test_the_page_of_the_repository_names_every_class() -> None:
    page = Path(__file__).parents[3] / "docs" / "families.md"
    text = page.read_text(encoding="utf-8")
    assert TABLE_START in text
    # A newer transformers may bring classes that the page does not have yet.
    known = {
        line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")
    }
    assert {"smolvlm", "llava", "idefics3", "blip-2"} <= known & set(family_types())
