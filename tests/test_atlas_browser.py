"""The atlas in a real browser: nothing goes wrong, nothing is asked for, and its controls do what they say."""

from __future__ import annotations

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
    data = make_folder(folder / "data", train=6, labeled=3, test=2, classes=("ground", HOSTILE, "disc"))
    assert main(["train", str(data), *TINY, "--out", str(folder / "out")]) == 0
    assert main(["atlas", str(folder / "out"), str(data), "-o", str(folder / "my atlas.html")]) == 0
    return folder / "my atlas.html"


def test_no_errors_and_no_requests(browser: Any, page: Path) -> None:
    for control in browser.find_elements("css selector", "input, select"):
        browser.execute_script("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", control)
    assert browser.get_log("browser") == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]
    # Pictures far below the window are decoded when they come near it.
    images = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0, () => false)))"
    loaded = browser.execute_script(images)
    assert len(loaded) > 30
    assert all(loaded)


def test_a_class_stands_out_in_the_plane(browser: Any) -> None:
    dim = "return [...document.querySelectorAll('.plane .dim')].map(part => part.dataset.class)"
    assert browser.execute_script(dim) == []
    find(browser, "#highlight").send_keys("disc")
    assert set(browser.execute_script(dim)) == {"0", "1"}
    find(browser, "#highlight").send_keys(webdriver.common.keys.Keys.HOME)  # letters would be added to those before
    assert browser.execute_script(dim) == []


def test_one_kind_of_pixels_can_be_hidden(browser: Any) -> None:
    box, dots = find(browser, ".of-kind[value=unlabelled]"), find(browser, ".dots.unlabelled")
    assert dots.value_of_css_property("display") != "none"
    box.send_keys(webdriver.common.keys.Keys.SPACE)
    assert dots.value_of_css_property("display") == "none"
    assert find(browser, ".dots.labelled").value_of_css_property("display") != "none"
    box.send_keys(webdriver.common.keys.Keys.SPACE)
    assert dots.value_of_css_property("display") != "none"


def test_pictures_over_whole_images_can_be_chosen(browser: Any) -> None:
    shown = "return [...document.querySelectorAll('.layer.right')].map(layer => layer.dataset.layer)"
    assert browser.execute_script(shown) == ["which prototype"] * 5
    find(browser, "#right").send_keys("disagreement")
    assert browser.execute_script(shown) == ["disagreement"] * 5
    assert find(browser, ".layer.right .cap").text == "disagreement"


def test_links_lead_to_the_classes(browser: Any) -> None:
    for link in browser.find_elements("css selector", ".jump a"):
        link.click()
        target = find(browser, f"#{link.get_attribute('href').partition('#')[2]}")
        assert abs(browser.execute_script("return arguments[0].getBoundingClientRect().top", target)) < 900
        assert target.find_element("css selector", "h3").text == link.text


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nothing_sticks_out_of_the_window(browser: Any, width: int) -> None:
    with window(browser, width):
        # What lies far below is only laid out when it comes near.
        browser.execute_script("document.querySelectorAll('.of-class').forEach(s => s.style.contentVisibility = 'visible')")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        boxes = (
            "return [...document.querySelectorAll('.card > *, .plane, h3, .regions img')].map(x => x.getBoundingClientRect())"
        )
        assert [box for box in browser.execute_script(boxes) if box["left"] < 0 or box["right"] > width] == []
        assert find(browser, "h1").is_displayed()


def test_all_that_can_be_used_or_seen_has_a_name(browser: Any) -> None:
    assert nameless(browser) == []


def test_dark_where_the_reader_likes_it_dark(browser: Any) -> None:
    light, dark = grounds(browser, ".card")
    assert light > 700
    assert dark < 150


def test_paper_shows_every_picture(browser: Any) -> None:
    with on_paper(browser):
        layers = browser.find_elements("css selector", ".stack:first-child > div")[:6]
        assert all(layer.is_displayed() for layer in layers)
        assert len({round(layer.rect["x"]) for layer in layers}) == 3
        assert not find(browser, ".controls").is_displayed()
