from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from moir_edge.bundle.files import ModelFiles
from moir_edge.errors import BundleError, DataError
from moir_edge.runtime.chat import ChatTemplate, user_message

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": [{"type": "text", "text": 'Be "brief" & <kind>.'}]},
    *user_message("What is it?", images=2, context="Über 漢字."),
    {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
    {"role": "user", "content": [{"type": "text", "text": "  And now?\n"}]},
]

TEMPLATES = {
    "blocks are trimmed": "{% for m in messages %}\n    {% if true %}\n  {{ m.role }}\n    {% endif %}\n{% endfor %}\n",
    "tojson keeps letters": "{% for m in messages %}{{ m | tojson }}{{ m.content | tojson(indent=2) }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}"
    "{% if loop.index == 4 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "generation blocks": "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}",
    "special tokens": "{{ bos_token }}{% if add_generation_prompt %}{{ eos_token }}{% endif %}{{ unk_token }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "optional arguments": "{% if tools is none and documents is none %}none{% endif %}",
}


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("opened", [True, False])
def test_templates_render_as_in_transformers(source: str, opened: bool) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        [CONVERSATION], chat_template=source, add_generation_prompt=opened, **special
    )
    ours = ChatTemplate(source, special).render(CONVERSATION, add_generation_prompt=opened)
    assert ours == expected[0]


def test_images_come_first_and_the_context_joins_the_prompt() -> None:
    (message,) = user_message("Why?", images=2, context="It rains.")
    assert [part["type"] for part in message["content"]] == ["image", "image", "text"]
    assert message["content"][-1]["text"] == "It rains. Why?"
    assert user_message("Why?", images=0)[0]["content"] == [{"type": "text", "text": "Why?"}]


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(DataError, match="the prompt is empty"):
        user_message(prompt, images=1)


def test_a_refusing_template_says_why() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(DataError, match="roles must alternate"):
        template.render(CONVERSATION)


def test_the_sandbox_keeps_templates_from_python() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(DataError, match="unsafe"):
        template.render(CONVERSATION)
    with pytest.raises(DataError, match="refuses"):
        ChatTemplate("{{ messages.append(1) }}", {}).render(CONVERSATION)


def test_a_broken_template_is_the_bundles_fault() -> None:
    with pytest.raises(BundleError, match="does not compile"):
        ChatTemplate("{% for %}", {})


def test_the_template_is_found_where_checkpoints_keep_it(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no chat template"):
        ChatTemplate.of(ModelFiles(tmp_path), {})
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert ChatTemplate.of(ModelFiles(tmp_path), {}).render([]) == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert ChatTemplate.of(ModelFiles(tmp_path), {}).render([]) == "new"
