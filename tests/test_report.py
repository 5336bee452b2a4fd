"""The report of a run: its numbers, its words, and that nothing in a name becomes markup."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from make_folder import TINY, make_folder
from numpy.typing import NDArray

from protoseg import files, report
from protoseg.cli import main
from protoseg.engine.callbacks import read_rows, read_shares
from protoseg.engine.metrics import iou
from protoseg.engine.tally import TALLY, Pixels, Tally, make_tally
from protoseg.report.charts import DASHES, Series, interval_chart, iou_bar, line_chart, share_chart, ticks
from protoseg.report.compare import Interval, gain_interval, mean_iou, paired_bootstrap, signed, verdict
from protoseg.report.gather import gather
from protoseg.report.html import unbroken
from protoseg.report.page import DEEP, confusions, duration, matrix_rows, percent, render

HOSTILE = '</title><script>alert("1")</script>'
"""A class name that no one should have; without a `/` it could be a folder too."""
SCRIPT = "<script>alert(2)<"
CLASSES = ("ground", HOSTILE, "{{ 7 * 7 }} & 'disc'")


def draw(seed: int, images: int = 7, classes: int = 4) -> Pixels:
    """Images that lack some of the classes; the last class is in the first image alone, so that redraws lose it."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 50, (images, classes)) * (rng.random((images, classes)) < 0.7)
    truth[1:, -1] = 0
    truth[0, -1] = 9
    hit = (truth * rng.random(truth.shape)).astype(np.int64)
    predicted = hit + rng.integers(0, 12, truth.shape) * (truth > 0)
    return Pixels(hit, truth, predicted)


def slow_miou(pixels: Pixels, chosen: list[int]) -> float:
    scores = []
    for c in range(pixels.hit.shape[1]):
        hit, truth, predicted = (sum(int(part[i, c]) for i in chosen) for part in pixels)
        if truth + predicted - hit:
            scores.append(hit / (truth + predicted - hit))
    return sum(scores) / len(scores) if scores else math.nan


class TestBootstrap:
    def test_mean_iou_equals_a_loop(self) -> None:
        pixels = draw(0)
        chosen = [[0, 0, 3, 4], [5, 5, 5], list(range(7))]
        weight = np.array([[row.count(i) for i in range(7)] for row in chosen], dtype=np.float64)
        assert mean_iou(pixels, weight) == pytest.approx([slow_miou(pixels, row) for row in chosen])

    def test_mean_iou_is_that_of_the_metric(self) -> None:
        rng = torch.Generator().manual_seed(0)
        counts = [(f"{i}", torch.randint(0, 9, (4, 4), generator=rng)) for i in range(5)]
        tally = make_tally(4, counts)
        assert mean_iou(tally.pixels, np.ones((1, 5)))[0] == pytest.approx(iou(torch.from_numpy(tally.confusion)).mean)

    def test_an_empty_redraw_is_no_number(self) -> None:
        nothing = Pixels(*(np.zeros((2, 3), dtype=np.int64) for _ in range(3)))
        assert np.isnan(mean_iou(nothing, np.ones((1, 2)))[0])

    def test_equals_a_slow_bootstrap(self) -> None:
        ours, theirs, draws = draw(1), draw(2), 150
        generator, gains = np.random.default_rng(5), []
        for start in range(0, draws, 64):  # the generator is asked for as many at once
            for row in generator.integers(0, 7, (min(64, draws - start), 7)).tolist():
                gains.append(slow_miou(ours, row) - slow_miou(theirs, row))
        assert paired_bootstrap(ours, theirs, draws=draws, seed=5) == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])))

    def test_the_same_model_twice_differs_by_nothing(self) -> None:
        assert paired_bootstrap(draw(1), draw(1)) == (0, 0)

    def test_only_the_same_images_are_compared(self) -> None:
        rng = torch.Generator().manual_seed(0)
        counts = [torch.randint(1, 9, (2, 2), generator=rng) for _ in range(3)]
        one = make_tally(2, zip("abc", counts, strict=True))
        assert gain_interval(one, one) == (0, 0)
        assert gain_interval(one, make_tally(2, zip("acb", counts, strict=True))) is None
        assert gain_interval(one, None) is None
        alone = make_tally(2, [("a", counts[0])])
        assert gain_interval(alone, alone) is None


class TestWords:
    @pytest.mark.parametrize(
        ("gain", "interval", "headline", "sign"),
        [
            (0.061, Interval(0.04, 0.08), "the unlabelled images helped: +6.1 points", 1),
            (-0.012, Interval(-0.02, -0.001), "the unlabelled images hurt: \N{MINUS SIGN}1.2 points", -1),
            (0.003, Interval(-0.004, 0.01), "no clear difference: +0.3 points against labels only", 0),
            (0.0, Interval(0.0, 0.0), "no clear difference: ±0.0 points against labels only", 0),
            (None, None, "not compared: run with --baseline", 0),
            (0.05, None, "+5.0 points against labels only, and nothing says how sure that is", 0),
        ],
    )
    def test_verdict(self, gain: float | None, interval: Interval | None, headline: str, sign: int) -> None:
        found = verdict(gain, interval, images=100)
        assert (found.headline, found.sign) == (headline, sign)

    def test_the_interval_says_what_it_is_not(self) -> None:
        basis = verdict(0.1, Interval(0.05, 0.2), images=100).basis
        assert "+5.0 to +20.0 points: paired bootstrap over 100 test images" in basis
        assert "does not include run-to-run variation" in basis
        assert "too narrow" not in basis
        assert "too narrow" in verdict(0.1, Interval(0.05, 0.2), images=5).basis
        assert "paired bootstrap over 1 test image. One seed" in verdict(0.1, Interval(0.05, 0.2), images=1).basis

    @pytest.mark.parametrize(
        ("share", "text"), [(0.0004, "±0.0"), (-0.0004, "±0.0"), (0.0005001, "+0.1"), (-1, "\N{MINUS SIGN}100.0")]
    )
    def test_signed(self, share: float, text: str) -> None:
        assert signed(share) == text

    def test_numbers(self) -> None:
        assert [percent(x) for x in (0.5, None, math.nan)] == ["50.0", "absent", "absent"]
        assert [duration(x) for x in (3, 59.6, 3600, 3757)] == ["3 s", "1 min 0 s", "1 h 0 min", "1 h 2 min"]


class TestCharts:
    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [(0, 100, [0, 20, 40, 60, 80, 100]), (0, 2, [0, 0.5, 1, 1.5, 2]), (-3, 7, [-2, 0, 2, 4, 6]), (5, 5, [5])],
    )
    def test_ticks_are_round(self, low: float, high: float, expected: list[float]) -> None:
        assert ticks(low, high) == pytest.approx(expected)

    def test_a_line_goes_through_its_points_and_breaks_at_gaps(self) -> None:
        svg = line_chart("Loss", [0, 10, 20, 30, 40], [Series("a", [0, 2, math.nan, 4, 4]), Series("b", [1, 1, 1, 1, 1])])
        paths = parse(svg).findall("./svg/path")
        # 352 pixels of 40 steps from 48 on; 184 pixels of 4 units up to 10
        assert paths[0].get("d") == "M48.0 194.0L136.0 102.0M312.0 10.0L400.0 10.0"
        assert str(paths[1].get("d")).count("L") == 4
        assert paths[0].get("stroke-dasharray") != paths[1].get("stroke-dasharray")
        assert len(set(DASHES)) == len(DASHES)

    def test_a_lonely_point_is_a_dot(self) -> None:
        svg = line_chart("x", [0, 1, 2], [Series("a", [math.nan, 1, math.nan]), Series("b", [0, 0, 0])])
        assert str(parse(svg).findall("./svg/path")[0].get("d")).endswith("h0.1")

    def test_rows_without_a_score_do_not_break_its_line(self) -> None:
        nan = math.nan
        svg = line_chart("mIoU", [0, 1, 2, 3, 4], [Series("ours", [nan, 0.5, nan, 0.6, nan])], share=True)
        path = str(parse(svg).findall("./svg/path")[0].get("d"))
        assert path == "M136.0 102.0L312.0 83.6"  # a quarter and three quarters of the way: the axis is that of all steps

    def test_long_runs_are_thinned_and_keep_their_end(self) -> None:
        svg = line_chart("x", range(1000), [Series("a", [float(i) for i in range(1000)])])
        points = json.loads(str(parse(svg).findall("./svg")[0].get("data-points")))
        assert len(points["x"]) <= 241
        assert (points["x"][0], points["x"][-1], points["values"][0][-1]) == (0, 999, 999)

    def test_nothing_to_draw(self) -> None:
        assert line_chart("x", [1, 2], [Series("a", [math.nan, math.nan])]) == ""
        assert line_chart("x", [], []) == ""

    def test_what_is_seen_is_also_said(self) -> None:
        svg = line_chart("Confident", [0, 1, 2], [Series("confident", [0.2, 0.9, 0.5])], share=True)
        spoken = str(parse(svg).findall("./svg")[0].get("aria-label"))
        assert spoken == "Confident. confident: from 20 to 50 %, lowest 20, highest 90."

    @pytest.mark.parametrize(
        "svg",
        [
            line_chart(HOSTILE, [0, 1], [Series(HOSTILE, [0, 1]), Series('" onload="x', [1, 1])]),
            share_chart(HOSTILE, [0.1, 0.2], [math.nan, 0.3]),
            interval_chart(0.1, Interval(-0.1, 0.2)),
            iou_bar(0.5, 0.4),
            iou_bar(None, None),
        ],
    )
    def test_markup_is_well_formed_whatever_the_names(self, svg: str) -> None:
        tree = parse(svg)
        assert "<script" not in svg
        assert not [element for element in tree.iter() if "onload" in element.attrib]

    @pytest.mark.parametrize(
        ("gain", "interval"),
        [
            (0.051, (0.048, 0.054)),
            (0.3, (0.299, 0.301)),
            (-0.2, (-0.2001, -0.2)),
            (0.003, (-0.025, 0.032)),
            (0.0, (-1e-4, 1e-4)),
        ],
    )
    def test_numbers_at_an_interval_do_not_run_into_each_other(self, gain: float, interval: tuple[float, float]) -> None:
        texts = parse(interval_chart(gain, Interval(*interval))).findall("./svg/text")
        spans = []
        for text in texts:
            half = len(text.text or "") * 4.2  # of a digit at 13 pixels, half
            spans.append((float(text.get("x") or "nan") - half, float(text.get("x") or "nan") + half))
        for left, right in itertools.pairwise(sorted(spans)):
            assert left[1] <= right[0]
        assert min(spans)[0] >= 0
        assert max(spans)[1] <= 400

    def test_bars_are_as_long_as_the_iou(self) -> None:
        bars = parse(iou_bar(0.5, 0.25)).findall("./svg/rect")
        assert [float(str(bar.get("width"))) for bar in bars] == pytest.approx([99.5, 49.8], abs=0.1)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<root>{svg}</root>")


def links_of_a_page_that_asks_nobody(html: str) -> int:
    """How many there are, all of them inside the page; and its policy forbids others."""
    page = Page(html)
    policy = next(meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    links = [value for _, found in page.elements for name, value in found.items() if name in {"src", "href"}]
    assert all(str(link).startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?://|@import|url\(", html)
    return len(links)


STYLE = (Path(report.__file__).parent / "page.css").read_text()
ROOTS = [dict(re.findall(r"--(\w+): #(\w+)", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)]
SCHEMES = {"light": ROOTS[0], "dark": ROOTS[0] | ROOTS[1], "paper": ROOTS[0] | ROOTS[2]}


def rgb(color: str) -> NDArray[np.float64]:
    digits = "".join(2 * digit for digit in color) if len(color) == 3 else color
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of two colours, as WCAG 2 defines it: 1 to 21."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
    low, high = sorted(float(c @ [0.2126, 0.7152, 0.0722]) for c in linear)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
class TestContrast:
    """Of all pages, which share their colours: 4.5 for text, 3 for lines (WCAG 2.2 AA)."""

    def test_of_text_and_lines(self, scheme: str) -> None:
        colors = SCHEMES[scheme]
        for ground in ("paper", "card"):
            for name in ("ink", "soft", "c0", "good", "bad", "c1", "c2", "c3", "c4", "c5"):
                least = 3 if name in {"c1", "c2", "c3", "c4", "c5"} else 4.5
                assert contrast(rgb(colors[name]), rgb(colors[ground])) >= least, (name, ground)
        assert contrast(rgb(colors["ink"]), rgb(colors["warn"])) >= 4.5
        assert contrast(rgb("fff"), rgb(colors["m"])) >= 4.5  # what is chosen in the app

    def test_of_every_cell_of_a_confusion_matrix(self, scheme: str) -> None:
        colors = SCHEMES[scheme]
        for share in np.linspace(0, 1, 201):
            ground = share * rgb(colors["m"]) + (1 - share) * rgb(colors["grid"])
            text = rgb("fff") if share > DEEP else rgb(colors["cell"])
            assert contrast(text, ground) >= 4.5, share


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        self.text += " " * (tag in {"dt", "dd", "li", "p", "h1", "h2", "th", "td"})

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@dataclasses.dataclass(frozen=True)
class Run:
    data: Path
    out: Path

    @property
    def html(self) -> str:
        return (self.out / "report.html").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short run with a baseline, whose class names and folder are hostile."""
    folder = tmp_path_factory.mktemp("run") / SCRIPT
    data = make_folder(folder / "data", train=8, labeled=4, test=5, classes=CLASSES)
    words = ["--steps", "8", "--log-every", "2", "--consistency.warmup_steps", "2", "--evaluate-every", "4", "--baseline"]
    words += ["--optimizer.lr", "3e-2", "--consistency.ema_momentum", "0.3", "--consistency.threshold", "0.3"]
    assert main(["train", str(data), *TINY, *words, "--out", str(folder / "out")]) == 0
    return Run(data, folder / "out")


class TestPage:
    def test_says_what_came_out(self, run: Run) -> None:
        page, result = Page(run.html), json.loads((run.out / "result.json").read_text())
        assert not page.open
        text = " ".join(page.text.split())
        for score in (result["miou"], result["baseline"]["miou"]):
            assert f"{100 * score:.1f} %" in text
        assert f"difference {signed(result['gain'])} points" in text
        assert re.search(r"paired bootstrap over 5 test images\. One seed: this does not include run-to-run variation", text)
        assert "5 test images" in text
        assert result["split"]["hash"] in text
        assert f"torch {torch.__version__.split('+')[0]}" in text
        assert "protoseg train" in text
        assert "--baseline" in text
        assert result["machine"]["device"] in text
        assert "What this page lacks" not in text
        for name in CLASSES:
            assert name in page.text

    def test_every_number_stands_where_its_name_is(self, run: Run, tmp_path: Path) -> None:
        shutil.copytree(run.out, tmp_path / "out")
        result, start = (json.loads((run.out / name).read_text()) for name in ("result.json", "run.json"))
        for i, name in enumerate(CLASSES):  # so short a training may leave both models alike
            result["iou"][name], result["baseline"]["iou"][name] = 0.1 + i / 10, 0.85 - i / 30
        (tmp_path / "out/result.json").write_text(json.dumps(result))
        (tmp_path / "out/baseline/result.json").write_text(json.dumps(result["baseline"]))
        text = " ".join(Page(render(gather(tmp_path / "out"))).text.split())
        ours, theirs, data = result["iou"], result["baseline"]["iou"], start["data"]
        assert "class labels only ours difference" in text
        shares = read_shares(run.out / "health.jsonl")[-1]
        for i, name in enumerate(CLASSES):
            pair = f"{100 * theirs[name]:.1f} {100 * ours[name]:.1f}"
            assert f"{name} {pair} {signed(ours[name] - theirs[name])}" in text
            assert f"{100 * shares['pseudo'][i]:.1f} % · labels {100 * shares['labeled'][i]:.1f} %" in text
            assert f"{name} {100 * data['shares'][name]:.1f} %" in text
        assert shares["pseudo"] != shares["labeled"]
        assert f"cost {duration(result['seconds'])} for 8 steps" in text
        assert f"labels only {duration(result['baseline']['seconds'])} machine" in text
        assert "seed 0, of everything random; one run" in text
        for said in ("labelled 4 images", "unlabelled 4 images", "scored on 5 test images"):
            assert said in text

    def test_curves_are_those_of_the_log(self, run: Run) -> None:
        columns = {"Loss": "loss", "mIoU": "miou", "Loss on labels": "labeled", "Confident": "confident", "Learning rate": "lr"}
        rows = read_rows(run.out / "metrics.csv")
        charts = [found for tag, found in Page(run.html).elements if tag == "svg" and found.get("class") == "chart"]
        drawn = {(found["aria-label"] or "").partition(".")[0]: json.loads(found["data-points"] or "") for found in charts}
        assert set(drawn) == {*columns, "Health"}
        for title, column in columns.items():
            logged = {float(row["step"]): float(row[column]) for row in rows if row[column]}
            factor = 100 if title in ("mIoU", "Confident") else 1
            shown = {x: y for x, y in zip(drawn[title]["x"], drawn[title]["values"][0], strict=True) if y is not None}
            assert shown == pytest.approx({step: factor * value for step, value in logged.items()}, rel=1e-3)

    def test_what_stood_out_in_the_data_is_said(self, run: Run, tmp_path: Path) -> None:
        for name in ("run.json", "model.safetensors"):
            (tmp_path / name).write_bytes((run.out / name).read_bytes())
        start = json.loads((run.out / "run.json").read_text())
        start["data"] |= {"notes": ["a note <b>"], "findings": [{"severity": "error", "title": "a title", "advice": "do it"}]}
        (tmp_path / "run.json").write_text(json.dumps(start))
        text = " ".join(Page(render(gather(tmp_path))).text.split())
        assert "error a title; do it note a note <b>" in text
        assert "Nothing stood out" not in text

    def test_names_never_become_markup(self, run: Run) -> None:
        scripts = [tag for tag, _ in Page(run.html).elements if tag == "script"]
        assert len(scripts) == run.html.count("<script") == 1
        assert "{{ 7 * 7 }}" in run.html  # no template either
        attributes = {name for _, found in Page(run.html).elements for name in found}
        assert not [name for name in attributes if name.startswith("on")]

    def test_asks_nobody_for_anything(self, run: Run) -> None:
        assert links_of_a_page_that_asks_nobody(run.html) > 10

    def test_can_be_read_without_eyes_and_without_a_mouse(self, run: Run) -> None:
        page = Page(run.html)
        assert page.of("html")[0]["lang"] == "en"
        assert page.elements[[tag for tag, _ in page.elements].index("body") + 1][1]["href"] == "#main"
        assert all(image["alt"] for image in page.of("img"))
        assert all(svg.get("aria-hidden") == "true" or svg["aria-label"] for svg in page.of("svg"))
        assert all(slider.get("aria-label") or slider.get("id") == "opacity" for slider in page.of("input"))
        assert all("scope" in cell for cell in page.of("th"))
        assert len(page.of("table")) == len(page.of("caption")) == 3
        ids = [found["id"] for _, found in page.elements if "id" in found]
        assert len(ids) == len(set(ids))
        wanted = [str(link["href"]).removeprefix("#") for link in page.of("a")]
        assert set(wanted) | {str(section["aria-labelledby"]) for section in page.of("section")} <= set(ids)

    def test_shows_every_part(self, run: Run) -> None:
        page = Page(run.html)
        assert sum(svg.get("class") == "chart" for svg in page.of("svg")) == 6
        assert sum(svg.get("class") == "spark" for svg in page.of("svg")) == len(CLASSES)
        layers = [str(found["data-layer"]) for found in page.of("div") if "data-layer" in found]
        assert layers == ["truth", "labels only", "ours"] * 5
        worst_and_best = [str(found.get("class")) for found in page.of("figure")]
        assert worst_and_best.count("example") == 5

    def test_numbers_are_those_of_the_files(self, run: Run) -> None:
        story = gather(run.out)
        result = json.loads((run.out / "result.json").read_text())
        tally = Tally.load(run.out / TALLY)
        assert tally.iou.mean == result["miou"]
        assert story.gain == pytest.approx(result["gain"])
        rows = matrix_rows(tally.confusion, story.class_names, story.colors)
        for i, row in enumerate(rows):
            total = tally.confusion[i].sum()
            assert row.share == pytest.approx(total / tally.confusion.sum())
            assert row.cells == pytest.approx((tally.confusion[i] / total).tolist())
        shares = [share for _, _, share in confusions(tally.confusion, story.class_names)]
        assert shares == sorted(shares, reverse=True)
        off = [cell for i, row in enumerate(rows) for j, cell in enumerate(row.cells) if i != j and cell]
        assert shares == pytest.approx(sorted(off, reverse=True))

    def test_the_same_run_gives_the_same_page(self, run: Run, tmp_path: Path) -> None:
        before = run.html
        assert main(["report", str(run.out)]) == 0
        assert run.html == before

    def test_alarms_come_first(self, run: Run) -> None:
        story = gather(run.out)
        events = [{"step": 7, "alarm": f"{HOSTILE!r} has disappeared", "back_to": 4, "threshold": 0.97}]
        result = story.ours.result | {"events": events}
        html = render(dataclasses.replace(story, ours=dataclasses.replace(story.ours, result=result)))
        text = Page(html).text
        assert text.index("Health warnings") < text.index("has disappeared") < text.index("IoU of each class")
        assert "went back to step 4 with a threshold of 0.97" in text
        assert html.count("<script") == 1

    def test_many_classes_are_named_by_their_mistakes(self, run: Run) -> None:
        number = 40
        names = tuple(f"class {i}" for i in range(number))
        tally = make_tally(number, [("a", torch.eye(number, dtype=torch.int64).roll(1, dims=1))])
        ours = dataclasses.replace(gather(run.out).ours, tally=tally, iou=dict.fromkeys(names, 0.0), shares=())
        story = dataclasses.replace(gather(run.out), ours=ours, class_names=names, colors=((1, 2, 3),) * number)
        html = render(story)
        assert "of class 0 is called class 1" in Page(html).text
        assert 'class="matrix"' not in html


class TestOtherFolders:
    @pytest.fixture
    def old(self, run: Run, tmp_path: Path) -> Path:
        """The run as an earlier version would have left it."""
        out = tmp_path / "old"
        shutil.copytree(run.out, out)
        for folder in (out, out / "baseline"):
            shutil.rmtree(folder / "examples")
            for name in (TALLY, "health.jsonl", "run.json", "report.html"):
                (folder / name).unlink(missing_ok=True)
            result = json.loads((folder / "result.json").read_text())
            for name in ("events", "machine"):
                del result[name]
            (folder / "result.json").write_text(json.dumps(result))
        return out

    def test_an_old_run_says_what_is_missing(self, old: Path) -> None:
        assert main(["report", str(old)]) == 0
        text = Page((old / "report.html").read_text()).text
        assert "points against labels only, and nothing says how sure that is" in text
        for part in ("confusion matrix is not here", "no pictures", "health.jsonl is missing", "run.json is missing"):
            assert part in text
        assert "IoU of each class" in text
        assert "Loss" in text
        assert any("sheet" in str(image.get("class")) for image in Page((old / "report.html").read_text()).of("img"))

    def test_with_its_data_it_is_made_up_for(self, run: Run, old: Path) -> None:
        assert main(["report", str(old), str(run.data)]) == 0
        for folder in ("", "baseline"):
            again, before = (Tally.load(path / folder / TALLY) for path in (old, run.out))
            assert again.names == before.names
            assert again.confusion.tolist() == before.confusion.tolist()
        assert gather(old).interval == gather(run.out).interval
        assert len(gather(old).examples) == 5
        text = Page((old / "report.html").read_text()).text
        assert "confusion matrix is not here" not in text
        assert "no pictures" not in text

    def test_other_data_is_refused(self, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = make_folder(tmp_path / "other", train=2, labeled=1, test=2, classes=CLASSES)
        assert main(["report", str(old), str(other)]) == 2
        assert f"3 of the 5 evaluation images of {old} are not in {other}" in capsys.readouterr().err
        assert not (old / TALLY).exists()

    def test_one_image_is_no_images(self, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, entries in (("split.json", {"evaluation": ["test/lost"]}), ("result.json", {"evaluated": 1})):
            content = json.loads((old / name).read_text())
            (old / name).write_text(json.dumps(content | entries))
        assert gather(old).subject == "1 test image, the model of the last step"
        other = make_folder(tmp_path / "other", train=2, labeled=1, test=2, classes=CLASSES)
        assert main(["report", str(old), str(other)]) == 2
        assert f"1 of the 1 evaluation image of {old} is not in {other}" in capsys.readouterr().err

    @pytest.mark.parametrize("more", [(), ("data",)], ids=["alone", "with the data"])
    def test_damaged_lists_are_named(
        self, run: Run, old: Path, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (old / "split.json").write_text('{"labeled": []}')
        assert main(["report", str(old), *(str(run.data) for _ in more)]) == 2
        assert f"{old / 'split.json'} is damaged ('hash' is missing); put a whole copy in its place" in capsys.readouterr().err

    def test_a_run_that_has_not_finished(self, run: Run, tmp_path: Path) -> None:
        out = tmp_path / "half"
        shutil.copytree(run.out, out)
        for name in ("model.safetensors", "result.json", TALLY):
            (out / name).unlink()
        shutil.rmtree(out / "examples")
        assert main(["report", str(out)]) == 0
        text = Page((out / "report.html").read_text()).text
        assert "Not compared: the run has not finished" in text
        assert "protoseg train --resume" in text
        assert HOSTILE in text  # the names are known from the data

    def test_no_run_at_all(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(tmp_path)]) == 2
        assert "there is no run in" in capsys.readouterr().err
        assert main(["report", str(tmp_path), "--format", "voc"]) == 2
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["result.json", "run.json", "examples/examples.json", TALLY, "config.yaml"])
    def test_a_damaged_file_is_named(self, run: Run, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(run.out, tmp_path / "run")
        (tmp_path / "run" / name).write_text("{")
        assert main(["report", str(tmp_path / "run")]) == 2
        assert f"{name} is damaged" in capsys.readouterr().err

    def test_pictures_come_from_the_run_alone(self, run: Run, tmp_path: Path) -> None:
        shutil.copytree(run.out, tmp_path / "run")
        (tmp_path / "secret.png").write_bytes(b"secret")
        stored = tmp_path / "run/examples/examples.json"
        stored.write_text(stored.read_text().replace("0-image.jpg", "../../secret.png"))
        assert main(["report", str(tmp_path / "run")]) == 2

    def test_no_score_without_images_to_score_on(self, tmp_path: Path) -> None:
        data = make_folder(tmp_path / "data", train=4, labeled=2)
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "out")]) == 0
        page = Page((tmp_path / "out/report.html").read_text())
        assert "Not compared: nothing was scored" in page.text
        assert "no labelled images were kept to score on" in page.text
        assert len(page.of("img")) == 1

    def test_labels_alone_are_compared_with_nothing(self, run: Run) -> None:
        assert gather(run.out / "baseline").verdict.headline == "not compared: this model learned from labels only"

    def test_a_run_without_a_baseline_says_how_to_get_one(self, run: Run, tmp_path: Path) -> None:
        shutil.copytree(run.out, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/baseline")
        story = gather(tmp_path / "run")
        assert story.verdict.headline == "not compared: run with --baseline"
        assert 'run with <span class="unbroken">--baseline</span></h2>' in render(story)

    def test_options_and_shares_stay_on_one_line(self) -> None:
        assert unbroken("with --a.b-c. <95 % of --b>") == (
            'with <span class="unbroken">--a.b-c</span>. &lt;<span class="unbroken">95 %</span> of '
            '<span class="unbroken">--b</span>&gt;'
        )


class TestEvaluate:
    def test_leaves_a_report_of_its_own(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = run.html
        assert main(["evaluate", str(run.out), str(run.data), "--flip"]) == 0
        out = run.out / "evaluate-data"
        assert str(out / "report.html") in capsys.readouterr().out
        assert run.html == before
        text = " ".join(Page((out / "report.html").read_text()).text.split())
        stored = json.loads((out / "result.json").read_text())
        assert stored["inference"]["flip"] is True
        assert f"mIoU {100 * stored['miou']:.1f} %" in text
        assert f"5 test images of {run.data}" in text
        assert "Not compared: evaluate with --baseline, where one was trained" in text
        assert "protoseg evaluate" in text
        assert "flip True" in text

    def test_compares_with_labels_only_when_asked_to(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["evaluate", str(run.out), str(run.data), "--split", "test", "--out", str(tmp_path)]
        assert main([*words, "--baseline"]) == 0
        result = json.loads((run.out / "result.json").read_text())  # of the same images
        scores = [f"{100 * part['miou']:.1f}" for part in (result["baseline"], result)]
        printed = capsys.readouterr().out
        assert ["mIoU", *scores] in [line.split() for line in printed.splitlines()]
        assert f"changed mIoU by {100 * result['gain']:+.1f} points" in printed
        for ours, theirs in ((run.out, tmp_path), (run.out / "baseline", tmp_path / "baseline")):
            stored = [Tally.load(folder / TALLY) for folder in (ours, theirs)]
            assert (stored[0].confusion == stored[1].confusion).all()
        text = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
        assert f"difference {signed(result['gain'])} points" in text
        assert "paired bootstrap over 5 test images" in text
        assert "class labels only ours difference" in text
        layers = {
            layer["name"] for row in json.loads((tmp_path / "examples/examples.json").read_text()) for layer in row["layers"]
        }
        assert layers == {"truth", "labels only", "ours"}
        # Without it nothing of that is left.
        (tmp_path / "baseline/model.safetensors").touch()  # as where --out is a run folder: it stays
        assert main(words) == 0
        assert "Not compared" in Page((tmp_path / "report.html").read_text()).text
        assert [path.name for path in (tmp_path / "baseline").iterdir()] == ["model.safetensors"]

    def test_without_a_labels_only_model_there_is_nothing_to_compare_with(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(run.out / "model.safetensors", tmp_path)
        for alone in (tmp_path, tmp_path / "model.safetensors"):
            assert main(["evaluate", str(alone), str(run.data), "--baseline"]) == 2
            expected = f"there is no labels-only model in {alone} to compare with; train with --baseline, or leave it out here"
            assert expected in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

    def test_goes_where_it_is_told(self, run: Run, tmp_path: Path) -> None:
        shutil.copy(run.out / "model.safetensors", tmp_path / "model.safetensors")
        words = ["evaluate", str(tmp_path / "model.safetensors"), str(run.data), "--split", "test"]
        assert main([*words, "--no-report"]) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
        assert main([*words, "--out", str(tmp_path / "here")]) == 0
        assert "metrics.csv is not here" in Page((tmp_path / "here/report.html").read_text()).text
        assert main(words) == 0
        assert (tmp_path / "evaluate-data-test/report.html").is_file()

    def test_a_folder_that_cannot_be_written_stops_it_before_the_work(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        assert main(["evaluate", str(run.out), str(run.data), "--out", str(tmp_path / "file/x")]) == 2
        printed = capsys.readouterr()
        assert "cannot be made" in printed.err
        assert "--no-report" in printed.err
        assert "mIoU" not in printed.out
        assert main(["evaluate", str(run.out), str(run.data), "--no-report", "--out", "x"]) == 2


@pytest.mark.parametrize("name", ["evaluation.npz", "examples/examples.json", "result.json", "report.html"])
def test_a_full_disk_is_told_without_a_run_to_go_on_with(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `evaluate`, and by `report` where the page is what cannot be written; the page before is still there."""
    write = files._to_disk

    def full(path: Path) -> None:
        if path.name == f"{Path(name).name}.partial":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path)

    before = run.html
    monkeypatch.setattr(files, "_to_disk", full)
    commands = {"evaluate": ["evaluate", str(run.out), str(run.data), "--out", str(tmp_path)]}
    folders = {"evaluate": (tmp_path / name).parent, "report": run.out}
    if name == "report.html":
        commands["report"] = ["report", str(run.out)]
    for command, words in commands.items():
        capsys.readouterr()
        assert main(words) == 2
        expected = f"protoseg {command}: {folders[command]} cannot be written to (No space left on device)\n"
        assert capsys.readouterr().err == expected
    assert not (tmp_path / name).exists()
    assert not [*tmp_path.rglob("*.partial"), *run.out.rglob("*.partial")]
    assert run.html == before


def test_run_json_keeps_every_command_that_trained(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "my data", train=4, labeled=2, test=1)
    out = tmp_path / "out"
    words = ["train", str(data), *TINY, "--out", str(out)]
    assert main(words) == 0
    stored = json.loads((out / "run.json").read_text())
    assert stored["commands"] == [f"protoseg train '{data}' {' '.join(words[2:])}"]
    assert stored["data"]["labeled"] == 2
    assert yaml.safe_load((out / "config.yaml").read_text())["data"] == stored["data"]["folder"]
    (out / "result.json").unlink()
    assert main(["train", "--resume", str(out)]) == 0
    assert json.loads((out / "run.json").read_text())["commands"][1] == f"protoseg train --resume {out}"
    assert main(["train", "--resume", str(out)]) == 0  # finished: nothing is trained
    assert len(json.loads((out / "run.json").read_text())["commands"]) == 2
