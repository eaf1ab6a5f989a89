"""The providers that run a bundle, and a graph's session in ONNX Runtime on one of them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from moir_edge.environment import onnxruntime_version
from moir_edge.errors import BundleError, EnvironmentProblem, one_line
from moir_edge.runtime.component import Component
from moir_edge.runtime.cuda_start import CUDA_PACKAGE, cuda_problem
from moir_edge.runtime.float4 import session_source
from moir_edge.runtime.freed_memory import give_back_freed_memory, large_blocks_apart
from moir_edge.runtime.graph_cache import kept_graph
from moir_edge.targets import get_target, session_config
from moir_edge.threads import ThreadWait, session_options

if TYPE_CHECKING:
    from moir_edge.bundle import Bundle, ComponentEntry, FusedEntry, Manifest, TensorSpec

__all__ = [
    "GraphProvider",
    "Provider",
    "check_signature",
    "fused_form",
    "graph_provider",
    "open_graph",
]

Shape: TypeAlias = "tuple[int | str | None, ...]"

_log = logging.getLogger(__name__)

GraphProvider = Literal["cpu", "cuda", "ort-tensorrt"]
"""ONNX Runtime's ways to run a graph."""

Provider = Literal["cpu", "cuda", "ort-tensorrt", "tensorrt", "openvino", "openvino-fast"]
"""All ways to run a bundle; ``"tensorrt"`` takes its engines, ``"ort-tensorrt"`` compiles its graphs when it loads them.

``"openvino"`` computes in float32 as ``"cpu"`` does, and ``"openvino-fast"`` rounds.
"""

# ONNX Runtime's name of each, and whom it hands over to what it cannot run.
_EXECUTION: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "ort-tensorrt": (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    ),
}


def graph_provider() -> GraphProvider:
    """Return the best provider that runs graphs on this machine: CUDA, or the CPU.

    An ONNX Runtime that offers CUDA without its libraries gets the CPU, and one logged line that names what is missing.
    """
    if _EXECUTION["cuda"][0] not in _available():
        return "cpu"
    problem = cuda_problem()
    if problem is None:
        return "cuda"
    _log.warning(f"running on the CPU: {problem}")
    return "cpu"


# Components whose optimized graphs are kept where that is asked for; the others load in no time.
_KEPT = ("vision", "decoder")

# The first ONNX Runtime that has every operator of a fused graph, and the opset that it is written in.
_FUSED_SINCE = (1, 23)


def fused_form(entry: ComponentEntry, provider: GraphProvider) -> FusedEntry | None:
    """Return the fused form of a component's graph where a provider runs that one.

    Args:
        entry: Of the manifest.
        provider: What runs it.
    """
    return entry.fused if provider == "cpu" and onnxruntime_version() >= _FUSED_SINCE else None


def open_graph(
    bundle: Bundle,
    component: str,
    provider: GraphProvider,
    threads: int | None,
    thread_wait: ThreadWait | None = None,
) -> Component:
    """Open a component's graph in ONNX Runtime.

    Raises:
        EnvironmentProblem: This ONNX Runtime does not offer the provider, or cannot start it.
        BundleError: The component is missing, or ONNX Runtime cannot load its graph.
    """
    import onnxruntime

    execution = _EXECUTION[provider]
    _require_provider(provider)
    entry = bundle.manifest.components[component]
    fused = fused_form(entry, provider) is not None
    path = bundle.graph(component, fused=fused)
    # A bundle for a GPU is run on a CPU to check it.
    exact = provider == "cpu" and get_target(bundle.manifest.target).builder != "onnxruntime"

    def options() -> Any:
        found = _session_options(threads, component, entry.precision, exact=exact, wait=thread_wait)
        # A pattern keeps one block for all activations of a shape beside what the first run took; no run got faster by it.
        found.enable_mem_pattern = provider != "cpu"
        return found

    if provider == "cpu":
        large_blocks_apart()
    source = session_source(path, entry.precision)
    settings: list[dict[str, str]] = [{} for _ in execution]
    if provider == "ort-tensorrt":
        settings[0] = tensorrt_options(component, bundle.manifest)

    def opened(source: str | bytes, chosen: Any) -> Any:
        # Older versions print that a provider failed and go on without it, whatever `enable_fallback` says.
        with contextlib.redirect_stdout(io.StringIO()):
            return onnxruntime.InferenceSession(
                source,
                chosen,
                providers=list(execution),
                provider_options=settings,
                enable_fallback=False,
            )

    kept = None
    if provider == "cpu" and component in _KEPT and isinstance(source, str):
        data = [bundle.file(one) for one in entry.data]
        version = onnxruntime.__version__
        config = session_config(component, entry.precision, version, exact=exact)
        kept = kept_graph(path, data, config, version)
    try:
        session = (
            opened(source, options())
            if kept is None
            else kept.session(opened, str(source), options)
        )
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = " ".join(str(error).split())
        if provider == "cpu":
            raise BundleError(f"ONNX Runtime cannot load {path}: {reason}") from error
        raise EnvironmentProblem(
            f"ONNX Runtime cannot load {path} with the {provider} provider: {reason}; or run with `provider='cpu'`"
        ) from error
    give_back_freed_memory()
    signature = _signature(session.get_inputs()), _signature(session.get_outputs())
    check_signature(entry, path, *signature, fused=fused)
    if session.get_providers()[0] != execution[0]:  # it goes on without one that does not start
        raise EnvironmentProblem(
            f"ONNX Runtime could not start {execution[0]} for {path}; its libraries (CUDA, cuDNN, for ort-tensorrt "
            "TensorRT) must be on the loader's path; or run with `provider='cpu'`"
        )
    opened_graph = Component(session, str(path), None if kept is None else kept.data)
    opened_graph.give_back_weights()  # loading read them all; the first run reads its own
    return opened_graph


def check_signature(
    entry: ComponentEntry,
    path: Path,
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    *,
    fused: bool = False,
) -> None:
    """Refuse a graph whose inputs or outputs are not those of the manifest, from which the runtime takes its sizes.

    Args:
        entry: The component's entry in the manifest.
        path: The graph's file.
        inputs: Element type and shape of each input by name, as a library read them.
        outputs: The same of the outputs.
        fused: The file holds the fused form.

    Raises:
        BundleError: They differ.
    """
    own = entry.fused.inputs_of(entry) if fused and entry.fused is not None else entry.inputs
    for kind, specs, given in (
        ("inputs", own, inputs),
        ("outputs", entry.outputs, outputs),
    ):
        wanted = {spec.name: (spec.dtype, spec.shape) for spec in specs}
        if wanted.keys() != given.keys() or any(
            not _same_type(wanted[name], given[name]) for name in wanted
        ):
            raise BundleError(
                f"{path} has the {kind} {_listing(given)}, the manifest says {_listing(wanted)}; export the bundle again"
            )


def _signature(values: Sequence[Any]) -> dict[str, tuple[str, Shape]]:
    return {value.name: (_element(value.type), tuple(value.shape)) for value in values}


def _element(type_name: str) -> str:
    """Return numpy's name of ONNX Runtime's ``tensor(float)``."""
    name = type_name.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _same_type(wanted: tuple[str, Shape], given: tuple[str, Shape]) -> bool:
    """Compare element types, ranks, and the sizes that both know; a name stands for a size that may vary."""
    if wanted[0] != given[0] or len(wanted[1]) != len(given[1]):
        return False
    pairs = zip(wanted[1], given[1], strict=True)
    return all(one == two for one, two in pairs if isinstance(one, int) and isinstance(two, int))


def _listing(tensors: Mapping[str, tuple[str, Shape]]) -> str:
    shown = [f"{name} {dtype}{list(shape)}" for name, (dtype, shape) in tensors.items()]
    return one_line(", ".join(shown))


def tensorrt_options(component: str, manifest: Manifest) -> dict[str, str]:
    """Return the options under which ONNX Runtime's TensorRT provider compiles a graph once, for all shapes.

    Without ranges it compiles anew for every shape that it has not met, hence at every decode step. What it compiled is kept
    below the user's cache folder, apart for each content of a graph: its own names tell graphs apart, and not their weights.

    Args:
        component: ``vision``, ``embedding``, ``router`` or ``decoder``.
        manifest: A sealed manifest.

    Raises:
        EnvironmentProblem: The folder cannot be made.
    """
    from moir_edge.bundle.profiles import component_profiles

    inputs = manifest.components[component].inputs
    sizes = [
        [profile.sizes(spec.name, spec.shape) for spec in inputs]
        for profile in component_profiles(component, manifest.model)
    ]
    # One range over all profiles: the smallest of the smallest, the largest of the largest; most usual is the last, the decode step.
    smallest = [_each(min, *(profile[n][0] for profile in sizes)) for n in range(len(inputs))]
    largest = [_each(max, *(profile[n][2] for profile in sizes)) for n in range(len(inputs))]
    usual = [size[1] for size in sizes[-1]]
    folder = str(_engine_cache(component, manifest))
    return {
        "trt_profile_min_shapes": _shapes(inputs, smallest),
        "trt_profile_opt_shapes": _shapes(inputs, usual),
        "trt_profile_max_shapes": _shapes(inputs, largest),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def _engine_cache(component: str, manifest: Manifest) -> Path:
    from moir_edge.bundle.engines import component_sha256
    from moir_edge.runtime.tensorrt.kernel_cache import cache_folder

    folder = cache_folder("ort-tensorrt") / component_sha256(manifest, component)[:32]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # nobody else may write what is run
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot make {folder}, where compiled engines are kept: {error.strerror}; set XDG_CACHE_HOME to another folder"
        ) from error
    return folder


def _each(choose: Any, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(choose(sizes) for sizes in zip(*shapes, strict=True))


def _shapes(inputs: tuple[TensorSpec, ...], shapes: list[tuple[int, ...]]) -> str:
    return ",".join(
        f"{spec.name}:{'x'.join(map(str, shape))}"
        for spec, shape in zip(inputs, shapes, strict=True)
    )


def _available() -> list[str]:
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _require_provider(provider: GraphProvider) -> None:
    """Refuse a provider that this ONNX Runtime lacks, or whose libraries or driver this machine lacks."""
    if _EXECUTION[provider][0] not in _available():
        has = [name for name, execution in _EXECUTION.items() if execution[0] in _available()]
        raise EnvironmentProblem(
            f"this onnxruntime offers no {provider} provider (it has {', '.join(has)}); it comes with onnxruntime-gpu, "
            f"which replaces onnxruntime: `{CUDA_PACKAGE}`"
        )
    problem = None if provider == "cpu" else cuda_problem()
    if problem is not None:
        raise EnvironmentProblem(
            f"the {provider} provider cannot start: {problem}, or run with `provider='cpu'`"
        )


def _session_options(
    threads: int | None,
    component: str,
    precision: str,
    *,
    exact: bool,
    wait: ThreadWait | None = None,
) -> Any:
    import onnxruntime

    options = session_options(threads, wait)
    version = onnxruntime.__version__
    for key, value in session_config(component, precision, version, exact=exact).items():
        options.add_session_config_entry(key, value)
    return options
