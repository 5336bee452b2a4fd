"""A headless Chromium for tests of pages; where there is none, they are skipped with the reason."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; it is in protoseg[dev]")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver", allow_module_level=True)


@contextmanager
def started_browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    # The page scrolls smoothly for who has not asked for less motion: a pointer would meet what is still moving.
    options.add_argument("--force-prefers-reduced-motion")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def opened(browser: Any, page: Path | str) -> Any:
    """The browser with a file or an address open, at the size of a laptop, and nothing in its logs from before."""
    browser.set_window_size(1400, 1000)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page if isinstance(page, str) else page.as_uri())
    # On a busy machine the driver may take the empty page's end for that of the new one, and come back amid its loading.
    loaded = "return location.href !== 'about:blank' && document.readyState === 'complete'"
    until(lambda: browser.execute_script(loaded))
    return browser


def requests(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.05)


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


NAMED = {
    "application",
    "button",
    "checkbox",
    "combobox",
    "image",
    "link",
    "radio",
    "region",
    "searchbox",
    "slider",
    "table",
}
"""Roles of what a screen reader calls by a name."""


def nameless(browser: Any) -> list[str]:
    """Roles of what is on the page without a name, by the tree that Chromium gives to screen readers."""
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert any(role == "heading" for role, _ in seen)
    return [role for role, name in seen if role in NAMED and not name.strip()]


@contextmanager
def window(browser: Any, width: int) -> Iterator[None]:
    """The page as a window of that many pixels shows it; below 500 it is a phone's."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def grounds(browser: Any, selector: str) -> list[int]:
    """How bright the ground of an element is, the sum of three bytes, for readers who like it light and dark."""
    bright = []
    for scheme in ("light", "dark"):
        feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        color = find(browser, selector).value_of_css_property("background-color")
        bright.append(sum(int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    return bright


@contextmanager
def on_paper(browser: Any) -> Iterator[None]:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
