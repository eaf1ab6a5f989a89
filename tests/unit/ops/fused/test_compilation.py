"""The fused kernels compiled to machine code for every GPU of the targets; no GPU is needed for that."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from moir_edge.ops.fused.support import MAX_RANK
from moir_edge.router import RouterConfig
from moir_edge.targets import TARGETS

triton = pytest.importorskip("triton", reason="triton is not installed")

KERNELS = {
    "score": "score_tokens",
    "order": "order_tokens",
    "enrich": "enrich_tokens",
    "rest": "copy_rest",
}
SMS = sorted({target.sm for target in TARGETS.values() if target.sm})
TYPES = {"places": "*i64", "indices": "*i64", "embeds": "*fp16", "routed": "*fp16"}
SCALARS = {
    **dict.fromkeys(("length", "image_tokens", "tokens", "hidden"), "i32"),
    **dict.fromkeys(("log_hidden", "ratio", "threshold"), "fp32"),
}
# Shared memory that a program may have: 64 KiB on SM 75, 99 KiB on SM 86, 89 and 120, more elsewhere.
SHARED_BYTES = {75: 64 << 10}
USUAL_SHARED_BYTES = 99 << 10


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiled kernels of the test go to a folder of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(name: str, sm: int, config: RouterConfig) -> Any:
    """Compile one kernel as `launch` does on a GPU of that SM, with 16-byte aligned tensors as torch has them."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from moir_edge.ops.fused import enrichment, scoring
    from moir_edge.ops.fused.launch import Tiles, compile_options, kernel_constants

    precision = "tf32x3" if sm >= 80 else "ieee"
    constants = kernel_constants(config, Tiles(), precision=precision)[name]
    kernel = getattr(scoring if name in ("score", "order") else enrichment, KERNELS[name])
    kinds = {
        item: "constexpr" if item in constants else SCALARS.get(item, TYPES.get(item, "*fp32"))
        for item in kernel.arg_names
    }
    aligned = [
        (at,)
        for at, (item, kind) in enumerate(kinds.items())
        if kind.startswith("*") or item == "hidden"
    ]
    attributes = {at: [["tt.divisibility", 16]] for at in aligned}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants, attrs=attributes)
    return triton.compile(
        source, target=GPUTarget("cuda", sm, 32), options=compile_options(Tiles())
    )


def spilled_bytes(kernel: Any, folder: Path) -> int:
    """Return the bytes of stack that a thread spills registers to."""
    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run(
        [tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split("STACK:")[1].split()[0])


@pytest.mark.parametrize("sm", SMS)
def test_kernels_compile_for_every_target(sm: int) -> None:
    config = RouterConfig(rank=16, top_k=1)
    for name in KERNELS:
        kernel = compiled(name, sm, config)
        assert f".target sm_{sm}" in kernel.asm["ptx"]
        assert kernel.asm["cubin"].startswith(b"\x7fELF")
        assert kernel.metadata.shared <= SHARED_BYTES.get(sm, USUAL_SHARED_BYTES)


def test_largest_router_fits_an_ada_gpu_without_spills(tmp_path: Path) -> None:
    config = RouterConfig(rank=MAX_RANK, merge="concat", top_k=4)
    for name in KERNELS:
        kernel = compiled(name, 89, config)
        assert kernel.metadata.shared <= USUAL_SHARED_BYTES
        assert spilled_bytes(kernel, tmp_path) == 0


def test_products_run_on_tensor_cores_in_three_parts() -> None:
    ptx = compiled("score", 89, RouterConfig(rank=16)).asm["ptx"]
    assert "mma.sync" in ptx
    assert "tf32" in ptx
    assert "mma.sync" not in compiled("score", 75, RouterConfig(rank=16)).asm["ptx"]
