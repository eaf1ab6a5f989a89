"""Plain English: the first lines of docstrings, and the sentences of the pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_WORDS = 25
# A clause in place of a noun or a verb: the reader learns what the thing is only by guessing.
RIDDLE = re.compile(r"(What|Which|How|Who|It|They|Those|These|That|This)\b")


def first_lines() -> Iterator[tuple[str, str]]:
    for folder in ("moir_edge", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node) or ""
                    line = getattr(node, "lineno", 1)
                    if text:
                        first = " ".join(text.split("\n\n")[0].split())
                        yield f"{path.relative_to(ROOT)}:{line}", first


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sentences(page: str) -> Iterator[str]:
    """Yield the sentences of a page; code, tables and the targets of links are left out."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    for block in re.split(r"\n\s*\n", page):
        lines = [line for line in block.split("\n") if not re.match(r" {4}|\s*\|", line)]
        for item in re.split(r"\n(?=\s*(?:[-*]|\d+\.) )", "\n".join(lines)):
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(item.split()))
            text = re.sub(r"`[^`]*`", "code", text)
            yield from re.split(r"(?<=[.!?])(?:\*\*)?\s+|(?<=[:;])\s+(?=[A-Z`*(\d])", text)


def faults(sentence: str) -> list[str]:
    """Return what is wrong with the first line of a docstring."""
    found = []
    words = [word for word in sentence.split() if re.search(r"\w", word)]
    if len(words) > MOST_WORDS:
        found.append(f"{len(words)} words")
    if RIDDLE.match(sentence):
        found.append("begins with a clause or a pronoun")
    if re.search(r"\b(is|are) no\b", sentence):
        found.append('"is no" in place of "is not a"')
    return found


def test_first_lines_of_docstrings() -> None:
    lines = list(first_lines())
    assert len(lines) > 2000
    assert [(where, text, wrong) for where, text in lines if (wrong := faults(text))] == []


def test_the_check_sees_each_fault() -> None:
    assert faults("What came of them.") == ["begins with a clause or a pronoun"]
    assert faults("Return the tokens that are no padding.") == ['"is no" in place of "is not a"']
    assert faults(" ".join(["word"] * 26)) == ["26 words"]
    assert faults("Decide each component's precision.") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_of_the_pages(page: Path) -> None:
    found = list(sentences(page.read_text(encoding="utf-8")))
    assert len(found) > 10
    for sentence in found:
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        assert len(words) <= MOST_WORDS, sentence


def test_sentences_are_told_apart() -> None:
    page = "# Title\n\nOne. Two `a. b` here; three\ngoes on.\n\n- four\n- five\n\n    code. code\n\n| a. b | c |\n"
    assert list(sentences(page)) == [
        "# Title", "One.", "Two code here; three goes on.", "- four", "- five", "", ""
    ]  # fmt: skip
