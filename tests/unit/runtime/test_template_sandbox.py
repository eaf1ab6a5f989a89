"""Tests of the templates' budget: what it refuses, and that it changes nothing for templates that stay within it."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from moir_edge.errors import BundleError, DataError
from moir_edge.limits import TEMPLATE_BYTES
from moir_edge.runtime.chat import ChatTemplate, user_message
from moir_edge.runtime.template_sandbox import weight

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    *user_message("What is it?", images=2),
    {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
    {"role": "user", "content": [{"type": "text", "text": "  And now?\n"}]},
]
_BIG = "{% set ns = namespace(s='abcdefgh') %}{% for i in range(18) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"

HOSTILE = {
    "silent loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = j %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops that print": "{% for i in range(99999) %}{% for j in range(99999) %}abcdefgh{% endfor %}{% endfor %}",
    "a set block": "{% set x %}{% for i in range(99999) %}{% for j in range(99999) %}abcdefgh{% endfor %}{% endfor %}{% endset %}",
    "a text that doubles": "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "a text that doubles by tilde": "{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "a list that doubles": "{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "a list of long texts": _BIG + "{{ [ns.s, ns.s] * 30 }}",
    "a list joined": _BIG + "{{ ([ns.s] * 9999) | join }}",
    "a generator joined": _BIG + "{{ ([ns.s] * 9999) | map('upper') | join }}",
    "a method that joins": _BIG
    + "{{ ns.s.join(['', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '']) }}",
    "texts multiplied": "{{ 'a' * 999999999 }}",
    "numbers multiplied": "{% set ns = namespace(n=9) %}{% for i in range(64) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "a power": "{{ 9 ** 99999999 }}",
    "replace": _BIG + "{{ ns.s.replace('', ns.s) }}",
    "replace, the filter": _BIG + "{{ ns.s | replace('a', ns.s) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "ljust": "{{ 'a'.ljust(999999999) }}",
    "expandtabs": _BIG + "{{ ns.s.replace('a', '\t').expandtabs(9999) }}",
    "indent": _BIG + "{{ ns.s.replace('a', '\n') | indent(9999) }}",
    "format": "{{ '{:999999999}'.format(1) }}",
    "format with a width from an argument": "{{ '{:{}}'.format(1, 999999999) }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "percent with a star": "{{ '%*d' % (999999999, 1) }}",
    "the filter format": "{{ '%999999999d' | format(1) }}",
    "batch": "{{ [1] | batch(999999999, 0) | list }}",
    "sums of lists": "{{ ([range(9999) | list] * 9999) | sum(start=[]) }}",
    "tojson": _BIG + "{{ ([ns.s] * 999) | tojson }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "an endless message": _BIG + "{{ raise_exception(ns.s) }}",
    "an unknown file": "{% include 'x' %}",
    "a wrong number": "{{ 'a' | batch('b') | list }}{{ 1 // 0 }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_template_beyond_its_budget_is_one_line(source: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.thread_time()
    with pytest.raises(
        DataError, match=r"^the chat template refuses this conversation: "
    ) as caught:
        ChatTemplate(source, {}).render(CONVERSATION)
    assert time.thread_time() - started < 8  # a rendering may take 2 s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "source",
    [
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{% if true %}" * 200 + "{% endif %}" * 200,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "a" * (TEMPLATE_BYTES + 1),
        "{{ 'a' | urlize }}",
    ],
    ids=["parentheses", "conditions", "loops", "length", "a filter that prompts do not need"],
)
def test_a_template_that_cannot_be_compiled_is_one_line(source: str) -> None:
    with pytest.raises(
        BundleError, match=r"^the chat template (does not compile|has 131,073)"
    ) as caught:
        ChatTemplate(source, {}).render(CONVERSATION)
    assert "\n" not in str(caught.value)


USUAL = {
    "macros": "{% macro show(m, mark='>') %}{{ mark }}{{ m.role | upper }}{{ caller() if caller }}{% endmacro %}"
    "{% for m in messages %}{{ show(m) }}{{ show(m, mark=loop.index ~ '. ') }}{% endfor %}",
    "call blocks": "{% macro box() %}[{{ caller() }}]{% endmacro %}{% for m in messages %}{% call box() %}{{ m.role }}{% endcall %}{% endfor %}",
    "a recursive loop": "{% for one in [[1, [2, 3]], [4]] recursive %}{{ one if one is number else loop(one) }}{% endfor %}",
    "tilde": "{% for m in messages %}{{ m.role ~ ':' ~ loop.index ~ none ~ [1, 'a'] ~ missing }}{% endfor %}",
    "operators": "{{ 'ab' * 3 }}{{ [1] * 2 + [2] }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%s-%03d|%5.2f' % ('a', 7, 1.5) }}{{ 1 + 2.5 }}{{ ('a',) + ('b',) }}",
    "formats": "{{ '{} {:>6} {a!r}'.format('x', 'y', a=1) }}{{ '%s/%s' | format('a', 'b') }}",
    "methods": "{{ ' a,b '.strip().split(',') }}{{ 'ab'.replace('a', 'xx') }}{{ 'a'.center(5) }}{{ '-'.join(['a', 'b']) }}"
    "{{ 'Ab'.lower() }}{{ 'a'.startswith('a') }}{{ {'a': 1}.items() | list }}{{ {'a': 1}.get('b', 2) }}{{ 'a\\tb'.expandtabs(4) }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    "{{ [3, 1, 2] | sort | join }}{{ [1, 2] | sum }}{{ 'a b' | title }}{{ '<a>' | e }}{{ {'b': 1, 'a': 2} | dictsort }}{{ [1, 1] | unique | list }}"
    "{{ range(5) | batch(2, '-') | list }}{{ 'a\\nb' | indent(4) }}{{ 'abc' | truncate(2, true, '') }}{{ [1, 2] | tojson(indent=2) }}{{ x | default('d') }}",
    "set blocks": "{% set text %}{% for m in messages %}{{ m.role }}\n{% endfor %}{% endset %}{{ text | trim | length }}{{ text }}",
    "filter blocks": "{% filter upper %}{% for m in messages %}{{ m.role }}{% endfor %}{% endfilter %}",
    "loop facts": "{% for m in messages %}{{ loop.first }}{{ loop.last }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.cycle('a', 'b') }}{% else %}none{% endfor %}",
    "tests": "{% for m in messages %}{{ m.content is string }}{{ m.content is iterable }}{{ m.x is defined }}{{ 'text' in m.content }}{% endfor %}",
    "slices": "{{ messages[1:] | length }}{{ messages[-1]['role'] }}{{ 'abc'[::-1] }}{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{{ rest | length }}{% endif %}",
}  # fmt: skip


@pytest.mark.parametrize("source", USUAL.values(), ids=USUAL.keys())
def test_usual_templates_render_as_in_transformers(source: str) -> None:
    expected, _ = render_jinja_template([CONVERSATION], chat_template=source)
    ours = ChatTemplate(source, {}).render(CONVERSATION, add_generation_prompt=False)
    assert ours == expected[0]


def test_a_conversation_of_thousands_of_turns_is_within_the_budget() -> None:
    source = (
        "{% for m in messages %}{% if messages | length > loop.index0 and messages[loop.index0].role == 'user' %}"
        "{{ '<u>' + m.content | trim + '\\n' }}{% else %}{{ m.role ~ m.content }}{% endif %}{% endfor %}"
    )
    turns = [
        {"role": "user" if n % 2 else "assistant", "content": "word " * 40} for n in range(5000)
    ]
    expected, _ = render_jinja_template([turns], chat_template=source)
    assert ChatTemplate(source, {}).render(turns, add_generation_prompt=False) == expected[0]


def test_a_long_prompt_is_within_the_budget() -> None:
    source = "{% for m in messages %}{{ m.role }}{% for p in m.content %}{{ p.text | trim | replace('a', 'b') }}{% endfor %}{% endfor %}"
    turns = user_message("a word " * 500_000, images=0)
    assert len(ChatTemplate(source, {}).render(turns)) > 3_000_000


def test_the_weight_of_a_value_counts_every_place_and_ends() -> None:
    long = "x" * 1000
    assert weight([long] * 100, 1 << 30) == 100 * 1000 + 64
    endless: list[Any] = [long]
    endless.append(endless)
    assert 10_000 < weight(endless, 10_000) < 20_000
