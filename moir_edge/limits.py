"""Bounds on what a file or a prompt may ask of this machine, each with its reason; docs/security.md lists them."""

from __future__ import annotations

__all__ = [
    "BMP_RUNS_PIXELS",
    "CACHED_IMAGE_PIXELS",
    "CHARACTERS_PER_TOKEN",
    "COMPILED_GRAPH_BYTES",
    "CONVERSATION_DEPTH",
    "CONVERSATION_PARTS",
    "DATA_SET_BYTES",
    "GIF_HEAD_BYTES",
    "GRAPH_BYTES",
    "IMAGE_EDGE",
    "IMAGE_FILE_EXTRA_BYTES",
    "IMAGE_PARTS",
    "INDEX_BYTES",
    "JPEG_SCANS",
    "JSON_BYTES",
    "KERNEL_CACHE_BYTES",
    "LARGE_IMAGES_OF_A_ROW",
    "MAX_IMAGE_PIXELS",
    "MOST_ASPECT",
    "MOST_IMAGE_PIXELS",
    "MOST_IMAGE_SIDE",
    "PREPACKED_BYTES",
    "PROMPT_BYTES",
    "REPORT_BYTES",
    "REQUESTS_BYTES",
    "REQUEST_BYTES",
    "REQUEST_IMAGES",
    "REQUEST_PARTS",
    "REQUEST_SECONDS",
    "REQUEST_VALUES",
    "SAFETENSORS_HEADER_BYTES",
    "SETTINGS_VALUES",
    "STATISTICS_BYTES",
    "STOP_CHARACTERS",
    "TEMPLATE_BYTES",
    "TEMPLATE_INTEGER",
    "TEMPLATE_SECONDS",
    "TEMPLATE_WORK",
    "THREADS",
    "TOKENIZER_BYTES",
    "TRAINING_LOG_BYTES",
]

JSON_BYTES = 4 << 20
"""One JSON file of settings: empty lists take 22 times their text in memory, and the largest manifest so far has 0.3 MB."""

SETTINGS_VALUES = 100_000
"""Values in a manifest or a generation config: one of a wrong type costs about 2 kB, and the largest manifest so far has 20,000."""

INDEX_BYTES = 64 << 20
"""An index of weights: about 100 bytes for each tensor of a model with hundreds of experts in each layer."""

DATA_SET_BYTES = 1 << 30
"""A published data set in one JSON file: VQA-v2's answers of the training split, the largest, have 0.4 GB."""

GRAPH_BYTES = 256 << 20
"""An ONNX graph without its weights: a decoder of 80 layers has about 1 MB."""

TOKENIZER_BYTES = 64 << 20
"""A `tokenizer.json`: the largest vocabulary in use, of 262,144 tokens, takes 33 MB."""

REPORT_BYTES = 64 << 20
"""A report that is read back: figures of every layer, or of every row and candidate."""

SAFETENSORS_HEADER_BYTES = 100_000_000
"""The header of a safetensors file, as the library bounds it."""

TEMPLATE_BYTES = 128 << 10
"""The source of a chat template: the longest in use, with tools and reasoning, have about 20 kB."""

TEMPLATE_WORK = 64 << 20
"""Bytes of texts and values that one rendering of a chat template may make, besides 64 times those of the conversation."""

TEMPLATE_SECONDS = 2
"""Processor time of one rendering; a long conversation takes milliseconds."""

TEMPLATE_INTEGER = 10_000
"""The largest width or count that a template may give to a method, as to ``center``."""

CHARACTERS_PER_TOKEN = 512
"""Characters that one token of a prompt may stand for on average; the longest tokens in use are runs of 128 blanks or so."""

PROMPT_BYTES = 32 << 20
"""A prompt on standard input, or a row of data: 256 bytes for each token of a context of 131,072."""

CONVERSATION_DEPTH = 64
"""Levels of lists and objects in a conversation: turns, parts and the arguments of tools take about ten."""

CONVERSATION_PARTS = 1_000_000
"""Strings, numbers, lists and objects in a conversation: a context of 131,072 tokens has room for a tenth."""

STOP_CHARACTERS = 16_384
"""Stop strings of one answer, all together: each new token compares the answer's end with each beginning of them."""

MAX_IMAGE_PIXELS = 4096 * 3072
"""Pixels of an image unless the user sets another number: a WebP file takes 16 bytes for each while it is decoded, the most of all."""

MOST_IMAGE_PIXELS = 178_956_970
"""The largest number that a user can set: Pillow opens nothing larger."""

CACHED_IMAGE_PIXELS = 1 << 24
"""Pixels of the decoded images of data rows that are kept, 67 MB: 64 of 512 px square."""

LARGE_IMAGES_OF_A_ROW = 4
"""Images as large as can be that one row of data may have, or more that are smaller: all are decoded at once, 201 MB."""

MOST_ASPECT = 200
"""Longer over shorter side of an image in data rows: transformers' processors make the shorter side a few hundred pixels."""

IMAGE_EDGE = 1 << 14
"""Sides that an image processor may resize to: towers in use look at 4,096 pixels at most."""

MOST_IMAGE_SIDE = 65_535
"""The longest side of an image, in pixels: that of JPEG and GIF; to resize a longer one takes 48 bytes for each pixel of the side."""

IMAGE_FILE_EXTRA_BYTES = 1 << 20
"""Bytes of an image file beyond those that its pixels can take: headers, profiles, previews."""

IMAGE_PARTS = 1 << 16
"""Chunks or segments of an image file: encoders write 8 kB or more in each, so this is ten times what a file may have."""

JPEG_SCANS = 100
"""Scans of a JPEG file: encoders write about ten, and each one costs a pass over the whole picture."""

GIF_HEAD_BYTES = 256 << 10
"""Comments and other data before the first picture of a GIF file: Pillow reads them a block at a time."""

BMP_RUNS_PIXELS = 1 << 20
"""Pixels, and bytes, of a BMP file that is stored as runs: Pillow decodes those in Python, a second for each million."""

TRAINING_LOG_BYTES = 256 << 20
"""The Trainer's record in a training checkpoint: about 400 bytes for each log entry, one for every ten steps."""

KERNEL_CACHE_BYTES = 1 << 30
"""Kernels that TensorRT-RTX compiled for one engine: the demo's take 1 MB, and a larger model repeats the same ones."""

COMPILED_GRAPH_BYTES = 2 << 30
"""A graph that OpenVINO compiled, with its weights: it is made in memory, and quantized weights of 2 GB are those of 4B parameters."""

STATISTICS_BYTES = 1 << 30
"""Statistics that a calibration gathers in one pass over its rows: layers past it wait for a further pass."""

PREPACKED_BYTES = 2 << 30
"""Float weights that ONNX Runtime may widen and lay out anew in memory for a calibration; larger ones stay in their files."""

THREADS = 1_024
"""Threads of one operator: no processor that runs such models has more cores, and each thread takes 8 MB of address space."""

REQUEST_BYTES = 64 << 20
"""One request over HTTP: an image at the bound of pixels without compression, in base64, and room for the rest."""

REQUESTS_BYTES = 256 << 20
"""Requests over HTTP that arrive at a time, and likewise the images of those that wait: a board with 8 GB has room for both."""

REQUEST_IMAGES = 8
"""Images of one request over HTTP: with 576 tokens each they fill a context of 4,096."""

REQUEST_PARTS = 4_096
"""Messages of a request over HTTP, and parts of a message: checking them takes 0.1 s, in which no other request is taken."""

REQUEST_SECONDS = 30
"""Time in which a request over HTTP has to arrive: 64 MiB by a wireless link of 20 Mbit/s, and slow clients go."""

REQUEST_VALUES = 1_000_000
"""Values in a request over HTTP, by its marks between them: their parsing takes about 0.1 s, and 70 MB where all are empty lists."""
