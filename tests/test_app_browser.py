"""The app in a real browser: dropped, chosen and clicked, what is shown is what the model says, and nobody else is asked."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from make_folder import TINY, draw_shapes, make_folder, write_image, write_index
from PIL import Image

from chromium import find, grounds, nameless, opened, requests, until, webdriver, window
from protoseg.app.desk import Desk
from protoseg.app.gallery import Gallery, list_folder
from protoseg.app.models import Models, choices
from protoseg.app.page import render
from protoseg.app.server import Server
from protoseg.atlas.pictures import shades
from protoseg.atlas.views import DISAGREEMENT
from protoseg.cli import main
from test_app import unpacked

HOSTILE = '<img src="http://127.0.0.1:9/x" onerror="alert(1)">'
"""A class name that would ask for something, were it markup."""
MARKUP = "a&b<i>"
KEYS = webdriver.Keys


def make_bands(root: Path) -> Path:
    """A data set of images with five channels of 16 bits."""
    rng = np.random.default_rng(0)
    for i in range(3):
        image, mask = draw_shapes(rng)
        bands = np.concatenate([image, 255 - image[..., :2]], axis=2).astype(np.uint16) * 100
        (root / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / f"images/scene_{i}.tif", bands, photometric="minisblack", planarconfig="contig")
        if i < 2:
            write_index(root / f"masks/scene_{i}.png", mask)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    data = make_folder(folder / "data", train=8, labeled=3, test=2, classes=("ground", HOSTILE, "disc"))
    (data / "images/img_07.png").rename(data / f"images/{MARKUP}.png")
    assert main(["train", str(data), *TINY, "--baseline", "--out", str(folder / "run")]) == 0
    assert main(["train", str(make_bands(folder / "scenes")), *TINY, "--out", str(folder / "bands")]) == 0
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return Models(choices([folder / "run", folder / "bands"]), list_folder(folder / "data").index)


@pytest.fixture
def desk(folder: Path, models: Models) -> Iterator[Desk]:
    """Of each test its own: the page opens with what was uploaded last."""
    gallery = Gallery(list_folder(folder / "data"), most_bytes=1 << 20)
    yield Desk(models, gallery)
    gallery.close()


@pytest.fixture
def address(desk: Desk) -> Iterator[str]:
    with Server("127.0.0.1", 0, desk, render()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.address
        server.shutdown()


@pytest.fixture
def browser(started: Any, address: str) -> Iterator[Any]:
    """The page with its first image looked at; nothing may have gone wrong, and nobody else been asked, when a test ends."""
    opened(started, address)
    wait(started)
    yield started
    assert [entry["message"] for entry in started.get_log("browser")] == []
    assert [url for url in requests(started) if not url.startswith((address, "data:"))] == []


def wait(browser: Any, title: str = "") -> None:
    """Until the image of that name has been looked at."""
    done = "return look !== null && asked === null && document.getElementById('photo').complete"
    until(lambda: title in find(browser, "h1").text and browser.execute_script(done))


def choose(browser: Any, layer: str) -> None:
    find(browser, f"label[for=l-{layer}]").click()


def painted(browser: Any) -> Any:
    """(h, w, 4) of what lies over the image."""
    return drawn(browser, "over")


def drawn(browser: Any, name: str) -> Any:
    """(h, w, 4) of a canvas or a picture."""
    # From a copy: the browser notes that pixels of a canvas are read again and again, as the page itself never does.
    script = (
        "const from = document.getElementById(arguments[0]), c = document.createElement('canvas');"
        "[c.width, c.height] = [from.naturalWidth || from.width, from.naturalHeight || from.height];"
        "const pen = c.getContext('2d', {willReadFrequently: true}); pen.drawImage(from, 0, 0);"
        "let text = ''; for (const value of pen.getImageData(0, 0, c.width, c.height).data) text += String.fromCharCode(value);"
        "return [c.height, c.width, btoa(text)]"
    )
    height, width, values = browser.execute_script(script, name)
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(height, width, 4)


def in_colors(values: Any, colors: Any, known: Any = True) -> Any:
    """(h, w, 4) as it should be painted."""
    alpha = np.where(known, 255, 0).astype(np.uint8)[..., None] * np.ones((*values.shape, 1), np.uint8)
    rgb = np.array(colors, np.uint8)[np.where(known, values, 0)]
    return np.concatenate([rgb * (alpha > 0), alpha], axis=2)


def hover(browser: Any, column: int, row: int, size: tuple[int, int] = (48, 40)) -> None:
    stage = find(browser, "#stage")
    x, y = ((at + 0.5) / side for at, side in zip((column, row), size, strict=True))
    width, height = stage.size["width"], stage.size["height"]
    move = webdriver.ActionChains(browser).move_to_element_with_offset
    move(stage, round((x - 0.5) * width), round((y - 0.5) * height)).perform()


def test_opens_with_the_first_image_and_every_control_works(browser: Any, address: str) -> None:
    assert find(browser, "h1").text == "test/test_00"
    assert [button.get_attribute("title") for button in browser.find_elements("css selector", "#list button")][2] == MARKUP
    loaded = "return [...document.images].filter(i => i.complete && i.naturalWidth).length"
    until(lambda: browser.execute_script(loaded) == 11)  # one for each image of the list, and the picture
    for control in browser.find_elements("css selector", "input:not([type=file]), select"):
        browser.execute_script("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", control)
    wait(browser)
    asked = requests(browser)
    assert asked[0] == address
    assert {url.removeprefix(address).partition("?")[0] for url in asked if not url.startswith("data:")} >= {
        "",
        "state",
        "look",
    }


def test_what_is_in_the_mask_is_said_once_it_is_there(browser: Any, desk: Desk) -> None:
    said, _ = unpacked(desk.look(0, "f0"))
    largest = max((one["share"], one["name"]) for one in said["classes"])
    assert find(browser, "#readout").text.startswith(f"mostly {largest[1]} {100 * largest[0]:.1f}".removesuffix(".0"))
    assert find(browser, "#readout").tag_name == "output"  # a live region
    assert find(browser, "#status").get_attribute("aria-live") == "polite"


def test_a_pointer_reads_class_prototype_and_probability(browser: Any, desk: Desk) -> None:
    said, planes = unpacked(desk.look(0, "f0"))
    for column, row in ((3, 5), (40, 31), (22, 17)):
        hover(browser, column, row)
        label, own = said["classes"][planes["label"][row, column]]["name"], planes["followed_low"][row, column]
        tip = find(browser, "#tip")
        assert tip.is_displayed()
        assert tip.text.split("\n")[0] == f"{label} {planes['confidence'][row, column] / 2.55:.1f} %"
        followed = f"prototype {said['classes'][own // said['prototypes']]['name']} #{own % said['prototypes'] + 1}"
        assert tip.text.split("\n")[1] == f"{followed} {planes['certainty'][row, column] / 2.55:.1f} %"
        assert tip.text.split("\n")[-1] == f"truth: {said['classes'][planes['truth'][row, column]]['name']}"
        assert f"column {column}, row {row}" in find(browser, "#readout").text


def test_every_layer_is_what_the_model_says(browser: Any, desk: Desk) -> None:
    said, planes = unpacked(desk.look(0, "f0"))
    colors = [one["color"] for one in said["classes"]]
    assert (painted(browser) == in_colors(planes["label"], colors)).all()
    for layer, name in (("nearest", "prototype"), ("truth", "truth")):
        choose(browser, layer)
        assert (painted(browser) == in_colors(planes[name], colors)).all()
    choose(browser, "followed")
    tones = shades([tuple(color) for color in colors], said["prototypes"]).reshape(-1, 3)
    assert (painted(browser) == in_colors(planes["followed_low"], tones)).all()
    choose(browser, "disagreement")
    kinds = [color for _, color in DISAGREEMENT]
    assert (painted(browser) == in_colors(planes["disagreement"], kinds, planes["disagreement"] > 0)).all()
    choose(browser, "confidence")
    bright = painted(browser)[..., :3].astype(int).sum(axis=2)
    order = np.argsort(planes["confidence"].ravel(), kind="stable")
    assert (np.diff(bright.ravel()[order]) >= -2).all()  # the more probable the brighter, but for rounding
    assert np.ptp(bright) > 20
    assert find(browser, "#ramp").is_displayed()


def test_opacity(browser: Any) -> None:
    slider, over = find(browser, "#opacity"), find(browser, "#over")
    slider.send_keys(KEYS.HOME)
    assert over.value_of_css_property("opacity") == "0"
    slider.send_keys(KEYS.END)
    assert over.value_of_css_property("opacity") == "1"


def test_a_class_alone(browser: Any, desk: Desk) -> None:
    _, planes = unpacked(desk.look(0, "f0"))
    rows = browser.find_elements("css selector", "#legend button")
    assert len(rows) == len(np.unique(planes["label"]))
    value = int(rows[0].get_attribute("data-value"))
    rows[0].click()
    assert (painted(browser)[..., 3] == np.where(planes["label"] == value, 255, 0)).all()
    find(browser, "#legend [aria-pressed=true]").click()
    assert (painted(browser)[..., 3] == 255).all()


def test_models_can_be_switched(browser: Any, desk: Desk) -> None:
    choose(browser, "followed")
    find(browser, "#model").send_keys("run, labels only")
    until(lambda: browser.execute_script("return asked === null && look.prototypes === 0"))
    assert not find(browser, "label[for=l-followed]").is_displayed()
    assert find(browser, "#l-mask").is_selected()
    said, planes = unpacked(desk.look(1, "f0"))
    assert (painted(browser) == in_colors(planes["label"], [one["color"] for one in said["classes"]])).all()
    find(browser, "#model").send_keys(KEYS.END)  # letters would be added to those before
    until(lambda: "has learned from images of 5 channels" in find(browser, "#status").text)
    assert not find(browser, "#key").is_displayed()
    log = browser.get_log("browser")  # the browser notes every answer that is a refusal
    assert [entry["message"] for entry in log if "422" not in entry["message"]] == []


def test_the_next_image_and_one_that_is_looked_for(browser: Any) -> None:
    assert not find(browser, "#before").is_enabled()
    find(browser, "#after").click()
    wait(browser, "test/test_01")
    find(browser, "#before").click()
    wait(browser, "test/test_00")
    find(browser, "#find").send_keys("a&b")
    assert [b.get_attribute("title") for b in browser.find_elements("css selector", "#list button")] == [MARKUP]
    find(browser, "#list button").click()
    wait(browser, MARKUP)
    assert not find(browser, "label[for=l-truth]").is_displayed()  # it has no mask
    assert browser.execute_script("return look.notes") == []


def test_the_keyboard_reads_pixels(browser: Any) -> None:
    stage = find(browser, "#stage")
    stage.send_keys(KEYS.ARROW_RIGHT)
    assert "column 24, row 20" in find(browser, "#readout").text
    stage.send_keys(KEYS.ARROW_LEFT, KEYS.ARROW_UP, KEYS.SHIFT, KEYS.ARROW_LEFT)
    assert "column 13, row 10" in find(browser, "#readout").text
    assert find(browser, "#mark").is_displayed()


def test_uploads(browser: Any, tmp_path: Path, desk: Desk) -> None:
    image, _ = draw_shapes(np.random.default_rng(9), (60, 90))
    file = write_image(tmp_path / f"{MARKUP} holiday.png", image)
    find(browser, "#files").send_keys(str(file))
    wait(browser, "holiday")
    assert find(browser, "h1").text == file.name
    assert find(browser, "#list [aria-current=true]").get_attribute("title") == file.name
    assert painted(browser).shape == (60, 90, 4)
    shown = (
        "const c = document.createElement('canvas'), p = document.getElementById('photo'); c.width = 90; c.height = 60;"
        "const pen = c.getContext('2d'); pen.drawImage(p, 0, 0); return [...pen.getImageData(0, 0, 90, 60).data]"
    )
    seen = np.array(browser.execute_script(shown)).reshape(60, 90, 4)[..., :3]
    assert abs(seen - np.asarray(Image.open(io.BytesIO(desk.picture("u1"))))).mean() < 1


def test_a_file_is_dropped(browser: Any) -> None:
    drop = """
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [33, 21];
      canvas.toBlob((blob) => {
        const carried = new DataTransfer();
        carried.items.add(new File([blob], "dropped.png", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true }));
      });"""
    browser.execute_script(drop)
    wait(browser, "dropped.png")
    assert painted(browser).shape == (21, 33, 4)


def test_files_that_are_refused_are_named(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes((1 << 20) + 1))
    find(browser, "#files").send_keys(str(tmp_path / "large.png"))
    until(lambda: "large.png has 1 MB, and at most" in find(browser, "#taken").text)
    (tmp_path / "words.png").write_text("no image")
    find(browser, "#files").send_keys(str(tmp_path / "words.png"))
    until(lambda: "words.png cannot be read as an image" in find(browser, "#taken").text)
    assert find(browser, "h1").text == "test/test_00"  # what was there stays
    log = browser.get_log("browser")
    assert [entry["message"] for entry in log if "422" not in entry["message"]] == []


def test_bands_can_be_chosen(browser: Any, folder: Path) -> None:
    find(browser, "#model").send_keys("bands")
    until(lambda: "has learned from" in find(browser, "#status").text)
    browser.get_log("browser")  # the photograph was refused
    assert not find(browser, "#bands").is_displayed()
    find(browser, "#files").send_keys(str(folder / "scenes/images/scene_2.tif"))
    wait(browser, "scene_2.tif")
    selects = browser.find_elements("css selector", ".band")
    assert [len(select.find_elements("css selector", "option")) for select in selects] == [5] * 3
    for select, band in zip(selects, ("band 4", "band 2", "band 5"), strict=True):
        select.send_keys(band)
    until(lambda: find(browser, "#photo").get_attribute("src").endswith("&bands=3,1,4"))
    until(lambda: browser.execute_script("return document.getElementById('photo').complete"))
    assert not find(browser, "#status").text
    offered = "look.channels = arguments[0]; offerBands(); return all('.band').map(select => [select.length, select.value])"
    assert browser.execute_script(offered, 2) == [[2, "0"]] * 3
    assert find(browser, "#bands").is_displayed()
    assert browser.execute_script(offered, 1) == [[2, "0"]] * 3  # as they were, and nothing to choose
    assert not find(browser, "#bands").is_displayed()


def test_downloads(browser: Any, desk: Desk, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for what in ("mask", "overlay", "confidence"):
        find(browser, f"[data-what={what}]").click()
        file = desk.download(0, "f0", what)  # type: ignore[arg-type]
        until(lambda name=file.name: (tmp_path / name).is_file())  # type: ignore[misc]
        assert (tmp_path / file.name).read_bytes() == file.content
    assert Image.open(tmp_path / "test_00.png").mode == "P"


LARGE = (1600, 1920)
"""Rows and columns of an image that the page shows reduced."""


@pytest.fixture
def large(browser: Any, tmp_path: Path) -> Any:
    """The page with a large image of noise under shapes, in which every pixel differs from its neighbours."""
    image = np.kron(draw_shapes(np.random.default_rng(3))[0], np.ones((40, 40, 1), np.uint8))
    noise = np.random.default_rng(4).integers(0, 4, (LARGE[0], 48, 3), dtype=np.uint8)
    image = np.minimum(image, 250) + np.tile(noise, (1, 40, 1))  # less than the megabyte that is taken here
    find(browser, "#files").send_keys(str(write_image(tmp_path / "large.png", image)))
    wait(browser, "large.png")
    return image


def arrived(browser: Any) -> list[int]:
    """The part of the image that is there pixel by pixel, once it holds all that is seen."""
    script = (
        "const seen = boxAround(0), own = near && near.box; return nearing === null && own && own[0] <= seen[0] && own[1] <= "
        "seen[1] && own[0] + own[2] >= seen[0] + seen[2] && own[1] + own[3] >= seen[1] + seen[3]"
    )
    until(lambda: browser.execute_script(script))
    return list(browser.execute_script("return near.box"))


def told(browser: Any) -> tuple[int, int]:
    """(row, column) of the line below the image."""
    column, row = find(browser, "#readout").text.split("column ")[1].split(", row ")
    return int(row), int(column)


def test_an_image_larger_than_the_screen(browser: Any, large: Any, desk: Desk) -> None:
    assert "1,920 \N{MULTIPLICATION SIGN} 1,600 pixels" in find(browser, "#facts").text
    assert "pieces" in find(browser, "#notes").text
    frame, stage = find(browser, "#frame"), find(browser, "#stage")
    assert stage.size["height"] <= browser.execute_script("return innerHeight")
    assert not find(browser, "#near").is_displayed()
    find(browser, "#zoom").send_keys("400")
    assert stage.size["width"] == 4 * 1920
    browser.execute_script("arguments[0].scrollTo(2000, 1500)", frame)
    top, left, height, width = box = arrived(browser)
    webdriver.ActionChains(browser).move_to_element(frame).perform()
    place = "const b = arguments[0].getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    outer, inner = (browser.execute_script(place, part) for part in (frame, stage))
    row, column = told(browser)
    for at, i in ((column, 0), (row, 1)):
        assert abs(at + 0.5 - (outer[i] + outer[i + 2] / 2 - inner[i]) / 4) <= 1  # that at the middle of the frame
    shown = desk._kept(0, desk.models.get(0), desk.gallery.find("u1"), large).shown
    name = desk.models.get(0).model.classes.names[shown.label[row, column]]
    lines = find(browser, "#tip").text.split("\n")
    assert lines[0] == f"{name} {shown.confidence[row, column] / 2.55:.1f} %"
    assert lines[1].endswith(f" {shown.certainty[row, column] / 2.55:.1f} %")
    tip_left, _, tip_width, _ = browser.execute_script(place, find(browser, "#tip"))
    assert outer[0] <= tip_left < tip_left + tip_width <= outer[0] + outer[2]
    seen = drawn(browser, "near-photo")
    assert (seen[..., :3] == large[top : top + height, left : left + width]).all()
    where = browser.execute_script(place, find(browser, "#near-photo"))
    expected = [inner[0] + 4 * left, inner[1] + 4 * top, 4 * width, 4 * height]
    assert np.abs(np.array(where) - expected).max() < 0.6
    for layer, values in (("mask", shown.label), ("followed", shown.followed)):
        choose(browser, layer)
        part = values[top : top + height, left : left + width]
        colors = browser.execute_script("return [...values()].map(([, pair]) => pair[1])")
        assert (drawn(browser, "near-over") == in_colors(part, colors)).all()
    assert box == browser.execute_script("return near.box")


def test_a_large_image_is_moved_and_zoomed(browser: Any, large: Any) -> None:
    frame, stage = find(browser, "#frame"), find(browser, "#stage")
    actions = webdriver.ActionChains(browser)
    actions.move_to_element_with_offset(stage, 60, 40).double_click().perform()
    assert find(browser, "#zoom").get_attribute("value") == "1"
    row, column = told(browser)
    assert stage.size["width"] == 1920
    arrived(browser)
    actions.move_by_offset(1, 0).perform()  # what was under the pointer still is
    assert abs(told(browser)[0] - row) <= 3
    assert abs(told(browser)[1] - column) <= 4
    before = browser.execute_script("return [arguments[0].scrollLeft, arguments[0].scrollTop]", frame)
    actions.move_to_element(frame).click_and_hold().move_by_offset(-150, -90).release().perform()
    after = browser.execute_script("return [arguments[0].scrollLeft, arguments[0].scrollTop]", frame)
    assert np.abs(np.subtract(after, before) - [150, 90]).max() <= 2
    arrived(browser)
    stage.send_keys("+")
    assert find(browser, "#zoom").get_attribute("value") == "2"
    row, column = told(browser)
    stage.send_keys(KEYS.SHIFT, KEYS.ARROW_RIGHT)
    assert told(browser) == (row, column + 1)
    stage.send_keys(KEYS.NULL, *[KEYS.ARROW_DOWN] * 40)  # beyond what is seen
    assert told(browser) == (row + 400, column + 1)
    mark = browser.execute_script("return document.getElementById('mark').getBoundingClientRect()")
    outer = browser.execute_script("return arguments[0].getBoundingClientRect()", frame)
    assert outer["top"] <= mark["top"] < mark["bottom"] <= outer["bottom"]
    arrived(browser)
    stage.send_keys("-", "-")
    assert find(browser, "#zoom").get_attribute("value") == "fit"
    assert not find(browser, "#near").is_displayed()


@pytest.mark.parametrize("width", [1400, 800, 390])
def test_nothing_sticks_out_of_the_window(browser: Any, width: int) -> None:
    with window(browser, width):
        browser.execute_script("window.dispatchEvent(new Event('resize'))")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        shown = "#frame, #stage, #photo, .layers label, .controls > label, #key, #drop, h1"
        boxes = f"return [...document.querySelectorAll('{shown}')].map(x => x.getBoundingClientRect()).filter(b => b.width)"
        assert [box for box in browser.execute_script(boxes) if box["left"] < 0 or box["right"] > width] == []
        for at in ((2, 2), (45, 2), (2, 37), (45, 37)):
            hover(browser, *at)
            box = browser.execute_script("return document.getElementById('tip').getBoundingClientRect()")
            assert box["left"] >= 0
            assert box["right"] <= width


def test_all_that_can_be_used_or_seen_has_a_name(browser: Any) -> None:
    for layer in ("mask", "confidence", "followed"):
        choose(browser, layer)
        assert nameless(browser) == []


def test_the_first_tab_leads_past_the_list(browser: Any) -> None:
    find(browser, "body").send_keys(KEYS.TAB)
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the image"
    skip.send_keys(KEYS.ENTER)
    webdriver.ActionChains(browser).send_keys(KEYS.TAB).perform()
    view = "return document.getElementById('view').contains(document.activeElement)"
    assert browser.execute_script(view)


def test_nothing_turns_for_who_has_asked_for_less_motion(browser: Any) -> None:
    turning = "document.body.classList.add('busy'); return getComputedStyle(arguments[0], '::before').animationName"
    assert browser.execute_script(turning, find(browser, "#status")) == "none"  # these tests ask for it: chromium.py


def test_dark_where_the_reader_likes_it_dark(browser: Any) -> None:
    light, dark = grounds(browser, "#drop")
    assert light > 700
    assert dark < 150


def test_a_server_that_has_ended_is_said(browser: Any) -> None:
    browser.set_network_conditions(offline=True, latency=0, throughput=0)
    try:
        find(browser, "#after").click()
        until(lambda: "does it still run" in find(browser, "#status").text)
        assert not find(browser, "#key").is_displayed()
    finally:
        browser.delete_network_conditions()
    find(browser, "#before").click()
    wait(browser, "test_00")
    log = browser.get_log("browser")
    assert [entry["message"] for entry in log if "ERR_INTERNET_DISCONNECTED" not in entry["message"]] == []
