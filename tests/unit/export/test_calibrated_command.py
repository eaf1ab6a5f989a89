"""`export` with its calibration flags on the command line: what works, and every mistake as one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moir_edge.bundle import open_bundle
from moir_edge.cli.main import main

PROMPT = "How many are there?"
Export = Callable[..., "tuple[int, str, str]"]


@pytest.fixture(scope="module")
def routed(traced_models: Callable[[str], Any]) -> Any:
    return traced_models("llava")


@pytest.fixture
def export(
    routed: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Export:
    """Run the command on a checkpoint that is traced already; the output is ``bundle``."""
    monkeypatch.setattr("moir_edge.export.bundle.load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr("moir_edge.export.bundle.trace_components", lambda *_, **__: routed)

    def run(*words: object) -> tuple[int, str, str]:
        own = ["export", "checkpoint", "-o", str(tmp_path / "bundle"), "--precision", "int8", "-q"]
        code = main([*own, *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def fails(export: Export, tmp_path: Path) -> Callable[..., str]:
    def run(*words: object) -> str:
        code, out, err = export(*words)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert not (tmp_path / "bundle").exists()
        return err.removeprefix("error: ").rstrip("\n")

    return run


def _picture(folder: Path, name: str, size: tuple[int, int] = (30, 26)) -> str:
    seed = sum(name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / name)
    return name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six rows whose pictures differ in size."""
    lines = [
        {"image": _picture(tmp_path, f"{index}.png", (20 + 9 * index, 40)), "prompt": f"{PROMPT} {index}"}
        for index in range(6)
    ]  # fmt: skip
    return _write(tmp_path / "calib.jsonl", *lines)


def _write(path: Path, *lines: dict[str, Any] | str) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def _record(tmp_path: Path) -> dict[str, Any]:
    calibration = open_bundle(tmp_path / "bundle").manifest.calibration
    assert calibration is not None
    record = calibration["data"]
    assert isinstance(record, dict)
    return record


def test_json_lines_with_pictures_of_mixed_sizes(
    export: Export, data: Path, tmp_path: Path
) -> None:
    _picture(tmp_path, "other.png")
    other = _write(tmp_path / "eval.jsonl", {"image": "other.png", "prompt": PROMPT})
    flags = ("--calib-method", "minmax", "--smoothquant", "off", "--min-snr", 0, "--calib-rows", 5)
    cache = tmp_path / "cache"
    code, out, _ = export(
        "--calib-data", data, "--eval-data", other, "--calib-cache", cache, *flags
    )
    assert code == 0
    assert "calibrated with 5 rows of calib.jsonl\n" in out
    record = _record(tmp_path)
    assert (record["range"], record["smoothing"], record["min_snr_db"]) == ("minmax", "off", 0)
    assert len(list(cache.iterdir())) == 1


def test_balance_is_recorded_and_has_statistics_of_its_own(
    export: Export, data: Path, tmp_path: Path
) -> None:
    words = ("--calib-data", data, "--calib-cache", tmp_path / "cache", "--smoothquant", "off")
    assert export(*words)[0] == 0
    clean = _record(tmp_path)
    code, out, _ = export(*words, "--force", "--balance", "clean,blur=3.5px,word-dropout")
    assert code == 0
    assert "calibrated with 6 rows of calib.jsonl (" in out
    record = _record(tmp_path)
    assert record["conditions"] == {"clean": 2, "blur=3.5px": 2, "word-dropout@3": 2}
    assert record["sha256"] != clean["sha256"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_hub_data_set(export: Export, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hub")
    datasets.disable_progress_bars()
    names = [_picture(tmp_path, f"{index}.png") for index in range(8)]
    for split, own in (("train", names[:4]), ("validation", names[4:])):
        columns = {"photo": [str(tmp_path / name) for name in own], "query": [PROMPT] * 4}
        table = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
        (tmp_path / "table").mkdir(exist_ok=True)
        table.to_parquet(str(tmp_path / "table" / f"{split}-00000-of-00001.parquet"))
    words = ("--calib-data", tmp_path / "table", "--calib-format", "hub", "--calib-split", "train")
    columns = ("--calib-column", "images=photo", "--calib-column", "prompt=query")
    own = ("--eval-data", tmp_path / "table", "--eval-split")
    code, out, err = export(*words, *columns, *own, "train")
    assert code == 2
    assert "4 row(s) are in the calibration and in the evaluation data" in err
    code, out, err = export(*words, *columns, *own, "validation")
    assert (code, err) == (0, "")
    assert f"calibrated with 4 rows of {tmp_path / 'table'}\n" in out
    assert _record(tmp_path)["format"] == "hub"


def test_published_questions_need_no_annotations(export: Export, tmp_path: Path) -> None:
    questions = [
        {"image_id": index, "question": PROMPT, "question_id": 10 * index} for index in range(3)
    ]
    for index in range(3):
        _picture(tmp_path / "val2014", f"COCO_val2014_{index:012d}.jpg")
    content = {"data_type": "mscoco", "data_subtype": "val2014", "questions": questions}
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(content))
    words = ("--calib-format", "vqa-v2", "--calib-images", tmp_path, "--calib-data", path)
    code, out, _ = export(*words, "--calib-prompt", "{text} One word.")
    assert code == 0
    assert "calibrated with 3 rows of questions.json" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "int8 needs calibration data; give --calib-data FILE"),
        (("--calib-data", "gone.jsonl"), "calibration data: gone.jsonl does not exist; give a file"),
        (("--calib-format", "hub"), "--calib-format without --calib-data; add it"),
        (("--balance", "clean"), "calibration balance given without calibration data; add"),
        (("--calib-data", "gone/hub/set", "--calib-format", "hub"), "gone/hub/set does not exist"),
        (("--calib-data", "x", "--calib-format", "vqa"), "unknown data format 'vqa': did you mean"),
        (("--calib-data", "x", "--calib-format", "nlvr2"), "images: give --calib-images"),
        (("--calib-data", "x", "--calib-split", "a"), "jsonl takes no --calib-split; leave it out"),
        (("--calib-data", "x", "--calib-column", "a"), "--calib-column 'a': expected ROLE=COLUMN"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(
    fails: Callable[..., str], words: tuple[str, ...], message: str
) -> None:
    assert message in fails(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--balance", "clean,blurr"), "unknown degradation 'blurr': did you mean 'blur'"),
        (("--balance", "clean,,blur"), "balance has an empty condition"),
        (("--eval-data", "gone.jsonl"), "evaluation data: gone.jsonl does not exist"),
        (("--eval-images", "."), "--eval-images without --eval-data; add it"),
        (("--calib-method", "kl"), "unknown calibration method 'kl'"),
        (("--smoothquant", "2"), "smoothing is 2.0; expected search, off or an exponent"),
        (("--max-bad-rows", "-1"), "--max-bad-rows"),
    ],
)
def test_settings_that_do_not_fit(
    fails: Callable[..., str], data: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in fails("--calib-data", data, *words)


def test_no_data(fails: Callable[..., str], tmp_path: Path) -> None:
    empty = _write(tmp_path / "empty.jsonl")
    assert "holds no row to calibrate with (0 bad); write one" in fails("--calib-data", empty)


def test_wrong_keys(fails: Callable[..., str], tmp_path: Path) -> None:
    _picture(tmp_path, "a.png")
    line = {"image": "a.png", "question": PROMPT}
    path = _write(tmp_path / "wrong.jsonl", line)
    message = fails("--calib-data", path)
    assert "holds no row to calibrate with (1 bad), the first: unknown key 'question'" in message
    message = fails("--calib-data", path, "--max-bad-rows", 0)
    assert message.startswith(f"{path}:1: unknown key 'question', did you mean 'prompt'?")


def test_past_the_context_length(fails: Callable[..., str], data: Path) -> None:
    line = {"image": "0.png", "prompt": "a" * 400}
    _write(data, *data.read_text().splitlines(), line)
    message = fails("--calib-data", data, "--max-bad-rows", 0)
    assert f"{data}:7: the prompt has " in message
    assert "the model's context holds 256" in message


# numpy announces the infinity that the check of the row then refuses.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize(
    ("mean", "line"),
    [
        (1e39, "{data}:1: its images hold a NaN or an infinity after preprocessing"),
        (
            float("nan"),
            "the checkpoint's processor_config.json: image_processor.image_mean[0] is NaN or infinite",
        ),
    ],
)
def test_pixels_that_are_not_finite(
    mean: float,
    line: str,
    fails: Callable[..., str],
    routed: Any,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(routed.checkpoint.folder, folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["image_mean"] = [mean] * 3
    path.write_text(json.dumps(config))
    checkpoint = dataclasses.replace(routed.checkpoint, folder=folder)
    broken = dataclasses.replace(routed, checkpoint=checkpoint)
    monkeypatch.setattr("moir_edge.export.bundle.trace_components", lambda *_, **__: broken)
    message = fails("--calib-data", data, "--max-bad-rows", 0)
    assert line.format(data=data) in message


def test_rows_of_the_evaluation(
    export: Export, fails: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    same = _write(tmp_path / "eval.jsonl", data.read_text().splitlines()[2])
    words = ("--calib-data", data, "--eval-data", same)
    message = fails(*words)
    assert f"the first: {data}:3 is {same}:1; calibrate with other rows" in message
    # the third row calibrates nothing then
    assert export(*words, "--calib-rows", 1, "--max-bad-rows", 1)[0] == 0


def test_an_interrupted_export_goes_on_to_the_same_bytes(
    export: Export, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the second pass runs, after a save: graphs, scales and reports come out the same."""
    monkeypatch.setattr("moir_edge.calibration.passes._SAVE_EVERY", 2)
    words = ("--calib-data", data, "--balance", "clean,blur", "--min-snr", 0)
    assert export(*words)[0] == 0
    whole = {file.path: file.sha256 for file in open_bundle(tmp_path / "bundle").manifest.files}
    shutil.rmtree(tmp_path / "bundle")
    import moir_edge.calibration.passes as passes

    run_row, seen = passes.run_row, 0

    def stops(*arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 10:
            raise KeyboardInterrupt
        run_row(*arguments)

    cached = (*words, "--calib-cache", tmp_path / "cache")
    monkeypatch.setattr(passes, "run_row", stops)
    assert export(*cached)[0] != 0
    assert not (tmp_path / "bundle").exists()
    assert export(*cached)[0] == 0
    # the six rows of the smoothing pass and two of the second were saved; four are run now
    assert seen == 10 + 4
    files = {file.path: file.sha256 for file in open_bundle(tmp_path / "bundle").manifest.files}
    assert files == whole
