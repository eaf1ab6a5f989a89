"""Candidates of `benchmarks.fused_router` on a GPU: the router in each form, a large copy, a prefill."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moir_edge.errors import EnvironmentProblem
from moir_edge.router import RouterConfig, RouterOutput, TokenRouter
from moir_edge.router.fused import fused_obstacle
from moir_edge.runtime.providers import graph_provider

if TYPE_CHECKING:
    from benchmarks.fused_cases import Case, Timed

__all__ = ["candidates", "copy_bandwidth", "machine", "prefill_ms"]

# Typed in part only.
_cuda: Any = torch.cuda
_TORCH_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Beyond the second-level cache of any GPU there is.
_FLUSH_BYTES = 512 << 20
_COPY_BYTES = 1 << 30
# A decoder of about two billion weights, as SmolVLM-2.2B has one.
_DECODER: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 49280,
}

Run = Callable[[], object]


def candidates(case: Case, *, dtype: str, rank: int) -> tuple[dict[str, Timed], dict[str, float]]:
    """Return the timed candidates of one size, and how the fused result compares with torch's.

    `fused` and `eager` are called from Python, and their time holds the launches; under `CUDA graph` it does not.

    Args:
        case: The size.
        dtype: Of the embeddings; the router is float32.
        rank: Of the router.

    Raises:
        EnvironmentProblem: The kernels cannot serve this GPU.
    """
    torch.manual_seed(0)
    fused, eager = (_router(case.hidden, rank) for _ in range(2))
    eager.load_state_dict(fused.state_dict())
    eager.fused = "off"
    inputs = _inputs(case, _TORCH_DTYPES[dtype])
    with torch.no_grad():
        if reason := fused_obstacle(fused, inputs[0]):
            raise EnvironmentProblem(f"the fused router does not serve this GPU: {reason}")
        compiled = torch.compile(eager)
        runs: dict[str, Run] = {
            "fused": lambda: fused(*inputs),
            "eager": lambda: eager(*inputs),
            "compiled": lambda: compiled(*inputs),
        }
        runs["fused, CUDA graph"] = _graphed(runs["fused"])
        runs["eager, CUDA graph"] = _graphed(runs["eager"])
        if (session := _session(eager, inputs)) is not None:
            runs["ONNX Runtime CUDA"] = session
        agreement = _agreement(fused(*inputs), eager(*inputs))
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    return {name: _timed(run, flush) for name, run in runs.items()}, agreement


def copy_bandwidth(repeats: int = 20) -> list[float]:
    """Return bytes read and written per second of each copy of a large tensor.

    Args:
        repeats: How many copies.
    """
    source = torch.empty(_COPY_BYTES, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    copy = _timed(lambda: target.copy_(source), None)
    return [2e3 * _COPY_BYTES / copy() for _ in range(repeats + 1)][1:]


def prefill_ms(tokens: int, *, dtype: str, repeats: int = 20) -> list[float]:
    """Return the times of a prefill of one prompt by a decoder of two billion random weights.

    Args:
        tokens: Length of the prompt.
        dtype: Of weights and embeddings.
        repeats: How many prefills.
    """
    import transformers

    # Typed in part only.
    build: Any = transformers.AutoModel
    with torch.device("cuda"), torch.no_grad():
        kind = _TORCH_DTYPES[dtype]
        config = transformers.LlamaConfig(**_DECODER)
        model = build.from_config(config, dtype=kind).eval()
        embeds = torch.randn(1, tokens, _DECODER["hidden_size"], dtype=kind)
        run = _timed(lambda: model(inputs_embeds=embeds, use_cache=True), None)
        return [run() for _ in range(repeats + 2)][2:]


def machine() -> dict[str, str]:
    """Return the names and versions that a reader needs."""
    import triton

    return {
        "gpu": _cuda.get_device_name(),
        "sm": "".join(map(str, _cuda.get_device_capability())),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _router(hidden: int, rank: int) -> TokenRouter:
    """Return a router in evaluation mode that changes what it routes."""
    router = TokenRouter(RouterConfig(rank=rank), hidden).eval()
    for side in (router.image, router.text):
        torch.nn.init.normal_(side.up.weight, std=0.1)
    return router.cuda()


def _inputs(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one prompt: image tokens, then text tokens."""
    with torch.device("cuda"):
        at = torch.arange(case.image_tokens + case.text_tokens)[None]
        embeds = torch.randn(*at.shape, case.hidden, dtype=dtype)
        texts = at[:, case.image_tokens :]
        return embeds, at[:, : case.image_tokens], texts, torch.ones_like(texts, dtype=torch.bool)


def _graphed(run: Run) -> Run:
    """Return a replay of the call, captured as torch asks: after warm-up on a stream of its own."""
    stream = _cuda.Stream()
    stream.wait_stream(_cuda.current_stream())
    with _cuda.stream(stream):
        for _ in range(3):
            run()
    _cuda.current_stream().wait_stream(stream)
    graph = _cuda.CUDAGraph()
    with _cuda.graph(graph):
        kept = run()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def _session(router: TokenRouter, inputs: tuple[Tensor, ...]) -> Run | None:
    """Return a run of the router graph on ONNX Runtime's CUDA provider, inputs on the GPU; None without the provider."""
    import onnxruntime

    from moir_edge.ops import ROUTER_INPUTS, ROUTER_OUTPUTS, router_graph

    if graph_provider() != "cuda":
        return None
    # Events are recorded on torch's stream, so that stream has to wait for the session's.
    stream, torchs = _cuda.Stream(), _cuda.current_stream()
    session = onnxruntime.InferenceSession(
        router_graph(router).SerializeToString(),
        providers=[("CUDAExecutionProvider", {"user_compute_stream": str(stream.cuda_stream)})],
    )
    binding = session.io_binding()
    arrays = (inputs[0].float(), *inputs[1:])  # the graph's own type
    for name, item in zip(ROUTER_INPUTS, arrays, strict=True):
        value = onnxruntime.OrtValue.ortvalue_from_numpy(item.cpu().numpy(), "cuda", 0)
        binding.bind_ortvalue_input(name, value)
    for name in ROUTER_OUTPUTS:
        binding.bind_output(name, "cuda")

    def run() -> None:
        stream.wait_stream(torchs)
        session.run_with_iobinding(binding)
        torchs.wait_stream(stream)

    return run


def _timed(run: Run, flush: Tensor | None) -> Timed:
    """Return a call that is timed by CUDA events, the second-level cache flushed before it."""
    start, end = (_cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        with torch.no_grad():
            if flush is not None:
                flush.zero_()
            start.record()
            run()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))

    return timed


def _agreement(fused: RouterOutput, eager: RouterOutput) -> dict[str, float]:
    """Return the share of equal source indices and the largest difference of the routed embeddings."""
    same = (fused.indices == eager.indices).float().mean()
    difference = (fused.inputs_embeds.float() - eager.inputs_embeds.float()).abs().max()
    return {"index_agreement": float(same), "max_abs_error": float(difference)}
