"""The page of `moir-edge serve` in a real headless browser, which reaches nothing but the server."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.serve.process import KEY, ServerProcess
from moir_edge import load
from moir_edge.runtime import EdgeModel

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="no Chromium here; `make browser` brings it",
)
QUESTION = "What is the largest digit?"
DROP = """
(file) => {
  const bytes = Uint8Array.from(atob(file), (one) => one.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], "scene.png", { type: "image/png" }));
  return held;
}
"""


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(demo_bundle, "--name", "demo", "--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> EdgeModel:
    return load(demo_bundle, threads=1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The loaded page; in the end nothing was on its console and all that it asked for was the server's."""
    context = browser.new_context(viewport={"width": 1000, "height": 1000})
    found = context.new_page()
    found.set_default_timeout(30_000)
    told: list[str] = []
    asked: list[str] = []
    found.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    found.on("pageerror", lambda error: told.append(str(error)))
    found.on("request", lambda request: asked.append(request.url))
    found.goto(f"{server.url}/")
    found.get_by_label("API key").fill(KEY)
    found.get_by_label("API key").press("Tab")
    found.get_by_text("router in the bundle").wait_for()
    yield found
    context.close()
    assert told == []
    assert len(asked) > 4
    assert {url.startswith((f"{server.url}/", "data:")) for url in asked} == {True}


def drop(page: Page, image: Path) -> None:
    """Drop a file on the page."""
    held = page.evaluate_handle(DROP, base64.b64encode(image.read_bytes()).decode())
    page.dispatch_event("#drop", "drop", {"dataTransfer": held})
    page.get_by_text("scene.png").wait_for()


def done(page: Page, times: int = 1) -> None:
    page.wait_for_selector(f"body[data-done='{times}']")


def ask(page: Page, image: Path) -> None:
    drop(page, image)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_label("Question").press("Control+Enter")
    done(page)


def test_an_image_is_dropped_and_the_answer_and_the_map_come(
    page: Page, model: EdgeModel, demo_image: Path
) -> None:
    drop(page, demo_image)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask").click()
    done(page)
    answer = model.generate(QUESTION, demo_image).texts[0]
    assert page.locator("article .text").inner_text() == answer
    routing = model.routing_map(QUESTION, demo_image).to_dict()
    words = page.locator("article .words button").all_inner_texts()
    assert words == [one["word"].strip() for one in routing["text_scores"]]
    sources = {one["position"] for token in routing["routed"] for one in token["sources"]}
    assert page.locator("article .cells button").count() == len(sources)
    assert "first token" in page.locator("article .timings").inner_text()


def test_cells_lie_where_the_map_says(page: Page, model: EdgeModel, demo_image: Path) -> None:
    ask(page, demo_image)
    picture = page.locator("article .picture img").bounding_box()
    routed = model.routing_map(QUESTION, demo_image).to_dict()["routed"]
    cells = {one["position"]: one["cell"]["box"] for token in routed for one in token["sources"]}
    boxes = [one.bounding_box() for one in page.locator("article .cells button").all()]
    assert picture is not None
    for box, position in zip(boxes, sorted(cells), strict=True):
        assert box is not None
        left, top, right, bottom = cells[position]
        # Half a pixel: the browser rounds the edges of boxes.
        assert box["x"] == pytest.approx(picture["x"] + left * picture["width"], abs=0.5)
        assert box["y"] == pytest.approx(picture["y"] + top * picture["height"], abs=0.5)
        assert box["width"] == pytest.approx((right - left) * picture["width"], abs=1)
        assert box["height"] == pytest.approx((bottom - top) * picture["height"], abs=1)


def test_the_router_is_compared_on_and_off(page: Page, model: EdgeModel, demo_image: Path) -> None:
    drop(page, demo_image)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Compare router on and off").click()
    done(page)
    cards = page.locator("article")
    assert cards.locator("h2").all_inner_texts() == ["Router on", "Router off"]
    assert cards.locator(".text").all_inner_texts() == [
        model.generate(QUESTION, demo_image, router=router).texts[0] for router in (True, False)
    ]
    assert cards.nth(0).locator(".cells button").count() > 0
    assert cards.nth(1).locator(".cells button").count() == 0
    first, second = (one.bounding_box() for one in cards.all())
    assert first is not None
    assert second is not None
    assert first["y"] == second["y"]  # side by side


def test_all_of_it_works_by_keyboard_and_has_names(page: Page, demo_image: Path) -> None:
    ask(page, demo_image)
    page.get_by_label("Question").focus()
    for role, name in [
        ("checkbox", "Router"),
        ("spinbutton", "Tokens"),
        ("button", "Ask"),
        ("button", "Compare router on and off"),
    ]:
        page.keyboard.press("Tab")
        assert page.get_by_role(role, name=name, exact=True).evaluate(  # type: ignore[arg-type]
            "(one) => one === document.activeElement"
        )
    page.keyboard.press("Tab")  # one stop for all cells
    focused = page.locator(":focus")
    assert (focused.get_attribute("aria-label") or "").startswith("cell ")
    assert page.locator("article .source").inner_text() == focused.get_attribute("aria-label")
    assert page.locator("article .words button.named").count() > 0
    before = focused.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").get_attribute("aria-label") != before
    page.keyboard.press("Tab")  # one stop for all words
    assert page.locator(".words :focus").count() == 1
    assert page.locator("article .cells button.named").count() > 0


def test_an_error_is_told_and_the_page_goes_on(page: Page, demo_image: Path) -> None:
    page.get_by_role("button", name="Ask").click()
    assert "The question is empty" in page.get_by_role("alert").inner_text()
    page.get_by_label("Tokens").fill("1")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask").click()
    done(page)
    assert page.get_by_role("alert").inner_text() == ""
    drop(page, demo_image)
    page.get_by_role("button", name="Remove the image").click()
    assert page.get_by_alt_text("The chosen image").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_light_and_dark(page: Page, scheme: Any, demo_image: Path) -> None:
    page.emulate_media(color_scheme=scheme)
    ask(page, demo_image)
    ink, paper = page.evaluate(
        "() => [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (luminance(ink) > luminance(paper)) == (scheme == "dark")
    for place in ("body", "textarea", "#send", ".words button", ".note"):
        colours = page.evaluate(COLOURS, place)
        light, dark = sorted(map(luminance, colours), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, place  # WCAG 2.2, AA


COLOURS = """
(place) => {
  const mix = (over, under) => {
    const [r, g, b, a = 1] = over.match(/[\\d.]+/g).map(Number);
    const below = under.match(/[\\d.]+/g).map(Number);
    return `rgb(${[r, g, b].map((one, at) => one * a + below[at] * (1 - a)).join(", ")})`;
  };
  const one = document.querySelector(place);
  const chain = [];
  for (let at = one; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
  const behind = chain.reduce((under, over) => mix(over, under), "rgb(255, 255, 255)");
  return [getComputedStyle(one).color, behind];
}
"""


def luminance(colour: str) -> float:
    """Return the relative luminance of an opaque colour, as WCAG has it."""
    values = [float(one) / 255 for one in re.findall(r"[\d.]+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in values]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
