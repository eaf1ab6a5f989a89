"""Commands that are started in a folder with a `numpy.py` of somebody else never run it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from moir_edge.children import child_command, child_environment

NAMES = ("numpy", "torch", "json", "onnxruntime", "transformers", "multiprocessing", "subprocess")


@pytest.mark.parametrize("command", ["compare", "bench", "build", "export", "run"])
def test_files_of_the_current_folder_are_not_run(
    command: str, demo_output: Path, demo_checkpoint: Path, demo_image: Path, tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    bundle, quantized = demo_output / "bundle-fp32", demo_output / "bundle-int4"
    data = demo_output / "data" / "data.jsonl"
    words: dict[str, list[object]] = {
        "compare": [demo_checkpoint, quantized, "--data", data, "--limit", 3, "-o", "report"],
        "bench": [bundle, quantized, "--prompt-words", 8, "--repeats", 1, "-o", "bench"],
        "build": ["bundle", "--target", "rtx-30"],
        "export": [demo_checkpoint, "-o", "exported"],
        "run": [bundle, "--image", demo_image, "--prompt", "how many digits are there ?"],
    }
    if command == "build":
        shutil.copytree(bundle, tmp_path / "bundle")
    done = subprocess.run(
        child_command("moir_edge.cli.main:main", command, *map(str, words[command])),
        env=child_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [name for name in NAMES if (tmp_path / name).exists()] == []


def test_run_leaves_no_file_but_the_one_asked_for(
    demo_bundle: Path, demo_image: Path, tmp_path: Path
) -> None:
    for name in ("home", "scratch", "here"):
        (tmp_path / name).mkdir()
    words = ["run", str(demo_bundle), "--image", str(demo_image), "--prompt", "how many ?"]
    environment = child_environment({"HOME": f"{tmp_path}/home", "TMPDIR": f"{tmp_path}/scratch"})
    for variable in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(variable, None)
    subprocess.run(
        child_command("moir_edge.cli.main:main", *words, "--routing-map", "map.png"),
        env=environment,
        cwd=tmp_path / "here",
        capture_output=True,
        check=True,
    )
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert sorted(files) == ["here", "here/map.png", "home", "scratch"]
