"""What export cannot do right is refused on the small files, by one line; other commands take it where they can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoConfig

from moir_edge.checkpoint import load_checkpoint, load_processor
from moir_edge.checkpoint.exportable import check_config
from moir_edge.cli.main import main
from moir_edge.errors import DataError, MoirEdgeError, UnsupportedError
from moir_edge.evaluation.candidates import load_candidate, spec_of
from moir_edge.export import export_bundle
from moir_edge.tuning import tune


@pytest.fixture(scope="module")
def sources(make_checkpoint: Callable[..., Path]) -> dict[str, Path]:
    return {name: make_checkpoint(name) for name in ("llava", "smolvlm", "idefics3")}


@pytest.fixture
def copy(sources: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(sources[name], tmp_path / name))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def refused(folder: Path, kind: type[MoirEdgeError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tower", ["dinov2", "pixtral", "siglip2_vision_model"])
def test_tower_that_the_graph_does_not_cover(sources: dict[str, Path], tower: str) -> None:
    config = AutoConfig.from_pretrained(sources["llava"])
    config.vision_config = AutoConfig.for_model(tower)
    with pytest.raises(
        UnsupportedError, match=f"vision tower '{tower}' of a llava .*supported: clip"
    ):
        check_config("model", config)


LONG = {
    "dynamic": {"factor": 2.0},
    "longrope": {"factor": 4.0, "long_factor": [2.0] * 4, "short_factor": [1.0] * 4},
}
FIXED = {
    "linear": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("kind", FIXED)
def test_rotary_embedding_that_depends_on_the_position_alone(
    copy: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    folder = copy("llava")
    scaling = {"rope_type": kind, "rope_theta": 10000.0, **FIXED[kind]}
    edit(
        folder / "config.json", lambda config: config["text_config"].update(rope_parameters=scaling)
    )
    # An fp32 export compares prefill and decode with torch and refuses what differs.
    manifest = json.loads(
        (export_bundle(folder, tmp_path / "bundle") / "manifest.json").read_text()
    )
    assert manifest["parity"]


@pytest.mark.parametrize("kind", LONG)
def test_rotary_embedding_that_depends_on_the_longest_prompt(
    copy: Callable[[str], Path], kind: str
) -> None:
    folder = copy("llava")
    scaling = {"rope_type": kind, "rope_theta": 10000.0, **LONG[kind]}
    edit(
        folder / "config.json", lambda config: config["text_config"].update(rope_parameters=scaling)
    )
    refused(folder, UnsupportedError, f"rotary embedding '{kind}' .*supported: default, linear")
    assert load_checkpoint(folder, exported=False).router is None


def test_no_chat_template(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("llava")
    (folder / "chat_template.jinja").unlink()
    message = "has no chat template, so prompts cannot be built; copy chat_template"
    refused(folder, DataError, message)
    with pytest.raises(DataError, match=message):
        load_candidate(spec_of(folder, threads=1, max_new_tokens=2))
    Image.new("RGB", (24, 24)).save(tmp_path / "a.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "a.png", "prompt": "Q", "answers": ["x"]}\n')
    assert main(["retrofit", str(folder), "-o", str(tmp_path / "routed"), "--rank", "4"]) == 0
    with pytest.raises(DataError, match=message):
        tune(tmp_path / "routed", tmp_path / "tuned", rows)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content }}", "the chat template does not compile: .*; correct its"),
        ("{% for m in messages %}{{ m.content[1].text }}{% endfor %}", "writes <image> 0 times for one image"),
        ("<image>{% for m in messages %}<image>{% endfor %}", "writes <image> 2 times for one image"),
        ("{{ raise_exception('no users') }}", "the chat template refuses this conversation: no users"),
    ],
)  # fmt: skip
def test_a_template_that_no_device_could_use(
    copy: Callable[[str], Path], template: str, message: str
) -> None:
    folder = copy("llava")
    (folder / "chat_template.jinja").write_text(template)
    refused(folder, DataError, message)


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json", "default"])
def test_template_is_found_in_every_place(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("llava")
    stored = folder / "chat_template.jinja"
    template = stored.read_text()
    stored.unlink()
    named: Any = template
    if name == "default":
        name, named = "tokenizer_config.json", [{"name": "default", "template": template}]
    path = folder / name
    path.write_text(path.read_text() if path.is_file() else "{}")
    edit(path, lambda record: record.update(chat_template=named))
    assert load_checkpoint(folder).processor.chat_template is not None


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_tiles_of_another_size_than_the_tower_takes(
    copy: Callable[[str], Path], family: str
) -> None:
    folder = copy(family)
    size = {"longest_edge": 48}
    edit(
        folder / "processor_config.json",
        lambda record: record["image_processor"].update(size=size, max_image_size=size),
    )
    refused(folder, DataError, "images of 48x48 pixels and the vision tower takes 32x32")


def test_crop_of_another_size_than_the_tower_takes(copy: Callable[[str], Path]) -> None:
    folder = copy("llava")
    size = {"height": 32, "width": 24}
    edit(
        folder / "processor_config.json",
        lambda record: record["image_processor"].update(crop_size=size),
    )
    refused(folder, DataError, "images of 24x32 pixels and the vision tower takes 24x24")


@pytest.mark.parametrize(
    ("family", "change", "counts"),
    [
        ("smolvlm", {"image_seq_len": 9}, "writes 9 image tokens .* makes 4 features"),
        ("idefics3", {"image_seq_len": 9}, "writes 9 image tokens .* makes 4 features"),
        ("llava", {"patch_size": 12}, "writes 4 image tokens .* makes 9 features"),
        ("llava", {"num_additional_image_tokens": 0}, "writes 8 image tokens .* makes 9 features"),
    ],
)
def test_prompt_with_another_number_of_image_tokens(
    copy: Callable[[str], Path], family: str, change: dict[str, int], counts: str
) -> None:
    folder = copy(family)
    edit(folder / "processor_config.json", lambda record: record.update(change))
    refused(folder, DataError, counts)


OLD = ("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy")


@pytest.mark.parametrize("gone", [OLD, OLD[:1], OLD[1:2], OLD[2:]])
def test_llava_processor_saved_before_it_stored_the_patch_size(
    copy: Callable[[str], Path], gone: tuple[str, ...]
) -> None:
    folder = copy("llava")
    edit(
        folder / "processor_config.json",
        lambda record: [record.pop(name) for name in gone],
    )
    processor = load_checkpoint(folder).processor
    assert [getattr(processor, name) for name in OLD] == [8, 1, "default"]


def test_old_processor_of_a_tower_without_class_token(copy: Callable[[str], Path]) -> None:
    folder = copy("llava")
    edit(
        folder / "processor_config.json",
        lambda record: [record.pop(name) for name in OLD],
    )
    config = AutoConfig.from_pretrained(folder)
    config.vision_config = AutoConfig.for_model("siglip_vision_model", image_size=24, patch_size=8)
    config.vision_feature_select_strategy = "full"
    processor = load_processor(folder, config)
    assert [getattr(processor, name) for name in OLD] == [8, 0, "full"]


def test_old_processor_of_a_model_without_a_choice_of_features(copy: Callable[[str], Path]) -> None:
    folder = copy("llava")
    edit(folder / "processor_config.json", lambda record: [record.pop(name) for name in OLD])
    tower = AutoConfig.for_model("clip_vision_model", image_size=24, patch_size=8)
    config = AutoConfig.for_model("vipllava", vision_config=tower.to_dict())
    processor = load_processor(folder, config)
    assert [getattr(processor, name) for name in OLD] == [8, 1, "default"]


def test_a_processor_without_patch_size_and_no_config_that_has_it(
    copy: Callable[[str], Path],
) -> None:
    folder = copy("llava")
    edit(folder / "processor_config.json", lambda record: record.pop("patch_size"))
    edit(folder / "config.json", lambda config: config["vision_config"].update(patch_size=None))
    message = (
        r"its processor has no patch_size, and config\.json has none .*write it into processor_"
    )
    with pytest.raises(DataError, match=message):
        load_processor(folder, AutoConfig.from_pretrained(folder))


@pytest.mark.parametrize(("patch", "image"), [(None, 24), (32, 24), (8, 0), (0, 24)])
def test_a_tower_whose_sizes_cannot_be(patch: Any, image: Any) -> None:
    config = AutoConfig.for_model("llava")
    config.vision_config.patch_size, config.vision_config.image_size = patch, image
    with pytest.raises(
        DataError,
        match=rf"model: its vision tower has patches of {patch} pixels in images of {image}; correct patch_size",
    ):
        check_config("model", config)


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    auto = {"AutoConfig": "configuration_own.OwnConfig"}
    record = {"model_type": "own_vlm", "auto_map": auto}
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UnsupportedError, match=r"comes with Python code of its own .*never runs"):
        load_checkpoint(tmp_path, exported=False)
    (tmp_path / "config.json").write_text('{"model_type": "own_vlm"}')
    with pytest.raises(UnsupportedError, match="has no model_type 'own_vlm'; check the spelling"):
        load_checkpoint(tmp_path, exported=False)


def past_the_table(folder: Path) -> int:
    """Add a padding token that never got a row, as a trainer does, and return its id."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    pad = tokenizer.convert_tokens_to_ids("[PAD]")
    record = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad}
    (folder / "generation_config.json").write_text(json.dumps(record))
    return int(pad)


def test_padding_id_past_the_embedding_table(
    copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("llava")
    pad = past_the_table(folder)
    checkpoint = load_checkpoint(folder)
    rows = checkpoint.model.get_input_embeddings().weight.shape[0]
    assert pad >= rows
    assert checkpoint.pad_id < rows
    assert checkpoint.processor.tokenizer.pad_token_id == checkpoint.pad_id
    capsys.readouterr()
    assert main(["export", str(folder), "-o", str(tmp_path / "bundle")]) == 0
    note = f"note: pad_token_id {pad} has no row in the embedding table ({rows} rows)"
    assert note in capsys.readouterr().out
    encoded = checkpoint.processor(text=["a", "long prompt"], padding=True, return_tensors="pt")
    assert encoded["input_ids"].max() < rows


def test_padding_id_in_order_has_no_note(sources: dict[str, Path]) -> None:
    assert load_checkpoint(sources["llava"]).notes == ()
