"""ONNX Runtime's providers: how each is set, and what is said where one is not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moir_edge
from moir_edge.bundle import open_bundle
from moir_edge.errors import EnvironmentProblem, UnsupportedError
from moir_edge.runtime.interface import DecoderInputs
from moir_edge.runtime.providers import open_graph, tensorrt_options

OFFERED = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


def test_an_unknown_provider_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(
        UnsupportedError, match="unknown provider 'tensorr'; did you mean 'tensorrt'"
    ):
        moir_edge.load(tiny_bundle, provider="tensorr")  # type: ignore[arg-type]


@pytest.mark.parametrize("provider", ["cuda", "ort-tensorrt"])
def test_a_provider_that_is_not_offered_names_the_package(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, provider: Any
) -> None:
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EnvironmentProblem) as caught:
        moir_edge.load(tiny_bundle, provider=provider)
    assert str(caught.value) == (
        f"this onnxruntime offers no {provider} provider (it has cpu); it comes with onnxruntime-gpu, which replaces "
        "onnxruntime: `pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'onnxruntime-gpu[cuda,cudnn]'`"
    )


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that offers CUDA and was built for a CUDA that no machine has: its own loader finds nothing."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "cuda_version", "99.0")
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: list(OFFERED))


@pytest.mark.usefixtures("without_libraries")
def test_cuda_without_its_libraries_leaves_the_cpu_and_one_line(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = moir_edge.load(tiny_bundle)
    assert model.sessions.provider == "cpu"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("running on the CPU: CUDA's libraries are missing (libcublasLt.so.99, ")
    assert line.endswith("install them with `pip install 'onnxruntime-gpu[cuda,cudnn]'`")
    assert "\n" not in line
    assert capfd.readouterr().out == ""


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("provider", ["cuda", "ort-tensorrt"])
def test_a_named_provider_without_its_libraries_is_refused(
    tiny_bundle: Path, provider: Any
) -> None:
    with pytest.raises(
        EnvironmentProblem,
        match=rf"the {provider} provider cannot start: CUDA's libraries are missing \(libcublasLt\.so\.99, ",
    ):
        moir_edge.load(tiny_bundle, provider=provider)


def test_cuda_without_a_driver_leaves_the_cpu(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: list(OFFERED))
    monkeypatch.setattr("moir_edge.tensorrt_api._DRIVER", "libcuda-that-nobody-has.so.1")
    assert moir_edge.load(tiny_bundle).sessions.provider == "cpu"
    assert "the NVIDIA driver is missing or finds no GPU" in caplog.text


def test_a_provider_that_does_not_start_is_not_replaced_in_silence(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    monkeypatch.setattr("moir_edge.runtime.providers.cuda_problem", lambda: None)

    real = onnxruntime.InferenceSession
    asked: list[Any] = []

    def falls_back(path: str, options: Any, *, providers: list[str], **_: Any) -> Any:
        asked.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(EnvironmentProblem, match="could not start CUDAExecutionProvider"):
        moir_edge.load(tiny_bundle, provider="cuda")
    assert asked == [["CUDAExecutionProvider", "CPUExecutionProvider"]]
    assert not caplog.records
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: list(OFFERED))
    assert moir_edge.load(tiny_bundle).sessions.provider == "cpu"
    assert "running on the CPU: ONNX Runtime could not start CUDAExecutionProvider" in caplog.text


def test_a_graph_that_the_provider_refuses_is_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def fails(*_: Any, providers: list[str], **others: Any) -> Any:
        # what a provider's own start raises; with `enable_fallback` it would be printed to stdout
        assert others["enable_fallback"] is False
        raise RuntimeError("Please install\nTensorRT libraries")

    monkeypatch.setattr("moir_edge.runtime.providers.cuda_problem", lambda: None)
    monkeypatch.setattr("moir_edge.runtime.providers._available", lambda: list(OFFERED))
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(
        EnvironmentProblem,
        match=r"vision\.onnx with the cuda provider: Please install TensorRT libraries; or run with `provider='cpu'`",
    ):
        moir_edge.load(tiny_bundle, provider="cuda")


@pytest.mark.parametrize(("target", "exact"), [("cpu", False), ("jetson-thor", True)])
def test_a_bundle_for_a_gpu_is_checked_with_exact_products(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, target: str, exact: bool
) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    folded: list[bool] = []

    def watched(path: str, options: Any, **others: Any) -> Any:
        try:  # widens weights at load, so that no activation is rounded
            folded.append(options.get_session_config_entry("session.disable_quant_qdq") == "1")
        except RuntimeError:  # not set
            folded.append(False)
        return real(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    bundle = open_bundle(tiny_bundle)
    vision = bundle.manifest.components["vision"]
    components = {"vision": vision.model_copy(update={"precision": "int8-weight-only"})}
    manifest = bundle.manifest.model_copy(update={"target": target, "components": components})
    open_graph(replace(bundle, manifest=manifest), "vision", "cpu", None)
    assert folded == [exact]


def test_ort_tensorrt_compiles_one_range_for_prompt_and_step(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    manifest = open_bundle(tiny_bundle).manifest
    options = tensorrt_options("decoder", manifest)
    sizes = {
        name: dict(part.split(":") for part in options[f"trt_profile_{name}_shapes"].split(","))
        for name in ("min", "opt", "max")
    }
    assert set(sizes["min"]) == {spec.name for spec in manifest.components["decoder"].inputs}
    embeds = [sizes[name]["inputs_embeds"] for name in ("min", "opt", "max")]
    assert embeds == ["1x1x8", "1x1x8", "4x512x8"]
    past = [sizes[name]["past_key_values.1.value"] for name in ("min", "opt", "max")]
    assert past == ["1x1x0x8", "1x1x256x8", "4x1x511x8"]
    mask = [sizes[name]["attention_mask"] for name in ("min", "opt", "max")]
    assert mask == ["1x1", "1x257", "4x1023"]
    assert options["trt_engine_cache_enable"] == "1"
    folder = Path(options["trt_engine_cache_path"])
    assert folder.parent == tmp_path / "moir-edge" / "ort-tensorrt"
    assert folder.is_dir()
    other = manifest.components["decoder"].model_copy(update={"structure_sha256": "a", "weights_sha256": "b"})  # fmt: skip
    tuned = manifest.model_copy(update={"components": {"decoder": other}})
    assert tensorrt_options("decoder", tuned)["trt_engine_cache_path"] != str(folder)


def test_a_cache_that_cannot_be_made_is_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(EnvironmentProblem, match="set XDG_CACHE_HOME to another folder"):
        tensorrt_options("router", open_bundle(tiny_bundle).manifest)


def test_routed_embeddings_are_handed_on_where_they_lie(tiny_bundle: Path) -> None:
    sessions = moir_edge.load(tiny_bundle, threads=1, provider="cpu").sessions
    embeds = sessions.embed(np.array([[5, 6, 7]]))
    positions, text = np.array([[0]]), np.array([[1, 2]])
    routed, arrays = sessions.route(embeds, positions, text, np.ones((1, 2), bool))
    assert not isinstance(routed, np.ndarray)
    np.testing.assert_array_equal(sessions.to_numpy(routed), embeds + np.float32(0.5))
    assert sessions.to_numpy(embeds) is embeds
    np.testing.assert_allclose(arrays.scores, [[0, 0.01, 0.02]])
    by_value, _ = sessions.prefill(routed, DecoderInputs.of_mask(np.ones((1, 3), np.int64)))
    by_array, _ = sessions.prefill(
        sessions.to_numpy(routed), DecoderInputs.of_mask(np.ones((1, 3), np.int64))
    )
    np.testing.assert_array_equal(by_value, by_array)
