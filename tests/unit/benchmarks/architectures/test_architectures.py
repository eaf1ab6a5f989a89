"""The table of families: what a run proved, tokens of published geometries, and the page of the repository."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.architectures.__main__ import (
    BEGIN,
    COLUMNS,
    END,
    own_lines,
    proven_before,
    router_position,
    table,
)
from benchmarks.architectures.geometries import GEOMETRIES, image_tokens
from moir_edge.models import architecture_names

ROOT = Path(__file__).parents[4]
SUITE = """
import pytest
pytestmark = pytest.mark.proves("whole")

@pytest.fixture(scope="session", params=["good", "bad", "broken"])
def traced(request):
    if request.param == "broken":
        raise ValueError("no trace")
    return request.param

@pytest.mark.proves("fp32")
def test_one(traced):
    assert traced == "good"

@pytest.mark.parametrize("precision", [pytest.param(p, marks=pytest.mark.proves(p)) for p in ("int8", "int4")])
def test_two(traced, precision):
    if (traced, precision) == ("good", "int4"):
        pytest.skip("proves nothing")

@pytest.mark.proves("retrofit")
@pytest.mark.parametrize("model_type", ["good", "bad"])
def test_three(model_type):
    pass

def test_of_no_family():
    pass
"""


def test_the_plugin_writes_what_passed(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    proofs = tmp_path / "proofs.json"
    plugin = ("-p", "tests.proofs", "--proofs", str(proofs))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin]
    done = subprocess.run(
        [*words, "--rootdir", str(tmp_path), str(tmp_path)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 1
    assert json.loads(proofs.read_text()) == {
        "good": {"whole": False, "fp32": True, "int8": True, "int4": False, "retrofit": True},
        "bad": {"whole": False, "fp32": False, "int8": True, "int4": True, "retrofit": True},
        "broken": {"whole": False, "fp32": False, "int8": False, "int4": False},
    }


def test_a_cell_says_yes_only_for_what_was_proven() -> None:
    first, *rest = architecture_names()
    lines = table({first: dict.fromkeys(COLUMNS, True) | {"tune": False}}).splitlines()
    assert lines[2] == f"| {first} | yes | no |" + " yes |" * (len(COLUMNS) - 2)
    assert lines[3] == f"| {rest[0]} |" + " no |" * len(COLUMNS)


def test_a_page_keeps_what_it_says_of_families_that_are_not_tested(tmp_path: Path) -> None:
    proofs = {name: dict.fromkeys(COLUMNS, name != "llava") for name in architecture_names()}
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{table(proofs)}\n{END}\nafter\n")
    before = proven_before(page)
    assert {name: before[name] for name in architecture_names()} == proofs
    page.write_text(f"{BEGIN}\n{END}\n")
    assert proven_before(page) == {}


def test_every_family_has_a_published_geometry() -> None:
    assert set(architecture_names()) <= set(GEOMETRIES)


@pytest.mark.parametrize(
    ("model_type", "picture", "tokens"),
    [
        ("llava", (640, 480), 24 * 24),  # LLaVA 1.5: 336 / 14 squared, whatever the picture
        ("vipllava", (100, 3000), 24 * 24),
        # SmolVLM: 2048 on the longest edge, tiles of 512 and the overview, 64 tokens each
        ("smolvlm", (640, 480), (4 * 3 + 1) * 64),
        ("idefics3", (512, 2048), (1 * 4 + 1) * 64),
        # InternVL: of the canvases of up to 12 tiles, 4 × 3 has the shape of 4 : 3
        ("internvl", (640, 480), (4 * 3 + 1) * 256),
        ("internvl", (448, 448), 256),
        ("gemma3", (100, 1500), 256),  # 896 / 14 pooled by 4, squared, whatever the picture
        ("paligemma", (640, 480), 16 * 16),
        # Aya Vision: 364 / 14 shuffled by 2, squared; the canvas of InternVL
        ("aya_vision", (640, 480), (4 * 3 + 1) * 169),
        # Mistral 3: 23 × 18 blocks of 28 pixels; 1540 on the longest edge; the ends of rows are no image tokens
        ("mistral3", (640, 480), 23 * 18),
        ("mistral3", (1920, 1080), 55 * 31),
        # `_get_num_multimodal_tokens` of transformers 5.23 says the same
        ("llava_next", (1920, 1080), 1948),
        ("llava_next", (100, 1500), 936),
        ("llava_onevision", (1920, 1080), 7269),
        ("llava_onevision", (100, 1500), 1593),
    ],
)
def test_tokens_of_published_checkpoints(
    model_type: str, picture: tuple[int, int], tokens: int
) -> None:
    assert image_tokens(model_type, *picture) == tokens


def test_lines_and_position() -> None:
    for name in architecture_names():
        assert 10 < own_lines(name) < 400
        assert router_position(name).startswith("between embeddings and first layer")


def test_the_page_of_the_repository_has_a_row_for_every_family() -> None:
    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    written = page.partition(BEGIN)[2].partition(END)[0].strip()
    proven, figures = written.split("\n\n")
    yes = f"{' yes |' * len(COLUMNS)}"
    assert proven.splitlines()[2:] == [f"| {name} |{yes}" for name in architecture_names()]
    # Figures as this version computes them, lines aside; proofs are those of the run that wrote the page.
    computed = table({}).split("\n\n")[1]
    assert [_but_lines(row) for row in figures.splitlines()] == [
        _but_lines(row) for row in computed.splitlines()
    ]


def _but_lines(row: str) -> str:
    return row.rsplit("|", 2)[0]


def test_the_readme_counts_the_families() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(f"[{len(architecture_names())} families](docs/architectures.md)") == 2
