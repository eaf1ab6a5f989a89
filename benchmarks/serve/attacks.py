"""Requests that mean harm, of many kinds, from one seed."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from benchmarks.serve.hostile import Attack
from benchmarks.serve.process import KEY

__all__ = ["hostile_requests"]


def hostile_requests(count: int, seed: int = 0) -> Sequence[Attack]:
    """Return requests of all kinds in turn, each drawn anew.

    Args:
        count: How many.
        seed: Of all of them.
    """
    generator = random.Random(seed)
    return [_KINDS[at % len(_KINDS)](generator) for at in range(count)]


def _chat(name: str, content: Any = "What is it?", **fields: Any) -> Attack:
    body = {"model": "demo", "messages": [{"role": "user", "content": content}], "max_tokens": 2}
    return Attack(name=name, content=json.dumps({**body, **fields}).encode())


def _picture(name: str, file: bytes, *, kind: str = "png") -> Attack:
    return _address(name, f"data:image/{kind};base64," + base64.b64encode(file).decode())


def _address(name: str, url: str) -> Attack:
    return _chat(name, [{"type": "image_url", "image_url": {"url": url}}])


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG file that claims a size and holds some bytes, compressed."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def _photo(generator: random.Random) -> bytes:
    stream = io.BytesIO()
    picture = Image.frombytes("RGB", (64, 64), generator.randbytes(64 * 64 * 3))
    picture.save(stream, generator.choice(("PNG", "JPEG", "WEBP")))
    return stream.getvalue()


def _broken_json(generator: random.Random) -> Attack:
    good = _chat("").content
    at = generator.randrange(1, len(good) - 1)
    return Attack(name="broken JSON", content=good[:at])


def _noise(generator: random.Random) -> Attack:
    return Attack(name="noise", content=generator.randbytes(generator.randrange(1, 10_000)))


def _deep(generator: random.Random) -> Attack:
    depth = generator.choice((1000, 20_000, 500_000))
    mark = generator.choice((b"[", b'{"a":'))
    return Attack(name="deep nesting", content=mark * depth)


def _many_values(generator: random.Random) -> Attack:
    one = generator.choice((b"[],", b"{},", b"0,", b'"",'))
    return Attack(name="many values", content=b'{"messages":[' + one * 2_000_000 + b"0]}")


def _wrong_type(generator: random.Random) -> Attack:
    names = ("max_tokens", "temperature", "top_p", "top_k", "seed", "stream", "stop", "logprobs")
    values: tuple[Any, ...] = ([], {}, [[]], {"a": 1}, "x" * 50, -1, 1e308, 2.5)
    name, value = generator.choice(names), generator.choice(values)
    if (name, value) in (("stop", "x" * 50), ("stop", [])) or value == 2.5:
        value = {}
    return _chat("wrong type", **{name: value})


def _wrong_message(generator: random.Random) -> Attack:
    one: Any = generator.choice(
        (
            None,
            5,
            [],
            {"role": "tool", "content": "x"},
            {"role": "user"},
            {"role": "user", "content": [{"type": "input_audio"}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": 5}]},
            {"content": "x"},
        )
    )
    return _chat("wrong message", messages=[one])


def _unknown_field(generator: random.Random) -> Attack:
    name = generator.choice(("moon", "__class__", "x" * 100_000, "\ud800", "n\u0000", "max_token"))
    return _chat("unknown field", **{name: 1})


def _unsupported(generator: random.Random) -> Attack:
    name, value = generator.choice(
        (
            ("n", 10**9),
            ("tools", [{}]),
            ("logit_bias", {"5": -100}),
            ("response_format", {"type": "json_object"}),
            ("best_of", 5),
            ("presence_penalty", 1),
        )
    )
    return _chat("not supported", **{name: value})


def _stops(generator: random.Random) -> Attack:
    return _chat("10,000 stop strings", stop=["y" * generator.randrange(2, 40)] * 10_000)


def _not_finite(generator: random.Random) -> Attack:
    value = generator.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000))
    return Attack(
        name="not finite", content=_chat("").content[:-1] + b', "temperature": %s}' % value
    )


def _long_words(generator: random.Random) -> Attack:
    word = generator.choice(("word ", "a", "\u0300", "<image>", "\U0001f600"))
    return _chat("long words", word * (1_000_000 // len(word)))


def _image_tokens(generator: random.Random) -> Attack:
    return _chat("image tokens in words", "<image>" * generator.randrange(1, 50))


def _many_images(generator: random.Random) -> Attack:
    url = "data:image/png;base64," + base64.b64encode(_photo(generator)).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    return _chat("many images", [part] * generator.randrange(9, 400))


def _cut_image(generator: random.Random) -> Attack:
    file = _photo(generator)
    return _picture("cut image", file[: generator.randrange(1, len(file) // 2)])


def _bomb(generator: random.Random) -> Attack:
    width, height = generator.choice(((50_000, 50_000), (65_536, 1), (30_000, 400), (0, 5)))
    return _picture("large image", _png(width, height, bytes(3_000_000)))


def _no_image(generator: random.Random) -> Attack:
    file = generator.choice((b"", b"GIF89a", b"<svg/>", b"%PDF-1.4", generator.randbytes(5000)))
    return _picture("not an image", file)


def _not_base64(generator: random.Random) -> Attack:
    rest = generator.choice((";base64,*" * 9, ",x", ";base64", ";base64,AAA", ""))
    return _address("not base64", "data:image/png" + rest)


def _elsewhere(generator: random.Random) -> Attack:
    url = generator.choice(
        (
            "http://127.0.0.1:1/x.png",
            "http://169.254.169.254/latest",
            "https://[::1]/x",
            "http://[broken",
            "file:///etc/passwd",
            "file://localhost/etc/shadow",
            "ftp://127.0.0.1/x",
            "gopher://127.0.0.1/x",
            "../../etc/passwd",
            "javascript:1",
            "\ud800",
        )
    )
    return _address("image elsewhere", url)


def _wrong_key(generator: random.Random) -> Attack:
    key = generator.choice((None, "", "Bearer", "Bearer x", f"Basic {KEY}", "Bearer \xe9", KEY))
    return Attack(name="wrong key", content=_chat("").content, headers={"Authorization": key})


def _wrong_host(generator: random.Random) -> Attack:
    host = generator.choice(("example.org", "localhost.example.org", "", "[", "a" * 5000))
    return Attack(name="wrong host", content=_chat("").content, headers={"Host": host})


def _wrong_form(generator: random.Random) -> Attack:
    kind = generator.choice((None, "text/plain", "application/x-www-form-urlencoded", "a" * 3000))
    return Attack(name="wrong form", content=_chat("").content, headers={"Content-Type": kind})


def _packed(generator: random.Random) -> Attack:
    content = zlib.compress(bytes(10_000_000))
    return Attack(
        name="compressed",
        content=content,
        headers={"Content-Encoding": generator.choice(("gzip", "deflate", "br", "x"))},
    )


def _huge_body(generator: random.Random) -> Attack:
    length = generator.choice((1 << 27, 1 << 40, 10**18))
    return Attack(name="huge body", content=b"{", headers={"Content-Length": str(length)})


def _bad_path(generator: random.Random) -> Attack:
    path = generator.choice(
        (
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/page/..%2f..%2fapp.py",
            "//etc/passwd",
            "/v1/models/../../x",
            "/v1/models/%00",
            "/" + "a" * 20_000,
            "/v1/models/" + "%ff" * 50,
            "/page.js/../worker.py",
            "http://example.org/",
        )
    )
    return Attack(name="path trick", method="GET", path=path)


def _bad_method(generator: random.Random) -> Attack:
    method = generator.choice(("DELETE", "PUT", "PATCH", "TRACE", "GET", "OPTIONS"))
    return Attack(name="wrong method", method=method)


def _bad_head(generator: random.Random) -> Attack:
    raw = generator.choice(
        (
            b"\r\n\r\n\r\n",
            b"GET\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 50_000 + b"\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            generator.randbytes(300) + b"\r\n\r\n",
        )
    )
    return Attack(name="broken head", raw=raw)


def _extreme(generator: random.Random) -> Attack:
    name, value = generator.choice(
        (("temperature", 1e-300), ("repetition_penalty", 1e300), ("repetition_penalty", 1e-300))
    )
    return _chat("extreme number", **{name: value})


def _many_turns(generator: random.Random) -> Attack:
    count = generator.choice((5_000, 50_000))
    if generator.random() < 0.5:
        return _chat("many turns", messages=[{"role": "user", "content": "x"}] * count)
    return _chat("many parts", [{"type": "text", "text": ""}] * count)


def _long_tokenize(generator: random.Random) -> Attack:
    text = generator.choice(("word ", "\u0300", "a")) * generator.choice((100_000, 2_000_000))
    body = {"model": "demo", "content": text}
    return Attack(name="long tokenize", path="/tokenize", content=json.dumps(body).encode())


def _bad_tokenize(generator: random.Random) -> Attack:
    body: Any = generator.choice(
        ([], {}, {"model": "demo"}, {"model": 5, "content": "x"}, "x", None)
    )
    return Attack(name="tokenize", path="/tokenize", content=json.dumps(body).encode())


_KINDS: Sequence[Callable[[random.Random], Attack]] = (
    _broken_json,
    _noise,
    _deep,
    _many_values,
    _wrong_type,
    _wrong_message,
    _unknown_field,
    _unsupported,
    _stops,
    _not_finite,
    _long_words,
    _image_tokens,
    _many_images,
    _cut_image,
    _bomb,
    _no_image,
    _not_base64,
    _elsewhere,
    _wrong_key,
    _wrong_host,
    _wrong_form,
    _packed,
    _huge_body,
    _bad_path,
    _bad_method,
    _bad_head,
    _bad_tokenize,
    _extreme,
    _many_turns,
    _long_tokenize,
)
