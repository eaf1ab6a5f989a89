"""The first line of every docstring is one plain sentence: short, and about a thing that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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
