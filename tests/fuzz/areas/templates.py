"""Chat templates of a forged bundle: whole Jinja that is large, slow, deep or wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.area import Area, Case, Strategy, register
from tests.fuzz.folders import link_copy, prove_again, rewrite

PROMPT = "What is left of the red digit?"
_NAMES = (
    "messages", "messages[0]", "messages[0]['content']", "messages[0].content[0]", "bos_token", "eos_token", "add_generation_prompt", "tools",
    "documents", "undefined", "loop", "self", "range(5)", "namespace()", "cycler", "lipsum", "dict(a=1)", "''", "'<image>'", "[1, 2]",
)  # fmt: skip
_NUMBERS = ("0", "1", "-1", "3", "1.5", "10", "300", "100000", "1000000000", "99999999999999999999")
_FILTERS = (
    "upper", "capitalize", "tojson", "length", "list", "join(',')", "string", "int", "float", "reverse", "sort", "sum", "map('upper')",
    "replace('a', 'b')", "center(80)", "indent(4)", "wordwrap(20)", "batch(2)", "slice(3)", "groupby('role')", "attr('__class__')", "first",
    "random", "unique", "urlize", "xmlattr", "pprint", "filesizeformat", "round", "abs", "dictsort", "truncate(9)", "striptags", "e",
)  # fmt: skip
_ATTRIBUTES = (
    ".__class__",
    ".__mro__",
    ".format",
    ".__init__.__globals__",
    "['x']",
    "[0]",
    "[-1]",
    "[:2]",
    ".items()",
    ".append(1)",
    ".upper()",
)


@register
class Templates(Area):
    """Templates made of valid parts, and large or heavy ones."""

    name = "templates"
    share = 700
    sliced = 16
    needs = ("int4",)

    def warm(self) -> None:
        from PIL import Image

        from moir_edge import load

        self.picture = Image.linear_gradient("L").convert("RGB").resize((40, 30))
        load(self.seeds / "int4", threads=1, provider="cpu").encode(PROMPT, self.picture)

    def strategies(self) -> Sequence[Strategy]:
        return (self._made, self._heavy, self._made, self._altered)

    def attempt(self, payload: Any) -> None:
        from moir_edge import load

        load(payload, threads=1, provider="cpu").encode(PROMPT, self.picture)

    def _made(self, rng: random.Random, folder: Path) -> Case:
        source = "<image>" * (rng.random() < 0.5) + "".join(
            _statement(rng, 3) for _ in range(rng.randint(1, 4))
        )
        return self._case(rng, folder, source, source)

    def _altered(self, rng: random.Random, folder: Path) -> Case:
        source = (self.seeds / "int4" / "chat_template.jinja").read_text()
        at = rng.randrange(len(source))
        other = rng.choice(
            ("", "{{", "}}", "{%", "%}", "{#", "\0", "\ud800", "(", "'", _statement(rng, 2))
        )
        return self._case(
            rng,
            folder,
            source[:at] + other + source[at + rng.randint(0, 9) :],
            f"{other!a} at {at}",
        )

    def _heavy(self, rng: random.Random, folder: Path) -> Case:
        count = rng.choice((10, 1000, 100_000, 10_000_000))
        ways = {
            "loop": f"{{% for x in range({count}) %}}a{{% endfor %}}",
            "loops": "{% for x in range(99999) %}" * 4 + "a" + "{% endfor %}" * 4,
            "silent loops": "{% for x in range(99999) %}" * 3 + "{% endfor %}" * 3,
            "product": f"{{{{ 'a' * {count} }}}}",
            "power": f"{{{{ (3 ** {count}) | string | length }}}}",
            "doubling": "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
            "joined": f"{{{{ (['a'] * {count}) | join(',') }}}}",
            "centre": f"{{{{ 'a' | center({count}) }}}}",
            "format": f"{{{{ '%{count}d' % 3 }}}}",
            "format method": f"{{{{ '{{:>{count}}}'.format(3) }}}}",
            "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "nested": "{% if 1 %}" * min(count, 3000) + "x" + "{% endif %}" * min(count, 3000),
            "parentheses": "{{ " + "(" * min(count, 3000) + "1" + ")" * min(count, 3000) + " }}",
            "long text": "a" * count,
            "many outputs": "{{ 1 }}" * min(count, 100_000),
            "lists": f"{{% set x = range({count}) | list %}}{{{{ x | length }}}}",
            "sorted": f"{{{{ (range(99999) | list * {min(count, 50)}) | sort | length }}}}",
            "lorem": f"{{{{ lipsum(n={count}) }}}}",
            "word wrap": f"{{{{ ('a ' * {count}) | wordwrap(3) }}}}",
            "growing list": "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
            "replace": f"{{{{ ('a' * {count}) | replace('a', 'bbbbbbbbbb') | replace('b', 'cccccccccc') | length }}}}",
            "json": f"{{{{ range({count}) | list | tojson(indent=200) | length }}}}",
            "call": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
            "date": f"{{{{ strftime_now('%Y' * {min(count, 100_000)}) }}}}",
            "message": f"{{{{ raise_exception('x' * {count}) }}}}",
        }  # fmt: skip
        way = rng.choice(sorted(ways))
        return self._case(rng, folder, ways[way], f"{way} {count}")

    def _case(self, rng: random.Random, folder: Path, source: str, how: str) -> Case:
        copy = link_copy(self.seeds / "int4", folder / "bundle")
        rewrite(copy / "chat_template.jinja", source)
        prove_again(copy)
        return Case(f"template {how[:150]!a}", copy)


def _statement(rng: random.Random, depth: int) -> str:
    value = _value(rng, depth)
    if depth == 0 or rng.random() < 0.4:
        return f"{{{{ {value} }}}}"
    body = _statement(rng, depth - 1)
    return rng.choice(
        (
            f"{{% for m in {value} %}}{body}{{% endfor %}}",
            f"{{% for m in {value} recursive %}}{{{{ loop(m) }}}}{{% endfor %}}",
            f"{{% if {value} %}}{body}{{% else %}}x{{% endif %}}",
            f"{{% set v = {value} %}}{body}",
            f"{{% macro f(a={value}) %}}{body}{{% endmacro %}}{{{{ f() }}}}",
            f"{{% filter upper %}}{body}{{% endfilter %}}",
            f"{{% generation %}}{body}{{% endgeneration %}}",
            f"{{% call(x) {value} %}}{body}{{% endcall %}}",
            f"{{% include {value} %}}",
            f"{{% for m in [1, 2] %}}{{% break %}}{body}{{% endfor %}}",
            "{{ raise_exception('no') }}",
        )
    )


def _value(rng: random.Random, depth: int) -> str:
    base = rng.choice(_NAMES) if rng.random() < 0.7 else rng.choice(_NUMBERS)
    if depth == 0:
        return base
    return rng.choice(
        (
            f"{base} | {rng.choice(_FILTERS)}",
            f"{base}{rng.choice(_ATTRIBUTES)}",
            f"{base} {rng.choice('+-*/%~')} {_value(rng, depth - 1)}",
            f"({_value(rng, depth - 1)}) | {rng.choice(_FILTERS)}",
            f"{base} is {rng.choice(('defined', 'string', 'mapping', 'iterable', 'none', 'divisibleby(0)'))}",
            f"{base}({_value(rng, depth - 1)})",
            f"{base} == {json.dumps(base)}",
        )
    )
