"""The fused kernels compiled to machine code for every GPU of the targets, from the launch's own calls; no GPU is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from moir_edge.router.fused import stack_weights
from moir_edge.router.fused.support import MAX_RANK
from moir_edge.targets import TARGETS

triton = pytest.importorskip("triton", reason="triton is not installed")

KERNELS = ("score_tokens", "order_tokens", "enrich_tokens", "copy_rest")
SMS = sorted({target.sm for target in TARGETS.values() if target.sm})
# Shared memory that a program may have: 64 KiB on SM 75, 99 KiB on SM 86, 89 and 120, more elsewhere.
SHARED_BYTES = {75: 64 << 10}
USUAL_SHARED_BYTES = 99 << 10


class Driver:
    """Stands in for the driver of a GPU: says which one it is, which is all that compiling asks."""

    def __init__(self, sm: int) -> None:
        self.sm = sm

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.sm, 32)

    def get_current_device(self) -> int:
        """A number per SM: Triton keeps what it compiled by device."""
        return self.sm

    def get_current_stream(self, device: int) -> int:
        return 0 * device


class Compiler:
    """Takes a kernel's place in the launch; compiles each call and runs none."""

    def __init__(self, kernel: Any, into: list[Any]) -> None:
        self.kernel, self.into = kernel, into

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return lambda *given, **named: self.into.append(
            self.kernel.warmup(*given, grid=grid, **named)
        )


@pytest.fixture
def compile_launch(cases: Any, monkeypatch: Any, tmp_path_factory: Any) -> Any:
    """A function of a router and an SM that gives the compiled kernels of one call, in the order of `KERNELS`."""
    from triton.runtime.driver import driver

    from moir_edge.router.fused import launch

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    found: list[Any] = []
    for name in KERNELS:
        monkeypatch.setattr(launch, name, Compiler(getattr(launch, name), found))

    def compiled(router: Any, sm: int, images: int = 7, length: int = 13) -> list[Any]:
        found.clear()
        monkeypatch.setattr(driver, "_active", Driver(sm))  # reset_active asks for a real one
        precision = "tf32x3" if sm >= 80 else "ieee"
        monkeypatch.setattr(launch, "_precision", lambda device: precision)
        places = torch.arange(length - 1)[None]
        embeds = torch.zeros(1, length, router.hidden_size, dtype=torch.float16)
        launch.launch(embeds, places, images, stack_weights(router), router.config)
        return list(found)

    return compiled


def spilled_bytes(kernel: Any, folder: Path) -> int:
    """Return the bytes of stack that a thread spills registers to."""
    path = folder / "kernel.cubin"
    path.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    done = subprocess.run(
        [tool, "--dump-resource-usage", path], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split("STACK:")[1].split()[0])


def test_a_learned_gate_compiles(cases: Any, compile_launch: Any) -> None:
    plain, learned = (
        compile_launch(cases.router(64, rank=16, top_k=1, learned_gate=on), 89)[2]
        for on in (False, True)
    )
    assert learned.asm["cubin"].startswith(b"\x7fELF")
    assert learned.asm["ptx"] != plain.asm["ptx"]


@pytest.mark.parametrize("sm", SMS)
def test_kernels_compile_for_every_target(cases: Any, compile_launch: Any, sm: int) -> None:
    kernels = compile_launch(cases.router(64, rank=16, top_k=1), sm)
    assert [kernel.metadata.name for kernel in kernels] == list(KERNELS)
    for kernel in kernels:
        assert f".target sm_{sm}" in kernel.asm["ptx"]
        assert kernel.asm["cubin"].startswith(b"\x7fELF")
        assert kernel.metadata.shared <= SHARED_BYTES.get(sm, USUAL_SHARED_BYTES)
    # Float32 products in three TF32 products on tensor cores, where there are such.
    assert ("mma.sync" in kernels[0].asm["ptx"]) == (sm >= 80)
    assert ("tf32" in kernels[0].asm["ptx"]) == (sm >= 80)


def test_largest_router_fits_an_ada_gpu_without_spills(
    cases: Any, compile_launch: Any, tmp_path: Path
) -> None:
    router = cases.router(64, rank=MAX_RANK, merge="concat", top_k=4)
    for kernel in compile_launch(router, 89):
        assert kernel.metadata.shared <= USUAL_SHARED_BYTES
        assert spilled_bytes(kernel, tmp_path) == 0


def test_prompts_of_other_lengths_compile_nothing_anew(cases: Any, compile_launch: Any) -> None:
    """Unless told not to, Triton compiles once more for a length of 1, for multiples of 16, and for unaligned tensors."""
    router = cases.router(64, rank=16, top_k=1)
    first = compile_launch(router, 89)
    for images, length in ((1, 3), (16, 33), (32, 64)):
        again = compile_launch(router, 89, images, length)
        assert all(one is other for one, other in zip(first, again, strict=True))
