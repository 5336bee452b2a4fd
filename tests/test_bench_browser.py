"""The page of a benchmark in a real browser, on a laptop, a tablet and a phone, in light and dark."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.test_page import ROWS, keep, paint, written
from chromium import find, grounds, nameless, requests, until, webdriver, window


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench page")
    keep(folder, ROWS[0])
    rows = [*ROWS, *(one | {"labels": "8"} for one in ROWS)]
    for column in ("4", "8"):
        paint(folder, ROWS[0] | {"labels": column}, ["supervised", "fixmatch"])
    written(folder, [one | {"curve": [[5, one["miou"] / 2], [9, one["miou"]]], "confusion": [[9]]} for one in rows])
    return folder / "report.html"


def test_no_errors_and_no_requests(browser: Any, page: Path) -> None:
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]
    assert browser.execute_script("return [...document.images].every(image => image.naturalWidth > 0)")


def test_all_trainings_are_shown_when_asked_for(browser: Any) -> None:
    rows = browser.find_elements("css selector", "#made details tbody tr")
    assert len(rows) == 2 * len(ROWS)
    assert not rows[0].is_displayed()
    find(browser, "#made summary").click()
    assert rows[0].is_displayed()


def test_a_curve_tells_its_numbers(browser: Any) -> None:
    chart, told = (find(browser, f".curves {part}") for part in (".chart", "output"))
    assert not told.text
    chart.send_keys(webdriver.Keys.HOME)
    assert told.text.startswith("step 5: supervised 20.5 %, fixmatch 23.06 %")
    assert chart.rect["width"] <= 620


def test_the_report_of_a_kept_training_opens_from_the_disk(browser: Any) -> None:
    find(browser, "#made summary").click()
    (link,) = browser.find_elements("css selector", "details a")
    assert link.accessible_name == "report of supervised, labels 4, seed 0"
    link.click()
    until(lambda: browser.title == "its own report")
    browser.back()
    until(lambda: browser.title == "shapes: protoseg benchmark")
    assert browser.get_log("browser") == []


def test_each_number_of_labels_has_its_own_slider_between_any_two_methods(browser: Any) -> None:
    shown = "return [...document.querySelectorAll('.layer.right')].map(layer => layer.dataset.layer)"
    assert browser.execute_script(shown) == ["fixmatch"] * 4
    find(browser, "#labels-2-right").send_keys("truth")
    assert browser.execute_script(shown) == ["fixmatch"] * 2 + ["truth"] * 2
    find(browser, "#labels-1-left").send_keys("supervised")
    assert find(browser, "#labels-1 .layer.left .cap").text == "supervised"
    assert find(browser, "#labels-2 .layer.left .cap").text == "truth"


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nothing_is_wider_than_the_screen(browser: Any, width: int) -> None:
    with window(browser, width):
        browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_neither_options_nor_shares_are_broken(browser: Any) -> None:
    lines = """const all = [...document.querySelectorAll("main *")].filter((one) => /^(--.*|95 %)$/.test(one.textContent));
        return all.filter((one) => one.checkVisibility()).map((one) => [one.textContent, one.getClientRects().length]);"""
    for width in range(320, 440, 10):
        with window(browser, width):
            seen = browser.execute_script(lines)
            assert {"95 %"} <= {text for text, _ in seen}
            assert all(count == 1 for _, count in seen), (width, seen)


def test_all_that_can_be_used_or_seen_has_a_name(browser: Any) -> None:
    assert nameless(browser) == []


def test_light_and_dark(browser: Any) -> None:
    light, dark = grounds(browser, ".hero")
    assert light > 700
    assert dark < 150


def test_the_plot_is_as_light_or_dark_as_the_page(browser: Any) -> None:
    plot, source = (find(browser, f"#plot {part}") for part in ("img", "source"))
    light, dark = plot.get_property("src"), source.get_property("srcset")
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in (light, dark)]
    assert [np.median(np.asarray(picture)) for picture in pictures] == [255, 32]

    def shown(uri: str) -> None:  # a browser changes pictures when it has time
        until(lambda: plot.get_property("currentSrc") == uri)

    shown(light)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    shown(dark)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme | {"media": "print"})
    shown(light)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
