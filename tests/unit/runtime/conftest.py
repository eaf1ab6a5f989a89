"""Tiny processors of both families, and a hand-built bundle whose answers numpy can compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from moir_edge.bundle import (
    ComponentEntry,
    Manifest,
    ModelFacts,
    SourceEntry,
    TensorSpec,
    seal,
    staged_bundle,
)

HIDDEN = 8
LAYERS = 2
SIDE = 12
TOKENS_PER_TILE = 4
FREQUENCIES = np.linspace(0.3, 2.9, HIDDEN, dtype=np.float32)

CORPUS = [
    "What is left of the red digit? A blue seven is left of it.",
    "Both images show a green four, true or false? Über naïve café 漢字 €",
    "Answer in one word: how many digits are there in the picture?",
]

SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """Return a maker of seeded noise images of (height, width)."""

    def make(height: int, width: int, seed: int = 0) -> Image.Image:
        rng = np.random.default_rng([seed, height, width])
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>"]
    specials += ["<fake_token_around_image>", "<global-img>"]
    specials += [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback_tokenizer() -> Tokenizer:
    """Return a tokenizer built like Llama's: metaspace, byte fallback, a start token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted(
        {letter for text in CORPUS for letter in text if letter.isascii() and letter != " "}
    )
    pieces += ["▁"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>", AddedToken("<image>", normalized=False)])
    return tokenizer


@pytest.fixture(scope="session")
def smolvlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the SmolVLM-256M checkpoint has it: tiles of 24 pixels, 96 at most, 4 tokens each."""
    folder = tmp_path_factory.mktemp("smolvlm")
    byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
        },
    )
    image_processor = {
        "image_processor_type": "SmolVLMImageProcessor",
        "size": {"longest_edge": 96},
        "max_image_size": {"longest_edge": 24},
        "do_image_splitting": True,
        "resample": 1,
    }
    _write_json(folder / "preprocessor_config.json", image_processor)
    _write_json(
        folder / "processor_config.json",
        {"processor_class": "Idefics3Processor", "image_seq_len": TOKENS_PER_TILE},
    )
    (folder / "chat_template.jinja").write_text(SMOLVLM_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as llava-hf checkpoints have it: a centre crop of 24 pixels, patches of 12."""
    folder = tmp_path_factory.mktemp("llava")
    byte_fallback_tokenizer().save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "TokenizersBackend",
            "bos_token": {
                "__type": "AddedToken",
                "content": "<s>",
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            },
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "</s>",
            "padding_side": "left",
        },
    )
    image_processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 24, "width": 24},
    }
    _write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "patch_size": 12,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "image_processor": image_processor,
        },
    )
    (folder / "chat_template.jinja").write_text(LLAVA_TEMPLATE, encoding="utf-8")
    return folder


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture(scope="session")
def facts_of() -> Callable[..., ModelFacts]:
    """Return a maker of model facts for a tokenizer folder."""

    def make(folder: Path, model_type: str, **changes: Any) -> ModelFacts:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        eos = "<end_of_utterance>" if model_type == "smolvlm" else "</s>"
        special = [
            index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
        ]
        known: dict[str, Any] = {
            "model_type": model_type,
            "hidden_size": HIDDEN,
            "num_layers": LAYERS,
            "num_kv_heads": 1,
            "head_dim": HIDDEN,
            "vocab_size": tokenizer.get_vocab_size(),
            "context_length": 512,
            "image_token_id": tokenizer.token_to_id("<image>"),
            "eos_token_ids": (tokenizer.token_to_id(eos),),
            "pad_token_id": tokenizer.token_to_id(
                "<|endoftext|>" if model_type == "smolvlm" else eos
            ),
            "special_token_ids": tuple(sorted(special)),
            "image_size": SIDE,
            "tokens_per_tile": TOKENS_PER_TILE,
        }
        return ModelFacts(**{**known, **changes})

    return make


class ReferenceModel:
    """The hand-built model in numpy: every token recomputed from the whole sequence, no cache."""

    def __init__(self, vocabulary: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.projection = rng.standard_normal((3, HIDDEN)).astype(np.float32)
        self.table = rng.standard_normal((vocabulary, HIDDEN)).astype(np.float32)
        self.head = rng.standard_normal((HIDDEN, vocabulary)).astype(np.float32)

    def image_features(self, pixel_values: np.ndarray) -> np.ndarray:
        """Return (images, 4, 8) from pixel values (images, 3, 12, 12)."""
        half = SIDE // 2
        blocks = pixel_values.reshape(-1, 3, 2, half, 2, half).mean(axis=(3, 5))
        return blocks.reshape(-1, 3, 4).transpose(0, 2, 1) @ self.projection

    def next_logits(self, embeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return (vocab,) logits after one unpadded row of embeddings (sequence, 8) at positions (sequence,)."""
        angles = positions.astype(np.float32)[:, None] * FREQUENCIES
        placed = embeds + 2 * np.sin(angles)
        last = placed[-1]
        mixed = last.copy()
        for key_scale, value_scale in ((1.0, 2.0), (3.0, -1.0)):
            similarity = 0.1 * (key_scale * placed) @ last
            weights = np.exp(similarity - similarity.max())
            mixed += (weights / weights.sum()) @ (value_scale * placed)
        return mixed @ self.head

    def greedy(
        self, embeds: np.ndarray, eos: int, count: int, positions: np.ndarray | None = None
    ) -> list[int]:
        """Return the greedy answer to one unpadded row of embeddings, at 0, 1, 2 and so on where no positions are given."""
        places = np.arange(len(embeds)) if positions is None else positions
        answer: list[int] = []
        while len(answer) < count and eos not in answer:
            answer.append(int(self.next_logits(embeds, places).argmax()))
            embeds = np.concatenate([embeds, self.table[answer[-1:]]])
            places = np.append(places, places[-1] + 1)
        return answer


@pytest.fixture(scope="session")
def reference(smolvlm_folder: Path) -> ReferenceModel:
    """The numpy twin of `tiny_bundle`."""
    return ReferenceModel(
        Tokenizer.from_file(str(smolvlm_folder / "tokenizer.json")).get_vocab_size()
    )


@pytest.fixture(scope="session")
def make_bundle(
    smolvlm_folder: Path, facts_of: Callable[..., ModelFacts], reference: ReferenceModel
) -> Callable[..., Path]:
    """Return a maker of hand-built bundles; images are not split, 4 tokens each."""

    def make(output: Path, *, router: bool = True, **changes: Any) -> Path:
        facts = facts_of(smolvlm_folder, "smolvlm", **changes)
        with staged_bundle(output) as folder:
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                (folder / name).write_bytes((smolvlm_folder / name).read_bytes())
            _write_json(
                folder / "preprocessor_config.json",
                {
                    "image_processor_type": "SmolVLMImageProcessor",
                    "do_image_splitting": False,
                    "size": {"longest_edge": SIDE},
                    "max_image_size": {"longest_edge": SIDE},
                },
            )
            graphs = _graphs(reference, router=router)
            components = {name: _save(folder, name, graph) for name, graph in graphs.items()}
            seal(folder, _manifest(facts, components, router=router))
        return output

    return make


@pytest.fixture(scope="session")
def tiny_bundle(make_bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hand-built bundle with a router."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def _manifest(
    facts: ModelFacts, components: dict[str, ComponentEntry], *, router: bool
) -> Manifest:
    return Manifest(
        created_with={"moir-edge": "0.1.0"},
        source=SourceEntry(name="hand-built", sha256="0" * 64, architecture="Tiny"),
        model=facts,
        target="cpu",
        precision="fp32",
        router={"version": 1} if router else None,
        router_sha256="0" * 64 if router else None,
        components=components,
        parity={"max_abs_error": {"vision": 0.0}},
    )


def _save(folder: Path, name: str, model: onnx.ModelProto) -> ComponentEntry:
    onnx.checker.check_model(model)
    onnx.save(model, folder / f"{name}.onnx")
    return ComponentEntry(
        graph=f"{name}.onnx",
        precision="fp32",
        tensor_bytes=sum(
            numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer
        ),
        inputs=tuple(_spec(value) for value in model.graph.input),
        outputs=tuple(_spec(value) for value in model.graph.output),
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    shape = tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()]
    graph = helper.make_graph(list(nodes), name, list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _graphs(reference: ReferenceModel, *, router: bool) -> dict[str, onnx.ModelProto]:
    graphs = {
        "vision": _vision(reference),
        "embedding": _model(
            "embedding",
            [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
            [_value("input_ids", INT, "batch", "sequence")],
            [_value("inputs_embeds", FLOAT, "batch", "sequence", HIDDEN)],
            {"table": reference.table},
        ),
        "decoder": _decoder(reference),
    }
    return {**graphs, "router": _router()} if router else graphs


def _vision(reference: ReferenceModel) -> onnx.ModelProto:
    half = SIDE // 2
    nodes = [
        helper.make_node(
            "AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[half] * 2, strides=[half] * 2
        ),
        helper.make_node("Reshape", ["pooled", "flat"], ["cells"]),
        helper.make_node("Transpose", ["cells"], ["tokens"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "projection"], ["image_features"]),
    ]
    return _model(
        "vision",
        nodes,
        [_value("pixel_values", FLOAT, "images", 3, SIDE, SIDE)],
        [_value("image_features", FLOAT, "images", TOKENS_PER_TILE, HIDDEN)],
        {"flat": np.array([0, 3, 4]), "projection": reference.projection},
    )


def _decoder(reference: ReferenceModel) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Cast", ["position_ids"], ["positions"], to=FLOAT),
        node("Unsqueeze", ["positions", "axis_2"], ["positions_3"]),
        node("Mul", ["positions_3", "frequencies"], ["angles"]),
        node("Sin", ["angles"], ["waves"]),
        node("Mul", ["waves", "two"], ["offset"]),
        node("Add", ["inputs_embeds", "offset"], ["placed"]),
        node("Unsqueeze", ["placed", "axis_1"], ["heads"]),
        node("Gather", ["placed", "minus_one"], ["last"], axis=1),
        node("Unsqueeze", ["last", "axis_1"], ["query"]),
        node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        node("Sub", ["mask", "one"], ["hidden"]),
        node("Mul", ["hidden", "far"], ["penalty"]),
        node("Unsqueeze", ["penalty", "axis_12"], ["penalty_4"]),
    ]
    mixed = "last"
    for layer, (key_scale, value_scale) in enumerate((("one", "two"), ("three", "minus"))):
        key, value = f"present.{layer}.key", f"present.{layer}.value"
        nodes += [
            node("Mul", ["heads", key_scale], [f"key{layer}"]),
            node("Concat", [f"past_key_values.{layer}.key", f"key{layer}"], [key], axis=2),
            node("Mul", ["heads", value_scale], [f"value{layer}"]),
            node("Concat", [f"past_key_values.{layer}.value", f"value{layer}"], [value], axis=2),
            node("Transpose", [key], [f"turned{layer}"], perm=[0, 1, 3, 2]),
            node("MatMul", ["query", f"turned{layer}"], [f"raw{layer}"]),
            node("Mul", [f"raw{layer}", "tenth"], [f"scaled{layer}"]),
            node("Add", [f"scaled{layer}", "penalty_4"], [f"masked{layer}"]),
            node("Softmax", [f"masked{layer}"], [f"weights{layer}"], axis=-1),
            node("MatMul", [f"weights{layer}", value], [f"taken{layer}"]),
            node("Squeeze", [f"taken{layer}", "axis_1"], [f"part{layer}"]),
            node("Add", [mixed, f"part{layer}"], [f"mixed{layer}"]),
        ]
        mixed = f"mixed{layer}"
    nodes.append(node("MatMul", [mixed, "head"], ["logits"]))
    cache = ("batch", 1)
    names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    inputs = [
        _value("inputs_embeds", FLOAT, "batch", "sequence", HIDDEN),
        _value("attention_mask", INT, "batch", "total_sequence"),
        _value("position_ids", INT, "batch", "sequence"),
        *(
            _value(f"past_key_values.{name}", FLOAT, *cache, "past_sequence", HIDDEN)
            for name in names
        ),
    ]
    outputs = [
        _value("logits", FLOAT, "batch", 1, reference.head.shape[1]),
        *(_value(f"present.{name}", FLOAT, *cache, "total_sequence", HIDDEN) for name in names),
    ]
    scalars = {"tenth": 0.1, "one": 1.0, "two": 2.0, "three": 3.0, "minus": -1.0, "far": 1e4}
    constants: dict[str, np.ndarray] = {key: np.float32(value) for key, value in scalars.items()}
    axes = {"axis_1": [1], "axis_2": [2], "axis_12": [1, 2], "minus_one": [-1]}
    constants |= {key: np.array(value) for key, value in axes.items()}
    return _model(
        "decoder",
        nodes,
        inputs,
        outputs,
        {**constants, "head": reference.head, "frequencies": FREQUENCIES},
    )


def _router() -> onnx.ModelProto:
    """Return a router that adds 0.5 to everything and reports figures that follow from positions."""
    node = helper.make_node
    nodes = [
        node("Add", ["inputs_embeds", "half"], ["routed_embeds"]),
        node("Concat", ["image_positions", "text_positions"], ["positions"], axis=1),
        node("Cast", ["positions"], ["floats"], to=FLOAT),
        node("Mul", ["floats", "hundredth"], ["router_scores"]),
        node("Mul", ["router_scores", "half"], ["router_margin"]),
        node("Mod", ["positions", "two"], ["odd"]),
        node("Cast", ["odd"], ["odd_float"], to=FLOAT),
        node("Mul", ["odd_float", "half"], ["router_gate"]),
        node("Gather", ["text_positions", "zero"], ["first_text"], axis=1),
        node("Gather", ["image_positions", "zero"], ["first_image"], axis=1),
        node("Shape", ["image_positions"], ["image_shape"]),
        node("Shape", ["text_mask"], ["text_shape"]),
        node("Expand", ["first_text", "image_shape"], ["for_images"]),
        node("Expand", ["first_image", "text_shape"], ["for_texts"]),
        node("Concat", ["for_images", "for_texts"], ["best"], axis=1),
        node("Unsqueeze", ["best", "axis_2"], ["router_indices"]),
    ]
    inputs = [
        _value("inputs_embeds", FLOAT, "batch", "sequence", HIDDEN),
        _value("image_positions", INT, "batch", "image_tokens"),
        _value("text_positions", INT, "batch", "text_tokens"),
        _value("text_mask", BOOL, "batch", "text_tokens"),
    ]
    outputs = [
        _value("routed_embeds", FLOAT, "batch", "sequence", HIDDEN),
        *(
            _value(f"router_{name}", FLOAT, "batch", "candidates")
            for name in ("scores", "margin", "gate")
        ),
        _value("router_indices", INT, "batch", "candidates", 1),
    ]
    constants = {
        "half": np.float32(0.5),
        "hundredth": np.float32(0.01),
        "two": np.array(2),
        "zero": np.array([0]),
        "axis_2": np.array([2]),
    }
    return _model("router", nodes, inputs, outputs, constants)
