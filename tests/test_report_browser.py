"""The report in a real browser: nothing goes wrong, nothing is asked for, and its controls do what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_folder import TINY, make_folder

from chromium import find, grounds, nameless, on_paper, requests, webdriver, window
from protoseg.cli import main

HOSTILE = '<img src="http://127.0.0.1:9/x" onerror="alert(1)">'
"""A class name that would ask for something, were it markup."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = make_folder(folder / "data", train=6, labeled=3, test=4, classes=("ground", HOSTILE, "disc"))
    words = ["--steps", "8", "--log-every", "2", "--consistency.warmup_steps", "2", "--baseline", "--out", str(folder / "out")]
    assert main(["train", str(data), *TINY, *words]) == 0
    return folder / "out/report.html"


def test_no_errors_and_no_requests(browser: Any, page: Path) -> None:
    for slider in browser.find_elements("css selector", "input, select"):
        browser.execute_script("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", slider)
    assert browser.get_log("browser") == []
    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert asked == [page.as_uri()]
    images = "return [...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert browser.execute_script(images) == 0
    assert browser.execute_script("return document.images.length") == 4 * 4


def test_the_line_between_two_pictures_moves(browser: Any) -> None:
    keys = webdriver.common.keys.Keys
    slider, stack = find(browser, ".wipe"), find(browser, ".stack")
    left, right = find(browser, ".stack .left"), find(browser, ".stack .right")
    assert (left.get_attribute("data-layer"), right.get_attribute("data-layer")) == ("truth", "ours")
    slider.send_keys(keys.ARROW_RIGHT, keys.ARROW_RIGHT)
    assert left.value_of_css_property("clip-path") == "inset(0px 48% 0px 0px)"
    assert right.value_of_css_property("clip-path") == "inset(0px 0px 0px 52%)"
    assert browser.execute_script("return getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    # A quarter of the picture to the left of its middle.
    width = stack.rect["width"]
    actions = webdriver.ActionChains(browser)
    actions.move_to_element(stack).click_and_hold().move_by_offset(-round(width / 4), 0).release().perform()
    assert abs(int(slider.get_attribute("value")) - 25) <= 1
    second = browser.find_elements("css selector", ".wipe")[1]
    assert second.get_attribute("value") == "50"


def test_other_pictures_can_be_chosen(browser: Any) -> None:
    find(browser, "#right").send_keys("labels only")
    shown = browser.find_elements("css selector", ".layer.right")
    assert [layer.get_attribute("data-layer") for layer in shown] == ["labels only"] * 4
    find(browser, "#left").send_keys("image")
    assert browser.find_elements("css selector", ".layer.left") == []
    opacity = find(browser, "#opacity")
    browser.execute_script("arguments[0].value = 30; arguments[0].dispatchEvent(new Event('input'))", opacity)
    assert find(browser, ".layer.right img").value_of_css_property("opacity") == "0.3"


def test_curves_tell_their_numbers(browser: Any) -> None:
    keys = webdriver.common.keys.Keys
    chart, output = find(browser, ".chart"), find(browser, ".plot output")
    points = json.loads(chart.get_attribute("data-points"))
    chart.send_keys(keys.HOME)
    assert output.text.startswith(f"step {points['x'][0]:g}: loss {points['values'][0][0]}")
    chart.send_keys(keys.ARROW_RIGHT)
    assert output.text.startswith(f"step {points['x'][1]:g}: loss {points['values'][0][1]}")
    chart.send_keys(keys.END)
    assert output.text.startswith(f"step {points['x'][-1]:g}:")


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nothing_sticks_out_of_the_window(browser: Any, width: int) -> None:
    with window(browser, width):
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert find(browser, "h1").is_displayed()


def test_all_that_can_be_used_or_seen_has_a_name(browser: Any) -> None:
    assert nameless(browser) == []


def test_a_long_name_in_a_list_does_not_widen_the_page_of_a_phone(browser: Any) -> None:
    with window(browser, 390):
        browser.execute_script(
            "for (const one of document.querySelectorAll('option')) one.textContent = 'a_long_name_'.repeat(9)"
        )
        for select in browser.find_elements("css selector", "select"):
            assert 0 < select.rect["width"] < 390
            assert select.rect["x"] + select.rect["width"] <= 390
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_dark_where_the_reader_likes_it_dark(browser: Any) -> None:
    light, dark = grounds(browser, "body")
    assert light > 700
    assert dark < 100


def test_paper_shows_all_pictures_side_by_side(browser: Any) -> None:
    with on_paper(browser):
        layers = browser.find_elements("css selector", ".stack:first-child > div")[:4]
        assert all(layer.is_displayed() and layer.value_of_css_property("clip-path") == "none" for layer in layers)
        assert len({round(layer.rect["x"]) for layer in layers}) == 4
        assert not find(browser, ".controls").is_displayed()
