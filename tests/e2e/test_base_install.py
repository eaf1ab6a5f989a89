"""The device's install: the wheel without extras, on the newest and on the lowest versions, answers like the full one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

FORBIDDEN = ("torch", "transformers", "onnx", "onnxscript", "tensorrt_rtx", "sklearn")


def lowest_versions(wheel: Path) -> str:
    """Return the lowest versions that the base install admits, as a constraints file for pip."""
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(files.read(name).decode())
    lines = []
    for requirement in metadata.get_all("Requires-Dist", []):
        if "extra ==" in requirement:
            continue
        floor = re.fullmatch(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", requirement)
        assert floor, f"{requirement!r}: expected name>=version, whose lowest version can be read"
        lines.append(f"{floor[1]}=={floor[2]}\n")
    return "".join(lines)


@pytest.fixture(scope="module", params=["newest", "oldest"])
def device_python(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The interpreter of an environment that holds the base install and nothing more."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = ["install", "--quiet", str(wheel)]
    if request.param == "oldest":
        (folder / "oldest.txt").write_text(lowest_versions(wheel))
        words += ["--constraint", str(folder / "oldest.txt")]
    subprocess.run([python, "-m", "pip", *words], check=True)
    return python


def run_json(python: Path, bundle: Path, image: Path) -> dict[str, object]:
    words = ["run", str(bundle), "--image", str(image), "--prompt", "how many digits are there ?"]
    code = "import sys; from moir_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    # A warning at every command is an error: pydantic below 2.10 had one.
    done = subprocess.run(
        [python, "-W", "error", "-c", code, *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_base_install_has_none_of_the_export_packages(device_python: Path) -> None:
    code = (
        "import importlib.util as u\n"
        f"print([m for m in {FORBIDDEN!r} if u.find_spec(m) is not None])\n"
        "import sys, moir_edge\n"
        "print([m for m in ('onnxruntime', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([device_python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_base_install_gives_the_same_text(
    device_python: Path, demo_bundle: Path, demo_image: Path
) -> None:
    ours = run_json(Path(sys.executable), demo_bundle, demo_image)
    device = run_json(device_python, demo_bundle, demo_image)
    assert device["text"] == ours["text"]
    assert device["token_ids"] == ours["token_ids"]


def test_base_install_reads_int4(device_python: Path, demo_bundle: Path, demo_image: Path) -> None:
    # Kernels of two ONNX Runtimes round 4-bit products differently, so the tokens may differ.
    device = run_json(device_python, demo_bundle.with_name("bundle-int4"), demo_image)
    assert device["token_ids"]
    assert device["finish_reason"] == "stop_token"


def test_export_in_a_base_install_names_the_extra(device_python: Path, tmp_path: Path) -> None:
    code = "import sys; from moir_edge.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [device_python, "-c", code, "export", "x", "-o", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: this needs the package 'torch'")
    assert "pip install 'moir-edge[export]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
