from __future__ import annotations

import base64
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moir_edge.serve.errors import ApiError
from moir_edge.serve.images import ImageSources

CONTENT = b"not really a picture"


def refused(sources: ImageSources, url: str) -> ApiError:
    with pytest.raises(ApiError) as caught:
        sources.read(url, "url")
    return caught.value


def test_a_data_url_gives_its_bytes() -> None:
    url = "data:image/png;base64," + base64.b64encode(CONTENT).decode()
    assert ImageSources().read(url, "url") == CONTENT
    assert ImageSources().read(url.replace("data", "DATA", 1), "url") == CONTENT


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png,abc", "url is a data URL without base64 content"),
        ("data:image/png;base64,a*b=", "url is not base64"),
        ("ftp://host/x.png", "url begins with 'ftp://host/x.png'; expected a data URL"),
        ("x.png", "url begins with 'x.png'"),
        ("http://[broken", "url is not a URL"),
    ],
)
def test_a_url_that_is_no_image_is_refused(url: str, message: str) -> None:
    error = refused(ImageSources(hosts=("host",)), url)
    assert message in str(error)
    assert error.status == 400
    assert error.param == "url"


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded() -> None:
    sources = ImageSources(max_pixels=16)
    url = "data:image/png;base64," + "A" * (4 * sources.most_bytes)
    assert refused(sources, url).status == 413


def test_files_of_the_server_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(CONTENT)
    error = refused(ImageSources(), f"file://{tmp_path}/x.png")
    assert error.status == 403
    assert (
        "names a file of the server, which it does not allow; send the image as a data URL"
        in str(error)
    )


def test_files_come_from_the_allowed_folder_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a b.png").write_bytes(CONTENT)
    (inside / "link.png").symlink_to(outside / "a b.png")
    sources = ImageSources(folder=inside)
    assert sources.read(f"file://{inside}/a%20b.png", "url") == CONTENT
    for path in (
        f"{outside}/a%20b.png",
        f"{inside}/../out/a%20b.png",
        f"{inside}/link.png",
        inside,
        f"{inside}/no.png",
        f"{inside}/%00",
        f"{inside}/\ud800",
        "[",
    ):
        error = refused(sources, f"file://{path}")
        assert (error.status, str(error)) == (
            403,
            "url names no file in the folder that the server allows",
        )


@pytest.fixture
def site() -> Iterator[str]:
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            moved = self.path == "/moved"
            self.send_response(302 if moved else 200)
            if moved:
                self.send_header("Location", "/x.png")
            content = CONTENT * 1000 if self.path == "/slow" else CONTENT
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for at in range(len(content)):
                self.wfile.write(content[at : at + 1])
                if self.path == "/slow" and ended.wait(0.05):
                    return

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = False  # so that closing it waits for them

        def handle_error(self, *_: object) -> None:
            """Say nothing of a client that goes."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_fetched_from_allowed_hosts_alone(site: str) -> None:
    allowed = ImageSources(hosts=("127.0.0.1",))
    assert allowed.read(f"{site}/x.png", "url") == CONTENT
    error = refused(ImageSources(hosts=("localhost",)), f"{site}/x.png")
    assert error.status == 403
    assert "the host '127.0.0.1', which the server does not allow" in str(error)


def test_an_allowed_host_may_not_lead_elsewhere(site: str) -> None:
    error = refused(ImageSources(hosts=("127.0.0.1",)), f"{site}/moved")
    assert "cannot be fetched from 127.0.0.1" in str(error)


def test_a_host_that_sends_slowly_is_given_up(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moir_edge.serve.images._SECONDS", 1)
    error = refused(ImageSources(hosts=("127.0.0.1",)), f"{site}/slow")
    assert str(error) == (
        "url cannot be fetched from 127.0.0.1: it takes longer than 1 s; send the image as a data URL"
    )  # the whole takes a quarter of an hour
