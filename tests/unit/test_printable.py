"""Text of files and models: what steers a terminal is spelled, everything else is left as it is."""

from __future__ import annotations

import json
import re
import unicodedata
import xml.etree.ElementTree as ET

import pytest

from moir_edge.charts.svg import draw, element, escaped
from moir_edge.errors import DataError, MoirEdgeError, closest, one_line
from moir_edge.evaluation.report.template import render_template
from moir_edge.printable import bounded, json_printable, printable, single_line

CONTROLS = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cc"]
BIDI = [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – 漢字 é", "plain – 漢字 é"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("100 %\rerror", r"100 %\x0derror"),
        ("\x9b2J\x07\x00\x7f", r"\x9b2J\x07\x00\x7f"),
        ("user\u202egnp.exe", r"user\u202egnp.exe"),
        ("a\u2028b", r"a\u2028b"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\xe9"),
        ("\ud83d", r"\ud83d"),
        (
            "👩\u200d👧 \u200fשלום",
            "👩\u200d👧 \u200fשלום",
        ),  # joined emoji, a mark of right-to-left text
    ],
)
def test_steering_characters_are_spelled(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_every_control_character_but_tab_and_line_feed_is_spelled() -> None:
    for one in (*CONTROLS, *BIDI):
        assert (printable(one) == one) == (one in "\t\n")
        assert single_line(one).isprintable()


def test_json_keeps_its_value() -> None:
    value = {"text": "".join((*CONTROLS, *BIDI, "é👩\u2028\ud83d"))}
    plain = json.dumps(value, indent=1, ensure_ascii=False)
    for encoding in (None, "ascii", "cp1252"):
        shown = json_printable(plain, encoding)
        assert json.loads(shown) == value
        assert shown.encode(encoding or "utf-8")
        assert re.sub(r"[\n ]", "", shown).isprintable()


def test_long_text_keeps_both_ends() -> None:
    assert bounded("short", 30) == "short"
    cut = bounded("name" + "x" * 1_000_000 + "give another", 60)
    assert len(cut) <= 63
    assert cut.startswith("namexxx")
    assert cut.endswith(" … " + "x" * 8 + "give another")


def test_an_error_is_one_line_of_bounded_length() -> None:
    text = str(DataError("\x1b[2Jname\nof " + "x" * 3_000_000 + "; give another"))
    assert text.startswith(r"\x1b[2Jname of xxx")
    assert text.endswith("x; give another")
    assert len(text) < 2_100
    assert str(MoirEdgeError("a  b")) == "a  b"
    assert len(one_line(ValueError("x" * 10**6))) < 1_000
    assert one_line("two\r\nlines\x1b") == r"two lines\x1b"


def test_a_name_of_megabytes_is_looked_for_by_its_beginning() -> None:
    assert "known: " in closest("q" * 3_000_000, ["export", "run"])


HOSTILE = '</title></svg></script><script>alert(1)</script>"\x1b\x00\u202e&amp;'


def test_a_drawing_is_xml_whatever_its_texts_hold() -> None:
    drawing = draw(HOSTILE, HOSTILE, 10, 10, element("text", escaped(HOSTILE), class_=HOSTILE))
    root = ET.fromstring(drawing)
    assert [child.tag for child in root] == ["title", "desc", "text"]
    assert root[0].text == printable(HOSTILE)
    assert root[2].attrib == {"class": printable(HOSTILE)}


def test_a_page_escapes_what_it_is_given() -> None:
    page = render_template("notices.html.j2", {"report": {"notices": [HOSTILE]}}, {})
    assert "<script" not in page
    assert r"\x1b\x00\u202e&amp;amp;" in page
