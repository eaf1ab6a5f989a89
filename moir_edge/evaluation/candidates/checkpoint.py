"""A torch checkpoint as a candidate: transformers in float32 on the CPU, with its router if it has one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from moir_edge.data.answers import Answer, RoutingRow
from moir_edge.data.pictures import row_images
from moir_edge.data.rows import Row, check_prompts, first_refused
from moir_edge.environment import require
from moir_edge.errors import DataError
from moir_edge.evaluation.candidates.base import CandidateFacts, CandidateSpec, TimedAnswer
from moir_edge.evaluation.candidates.decoding import counts_padding, keep_what_bundles_apply
from moir_edge.precisions import FP32
from moir_edge.runtime.sampling import require_finite
from moir_edge.weights.files import weight_files

__all__ = ["CheckpointCandidate"]

# Names of the vision tower and of its projector in transformers' model classes.
_VISION_MODULES = ("vision_model", "vision_tower", "visual", "connector", "multi_modal_projector")
_ROUTER_MODULE = "moir_router"


class CheckpointCandidate:
    """A loaded checkpoint.

    Args:
        spec: What to load.

    Raises:
        EnvironmentProblem: torch or transformers is not installed.
        DataError: It is not whole, or has no chat template.
        UnsupportedError: It is not a vision-language model.
    """

    def __init__(self, spec: CandidateSpec) -> None:
        require("torch", "transformers")
        import torch

        from moir_edge.checkpoint import load_checkpoint, require_chat_template

        torch.set_num_threads(spec.threads)
        self._spec = spec
        self.checkpoint = load_checkpoint(spec.source, exported=False)
        self._model = self.checkpoint.model
        self._processor = self.checkpoint.processor
        require_chat_template(self._processor, spec.source)
        self._processor.tokenizer.padding_side = "left"
        self._end_tokens = frozenset(self.checkpoint.end_ids)
        config = self._model.generation_config
        config.eos_token_id = sorted(self._end_tokens)
        keep_what_bundles_apply(config)
        stop = config.stop_strings or ()
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self._alone = counts_padding(config)

    @property
    def facts(self) -> CandidateFacts:
        """Facts of this candidate."""
        import torch

        return CandidateFacts(
            precision=FP32,
            component_precisions={},
            weights_bytes=sum(file.stat().st_size for file in weight_files(self.checkpoint.folder)),
            has_router=hasattr(self._model, _ROUTER_MODULE),
            backend=f"PyTorch {torch.__version__} (cpu)",
            providers={"model": f"torch on {self._model.device}"},
        )

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer a batch of rows, one by one where the answer would depend on the padding of the batch."""
        if self._alone and len(rows) > 1:
            return [answer for row in rows for answer in self.answer([row])]
        inputs = self.encode(rows)
        return self._answers(self._generate(inputs, self._spec.max_new_tokens), inputs)

    def timed(self, row: Row, *, router: bool, max_new_tokens: int) -> TimedAnswer:
        """Answer one row; the vision modules and the router are timed by hooks."""
        row_images(row)
        with self._router(router), _timed_modules(self._model) as spent:
            clock = _TokenClock()
            inputs = self.encode([row])
            spent["preprocess"] = clock.elapsed_ms()
            sequences = self._generate(inputs, max_new_tokens, clock)
        ttft, *rest = clock.token_ms
        return TimedAnswer(
            answer=self._answers(sequences, inputs)[0],
            ttft_ms=ttft,
            component_ms={**spent, "prefill": ttft - sum(spent.values())},
            token_ms=tuple(rest),
        )

    def route(self, rows: Sequence[Row]) -> list[RoutingRow]:
        """Return the routing map of each row."""
        from moir_edge.router import last_routing

        inputs = self.encode(rows)
        with _captured_embeddings(self._model) as embeddings:
            self._generate(inputs, 1)
        routing: Any = last_routing(self._model)
        if routing is None:
            raise DataError("the router saw no image or no text in any of these rows")
        padding = (inputs["attention_mask"] == 0).sum(dim=1).tolist()
        return [_routing_row(routing, row, pad, embeddings[0]) for row, pad in enumerate(padding)]

    def _router(self, on: bool) -> AbstractContextManager[Any]:
        if on or not hasattr(self._model, _ROUTER_MODULE):
            return nullcontext()
        from moir_edge.router import router_disabled

        context: AbstractContextManager[Any] = router_disabled(self._model)
        return context

    @property
    def spec(self) -> CandidateSpec:
        """The loaded description."""
        return self._spec

    @property
    def model(self) -> Any:
        """The transformers model in float32 and evaluation mode, with its router if it has one."""
        return self._model

    @property
    def processor(self) -> Any:
        """The transformers processor; its tokenizer pads on the left."""
        return self._processor

    def encode(self, rows: Sequence[Row]) -> Any:
        """Return the model's inputs for a batch of rows, padded on the left."""
        try:
            return self._encoded(rows)
        except (ValueError, IndexError) as error:  # as for a prompt that holds an image token
            raise first_refused(rows, self._encoded, error) from error

    def _encoded(self, rows: Sequence[Row]) -> Any:
        check_prompts(rows, self.checkpoint.prompt_bound)
        return self._processor.apply_chat_template(
            [_conversation(row) for row in rows],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _generate(self, inputs: Any, max_new_tokens: int, clock: _TokenClock | None = None) -> Any:
        import torch

        with torch.inference_mode(), _finite_logits(self._model):
            return self._model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.checkpoint.pad_id,
                stopping_criteria=[clock] if clock else [],
                **({"tokenizer": self._processor.tokenizer} if self._stop else {}),
            )

    def _answers(self, sequences: Any, inputs: Any) -> list[Answer]:
        prompt_length = inputs["input_ids"].shape[1]
        answers = []
        for ids in sequences[:, prompt_length:].tolist():
            end = next((at for at, token in enumerate(ids) if token in self._end_tokens), len(ids))
            text = self._processor.tokenizer.decode(ids[:end], skip_special_tokens=True)
            before = min([at for stop in self._stop if (at := text.find(stop)) >= 0], default=None)
            answers.append(Answer(text=text[:before].strip(), token_ids=tuple(ids[:end])))
        return answers


@contextmanager
def _finite_logits(model: Any) -> Iterator[None]:
    """Refuse logits that are not finite, before generate() picks one of them."""
    step = 0

    def check(_: Any, __: Any, output: Any) -> None:
        nonlocal step
        last = output.logits[:, -1]
        if not last.isfinite().all():
            row = int((~last.isfinite()).any(-1).nonzero()[0])
            require_finite(
                last[row].float().numpy(), row, step, "the checkpoint's weights are damaged"
            )
        step += 1

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


class _TokenClock:
    """A stopping criterion that never stops; transformers calls it after every token."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.token_ms: list[float] = []

    def elapsed_ms(self) -> float:
        """Return the time since the clock was made or the last token."""
        return (time.perf_counter() - self._last) * 1000

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        self.token_ms.append(self.elapsed_ms())
        self._last = time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def _conversation(row: Row) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in row_images(row)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": row.text}]}]


@contextmanager
def _timed_modules(model: Any) -> Iterator[dict[str, float]]:
    """Give a dict that collects the milliseconds spent in the vision modules and in the router."""
    spent = {"preprocess": 0.0, "vision": 0.0}
    started: dict[str, float] = {}
    handles = []
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last not in (*_VISION_MODULES, _ROUTER_MODULE) or "vision" in name.rpartition(".")[0]:
            continue
        part = "router" if last == _ROUTER_MODULE else "vision"
        spent.setdefault(part, 0.0)

        def begin(*_: Any, key: str = name) -> None:
            started[key] = time.perf_counter()

        def end(*_: Any, key: str = name, part: str = part) -> None:
            spent[part] += (time.perf_counter() - started[key]) * 1000

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _captured_embeddings(model: Any) -> Iterator[list[Any]]:
    """Give a list that receives the embeddings (batch, sequence, hidden) on their way into the router."""
    captured: list[Any] = []

    def keep(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        captured.append(inputs[0] if inputs else named["inputs_embeds"])

    handle = getattr(model, _ROUTER_MODULE).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()


def _routing_row(routing: Any, row: int, padding: int, embeddings: Any) -> RoutingRow:
    """Cut one row out of the batch; tokens that stand for nothing (short rows) are left out."""
    image = routing.image_positions[row].numpy()
    text = routing.text_positions[row].numpy()
    valid = np.concatenate([image >= 0, routing.text_mask[row].numpy()])
    output = routing.output
    sources = output.indices[row].numpy()[valid]
    positions = np.concatenate([image, text])[valid]
    added = (output.inputs_embeds[row] - embeddings[row]).float().numpy()
    return RoutingRow(
        positions=positions - padding,
        sources=np.where(sources >= 0, sources - padding, -1),
        margins=output.margin[row].numpy()[valid],
        gates=output.gate[row].numpy()[valid],
        matched=embeddings[row].numpy()[np.maximum(sources[:, 0], 0)],
        added=added[positions],
    )
