"""Code that a checkpoint brings is never run and never asked about: refused in one line, or not needed."""

from __future__ import annotations

import ast
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moir_edge.checkpoint import load_checkpoint
from moir_edge.demo import checkpoint_path
from moir_edge.errors import DataError, MoirEdgeError, UnsupportedError
from moir_edge.router import load_retrofitted, remove_router, retrofit
from moir_edge.weights.own_code import refuse_own_class

ROOT = Path(__file__).parents[3]
_AUTO = {
    **dict.fromkeys(
        ("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor", "AutoProcessor"),
        "own.Own",
    ),
    "AutoTokenizer": ["own.Own", "own.Own"],
}
Change = Callable[[dict[str, Any]], object]


def _edit(path: Path, change: Change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The demo's checkpoint with code of its own, which every file names; the code leaves a mark when it is run."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_path(), folder)
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        _edit(folder / name, lambda record: record.update(auto_map=_AUTO))
    _edit(
        folder / "processor_config.json",
        lambda record: record["image_processor"].update(auto_map=_AUTO),
    )
    yield folder
    assert not mark.exists()


def test_a_checkpoint_whose_classes_transformers_has_works_without_its_code(folder: Path) -> None:
    whole = load_checkpoint(folder)
    assert type(whole.model).__module__.startswith("transformers.")
    assert type(whole.tokenizer).__module__.startswith("transformers.")
    assert type(whole.processor.image_processor).__module__.startswith("transformers.")
    plain = load_checkpoint(checkpoint_path())
    assert whole.processor.tokenizer.get_vocab() == plain.processor.tokenizer.get_vocab()


def test_so_does_it_in_python(folder: Path) -> None:
    model = load_retrofitted(folder, dtype=torch.float32)
    record = dict(model.config.moir_router)
    remove_router(model)
    retrofit(model)  # looks for the tokenizer beside the weights
    assert model.config.moir_router["special_token_ids"] == record["special_token_ids"]


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (
            "config.json",
            {"model_type": "own_vlm"},
            r"Python code of its own \(auto_map in config.json\), which moir-edge never runs, and transformers "
            r"\S+ has no model_type 'own_vlm'; give a conversion",
        ),
        (
            "tokenizer_config.json",
            {"tokenizer_class": "OwnTokenizer"},
            r"tokenizer_config.json names the tokenizer_class 'OwnTokenizer' in Python code that comes with the "
            r"checkpoint \(auto_map\), which moir-edge never runs, .*; save it with a class of transformers",
        ),
        (
            "processor_config.json",
            {"processor_class": "OwnProcessor"},
            "processor_config.json names the processor_class 'OwnProcessor' in Python code",
        ),
        (
            "processor_config.json",
            {"image_processor": {"image_processor_type": "OwnImages", "auto_map": _AUTO}},
            "processor_config.json names the image_processor_type 'OwnImages' in Python code",
        ),
    ],
    ids=["model", "tokenizer", "processor", "images"],
)
def test_a_class_of_its_own_is_refused(
    folder: Path, file: str, change: dict[str, Any], told: str
) -> None:
    _edit(folder / file, lambda record: record.update(change))
    for exported in (True, False):
        with pytest.raises(UnsupportedError, match=told):
            _ = load_checkpoint(folder, exported=exported).processor


def test_an_image_processor_in_a_file_of_its_own(folder: Path) -> None:
    record = {"image_processor_type": "OwnImages", "auto_map": _AUTO}
    (folder / "preprocessor_config.json").write_text(json.dumps(record))
    _ = load_checkpoint(folder).processor  # the other file has one, which is taken
    (folder / "processor_config.json").unlink()
    with pytest.raises(UnsupportedError, match=r"preprocessor_config.json names the image_proc"):
        _ = load_checkpoint(folder).processor


def test_python_users_get_the_same_refusals(folder: Path) -> None:
    model = load_retrofitted(folder, dtype=torch.float32)
    remove_router(model)
    _edit(folder / "tokenizer_config.json", lambda record: record.update(tokenizer_class="Own"))
    with pytest.raises(UnsupportedError, match="names the tokenizer_class 'Own'"):
        retrofit(model)
    _edit(folder / "config.json", lambda record: record.update(model_type="own_vlm"))
    with pytest.raises(UnsupportedError, match=r"auto_map in config\.json"):
        load_retrofitted(folder)


@pytest.mark.parametrize("name", ["trust_remote_code", "allow_all_kernels", "use_kernels"])
def test_python_users_cannot_allow_it(name: str) -> None:
    arguments: dict[str, Any] = {name: True}
    with pytest.raises(
        UnsupportedError, match=rf"{name}=True: code .* never run; leave {name} out"
    ):
        load_retrofitted(checkpoint_path(), **arguments)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_from_the_hub_is_refused_and_other_choices_are_transformers_own(
    folder: Path, key: str
) -> None:
    def asking_for(name: str) -> None:
        _edit(folder / "config.json", lambda record: record.update({key: name}))

    asking_for("someone/kernel")
    with pytest.raises(
        UnsupportedError,
        match=r"config.json asks for the program 'someone/kernel' on the hub \(attn_implementation\), .*; take",
    ):
        load_checkpoint(folder)
    # Its package is not installed, and where it is not, transformers looks for a program on the hub.
    asking_for("flash_attention_2")
    assert load_checkpoint(folder).model.config._attn_implementation == "sdpa"


def test_weights_of_another_name_are_refused(folder: Path) -> None:
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "sub" / "other.safetensors")
    named = {"transformers_weights": "sub/other.safetensors"}
    _edit(folder / "config.json", lambda record: record.update(named))
    with pytest.raises(UnsupportedError, match=r"\(transformers_weights\); name the file model"):
        load_checkpoint(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    """Beside safetensors they are left alone; alone they are refused, before anything opens them."""
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"only pytorch_model.bin, which could run code"):
        load_checkpoint(folder)


def test_the_ending_of_older_class_names_makes_no_difference() -> None:
    record = {"auto_map": _AUTO, "image_processor_type": "SmolVLMImageProcessorFast"}
    refuse_own_class(Path("x"), record, "image_processor_type")
    with pytest.raises(MoirEdgeError):
        refuse_own_class(Path("x"), {**record, "image_processor_type": "OwnFast"}, "image_processor_type")  # fmt: skip


def _on_a_terminal(words: list[str]) -> tuple[int, str]:
    """Run a command whose standard streams are a terminal that nobody types into; return its exit code and output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.wait(600), seen.decode()


@pytest.mark.parametrize("command", ["export", "retrofit"])
def test_nobody_is_asked_on_a_terminal(command: str, folder: Path, tmp_path: Path) -> None:
    _edit(folder / "config.json", lambda record: record.update(model_type="own_vlm"))
    words = [command, str(folder), "-o", str(tmp_path / "out")]
    code, seen = _on_a_terminal([sys.executable, "-m", "moir_edge", *words])
    assert code == 2
    assert "which moir-edge never runs" in " ".join(seen.split())
    assert "[y/N]" not in seen
    assert not (tmp_path / "out").exists()


def test_transformers_would_ask() -> None:
    """The question that the tests above hold away is there, so they can fail."""
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    with pytest.raises(ValueError, match="trust_remote_code=True"):
        resolve_trust_remote_code(None, "name", has_local_code=False, has_remote_code=True)


# Neither of them runs code: a config is JSON, and `load_whole` hands its arguments over in one mapping.
_ARE_SAFE = {"GenerationConfig", "cls"}


def test_every_call_says_that_no_code_is_trusted() -> None:
    found, without = 0, []
    for path in (path for top in ("moir_edge", "benchmarks") for path in (ROOT / top).rglob("*.py")):  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if node.func.attr != "from_pretrained" or getattr(owner, "id", None) in _ARE_SAFE:
                continue
            found += 1
            said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if said.get("trust_remote_code") is not False:
                without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert without == []
    assert found >= 5


_RUN_CODE = {"pickle", "dill", "marshal", "shelve", "joblib", "cloudpickle"}


def _allows_pickle(word: ast.keyword) -> bool:
    """Anything but a written False, which `numpy.save` needs: it allows pickles by default."""
    return word.arg == "allow_pickle" and getattr(word.value, "value", None) is not False


def test_no_reader_that_runs_code() -> None:
    """Worker processes and their parent exchange pickles through `multiprocessing`, over a socket pair of their own."""
    found = []
    for path in (ROOT / "moir_edge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named = {alias.name.partition(".")[0] for alias in node.names} & _RUN_CODE
            elif isinstance(node, ast.ImportFrom):
                named = {(node.module or "").partition(".")[0]} & _RUN_CODE
            elif isinstance(node, ast.Call):
                named = {ast.unparse(node.func)} & {"eval", "exec", "torch.load", "yaml.load"}
                named |= {word.arg for word in node.keywords if _allows_pickle(word)}
            else:
                continue
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {name}" for name in named]
    assert found == []
