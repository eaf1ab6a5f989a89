"""The candidates of `bench`: every bundle on every provider, and the reference beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from moir_edge.bundle import Bundle, open_bundle
from moir_edge.data.rows import Row
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates import CandidateSpec, spec_of, specs_of
from moir_edge.evaluation.identity import identify_same
from moir_edge.evaluation.opening import Opened, loaded_processes
from moir_edge.evaluation.parity.settings import BenchSettings
from moir_edge.evaluation.parity.speed import ENGINE_PROVIDERS
from moir_edge.evaluation.process import CandidateProcess
from moir_edge.evaluation.provenance import ModelIdentity
from moir_edge.evaluation.settings import for_each_share
from moir_edge.precisions import FP32
from moir_edge.runtime.providers import graph_provider
from moir_edge.threads import default_threads

__all__ = [
    "identify_models",
    "open_bundles",
    "open_reference",
    "plan_candidates",
]

_NO_REFERENCE = (
    "parity needs an fp32 reference to compare numbers with; "
    "give `reference=CHECKPOINT` or BUNDLE, or name an fp32 bundle besides others"
)


def identify_models(settings: BenchSettings) -> tuple[ModelIdentity, ...]:
    """Identify every bundle, then the reference if one is named, and refuse one of another model than the first.

    Raises:
        DataError: Two of them are different models and `allow_other` is off, or one is given twice.
        BundleError: One is not a bundle.
    """
    for path in settings.bundles:
        open_bundle(
            path, verify=False
        )  # a checkpoint in a bundle's place is refused before it is hashed
    specs = _bundle_specs(settings)
    if settings.reference is not None:
        reference = _reference_spec(settings, settings.reference)
        specs.append(replace(reference, name=f"the reference {reference.name}"))
    return identify_same(specs, allow_other=settings.allow_other)


def open_bundles(settings: BenchSettings) -> dict[str, Bundle]:
    """Open and verify every bundle, by its path as given.

    Raises:
        BundleError: One is not a bundle, or damaged.
        DataError: One has another shape than the first, so that the same prompts do not fit both.
    """
    bundles = {str(path): open_bundle(path) for path in settings.bundles}
    first = next(iter(bundles.values()))
    for bundle in bundles.values():
        _check_shape(bundle, first)
    return bundles


def plan_candidates(settings: BenchSettings, bundles: Mapping[str, Bundle]) -> list[CandidateSpec]:
    """Return what is to be loaded: each bundle on each provider.

    Without providers each bundle is run by the runtime's own choice. Under parity, engines of a bundle that has some stand
    beside its graphs in ONNX Runtime, so that a device that cannot run them says so.

    Raises:
        DataError: A bundle is given twice, or parity has no reference.
    """
    planned = []
    for spec in _bundle_specs(settings):
        engines = bundles[spec.source].manifest.engines
        providers: Sequence[str | None] = settings.providers or (None,)
        if settings.parity and engines and not settings.providers:
            providers = (graph_provider(), *ENGINE_PROVIDERS)
        planned += [
            replace(
                spec,
                provider=one,
                name=f"{spec.name} on {one}" if len(providers) > 1 and one else spec.name,
            )
            for one in providers
        ]
    planned = for_each_share(planned, settings.prune_image_tokens, settings.prune_by)
    fp32 = any(one.manifest.precision == FP32 for one in bundles.values())
    if settings.parity and settings.reference is None and not (fp32 and len(planned) > 1):
        raise DataError(_NO_REFERENCE)
    return planned


def _bundle_specs(settings: BenchSettings) -> list[CandidateSpec]:
    return specs_of(
        settings.bundles,
        threads=settings.threads or default_threads(),
        max_new_tokens=settings.max_new_tokens,
        hub=(),
    )


def _reference_spec(settings: BenchSettings, reference: str) -> CandidateSpec:
    return spec_of(
        reference,
        threads=settings.threads or default_threads(),
        max_new_tokens=settings.max_new_tokens,
        hub=True,
    )


def open_reference(
    stack: ExitStack,
    settings: BenchSettings,
    opened: Sequence[Opened],
    bundles: Mapping[str, Bundle],
    rows: Sequence[Row],
    folder: Path,
) -> CandidateProcess:
    """Return the process that numbers are compared with.

    A checkpoint is exported to an fp32 bundle first, which the export holds against torch: its components can then be
    fed one by one.

    Raises:
        DataError: There is none, or it has another shape.
    """
    if settings.reference is None:
        return _first_fp32(opened, bundles)
    spec = _reference_spec(settings, settings.reference)
    if spec.kind == "checkpoint":
        spec = replace(spec, source=str(_exported(settings.reference, folder)), kind="bundle")
    _check_shape(open_bundle(spec.source), next(iter(bundles.values())))
    return stack.enter_context(CandidateProcess(replace(spec, provider="cpu"), rows))


def _first_fp32(opened: Sequence[Opened], bundles: Mapping[str, Bundle]) -> CandidateProcess:
    for process in loaded_processes(opened):
        if bundles[process.spec.source].manifest.precision == FP32:
            return process
    raise DataError(_NO_REFERENCE)


def _exported(checkpoint: str, folder: Path) -> Path:
    from moir_edge.environment import require

    require("torch", "transformers", "onnx", "onnxscript", "onnx_ir")
    from moir_edge.export import export_bundle

    return export_bundle(checkpoint, folder / "reference")


def _check_shape(bundle: Bundle, first: Bundle) -> None:
    """Refuse a model whose sizes or token ids differ: no flag makes the same prompts fit both."""
    own, others = bundle.manifest.model, first.manifest.model
    names = [name for name in type(own).model_fields if getattr(own, name) != getattr(others, name)]
    if names:
        raise DataError(
            f"{bundle.path} has another shape than {first.path} (they differ in {', '.join(names)}), so the same "
            "prompts do not fit both; bench each model on its own"
        )
