"""The page of a benchmark says what the tables say, and what of it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from markupsafe import Markup
from PIL import Image

from protoseg.bench.cells import column_folder, folder_of
from protoseg.bench.compared import Found, headline
from protoseg.bench.page import Column, write_page
from protoseg.bench.tables import class_table, score_table
from protoseg.engine.tally import TALLY, Tally, make_tally
from protoseg.report.compare import paired_bootstrap, signed

HOSTILE = "<script>alert(1)</script>"
METHODS = ["supervised", "fixmatch", "fixmatch+prototypes"]


def row(method: str, seed: int, miou: float, **own: Any) -> dict[str, Any]:
    cost = {"steps": 9, "seconds": 60.0, "labeled": 4, "unlabeled": 7, "evaluated": 2, "machine": "2 cores"}
    split = {"evaluation": "test", "hash": f"hash{seed}"}
    made = {
        "recipe": "demo@1",
        "versions": {"torch": "9", "commit": None},
        "finished": "2026-01-01",
        "command": f"train {method}",
    }
    made |= {"labels": "4"}
    return {"method": method, "seed": seed, "miou": miou, "iou": {HOSTILE: miou}, "split": split, **cost, **made, **own}


ROWS = [
    *(row("supervised", seed, 0.40 + seed / 100) for seed in (0, 1, 2)),
    *(row("fixmatch", seed, 0.45 + seed / 90) for seed in (0, 1, 2)),
    *(row("fixmatch+prototypes", seed, 0.45 + seed / 90 + (-1) ** seed / 100) for seed in (0, 1, 2)),
]


def written(folder: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    options: dict[str, Any] = {"against": ["supervised"], "name": "shapes", "layout": "folder", "legend": "Points are points."}
    labels = dict.fromkeys(row["labels"] for row in rows)
    columns = [
        Column(f"labels {n}: 4 labelled images", "drawn anew by each seed", [r for r in rows if r["labels"] == n])
        for n in labels
    ]
    path = folder / "report.html"
    write_page(
        path,
        columns,
        METHODS,
        command="protoseg bench <data>",
        pictures=folder / "pictures",
        trainings=folder / "trainings",
        **options,
    )
    return path.read_text()


def test_every_cell_of_every_table_is_there(tmp_path: Path) -> None:
    text = written(tmp_path)
    cells = [unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", text)]
    for table in (score_table(ROWS, METHODS, against=["supervised"]), class_table(ROWS, METHODS)):
        assert all(cell in cells for line in table.lines for cell in line)
    assert all(row["command"] in cells for row in ROWS)
    assert "hash hash0; hash hash1; hash hash2" in text
    assert "torch 9" in text
    assert "commit" not in text  # of an installed package nobody knows it


def test_names_are_no_markup_and_nothing_is_asked_for(tmp_path: Path) -> None:
    text = written(tmp_path)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert "bench &lt;data&gt;" in text
    assert not re.search(r"""(src|srcset|href)=["'](?!data:|#)""", text)


def keep(folder: Path, kept: dict[str, Any]) -> Path:
    """The report of a training, as benchmarks keep it."""
    report = folder / "trainings" / folder_of(kept) / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("<title>its own report</title>")
    return report


def paint(folder: Path, of: dict[str, Any], methods: Sequence[str]) -> None:
    """Pictures of a column as trainings leave them: two images, all of the first class."""
    where = folder / "pictures" / column_folder(of)
    where.mkdir(parents=True)
    said = {"method": of["method"], "seed": of["seed"], "classes": [HOSTILE], "colors": [[1, 200, 3]]}
    (where / "shown.json").write_text(json.dumps(said))
    Image.new("RGB", (40, 30), (90, 90, 90)).save(where / "image.jpg")
    Image.new("RGB", (40, 30), (1, 200, 3)).save(where / "layer.png")
    layers = [
        {"name": name, "picture": "layer.png", "score": i / 10 if i else None, "shares": {HOSTILE: 1.0}}
        for i, name in enumerate(["truth", *methods])
    ]
    rows = [{"rank": rank, "name": f"{rank} {HOSTILE}", "size": [40, 30], "image": "image.jpg"} for rank in ("worst", "best")]
    (where / "examples.json").write_text(json.dumps([row | {"layers": layers} for row in rows]))


def test_pictures_are_of_the_methods_of_the_page_and_the_best_shows_first(tmp_path: Path) -> None:
    assert "pictures" not in written(tmp_path).partition("<body")[2].partition("<script")[0]
    paint(tmp_path, ROWS[0], [*METHODS, "of another grid"])
    text = written(tmp_path)
    assert HOSTILE not in text
    right = re.search('<select id="labels-1-right".*?</select>', text)
    assert right is not None
    assert re.findall("<option[^>]*>(.*?)</option>", right[0]) == ["image", "truth", *METHODS]
    best = max(METHODS, key=lambda method: sum(row["miou"] for row in ROWS if row["method"] == method))
    assert re.findall("<option selected>(.*?)</option>", right[0]) == [best]
    assert "By the mean IoU of supervised, seed 0," in text
    assert text.count("fixmatch 20.0 %") == 2  # under each image


@pytest.mark.parametrize("name", ["examples.json", "layer.png", "image.jpg"])
def test_damaged_pictures_are_named_and_the_numbers_stay(name: str, tmp_path: Path) -> None:
    paint(tmp_path, ROWS[0], METHODS)
    (file,) = tmp_path.glob(f"pictures/*/{name}")
    file.rename(file.with_suffix(".gone"))
    if name == "examples.json":
        file.write_text("[")
    text = re.sub("</?span[^>]*>", "", unescape(written(tmp_path)))
    said = (
        f"{file} is damaged ("
        if name == "examples.json"
        else f"{file.with_name('examples.json')} names {name}, which is not there"
    )
    assert said in text
    assert f"remove {file.parent}, and later trainings make its pictures anew" in text
    assert "labels-1-right" not in text
    assert "supervised 41.0 % mIoU, mean over 3 seeds" in text


def test_pictures_of_other_methods_alone_are_not_shown(tmp_path: Path) -> None:
    paint(tmp_path, ROWS[0], ["of another grid"])
    assert "labels-1-right" not in written(tmp_path)


def keep_tallies(folder: Path, rows: Sequence[dict[str, Any]], hits: Sequence[Sequence[int]]) -> None:
    """Tallies of trainings, two classes, ten pixels of either in each image; how many are right of the first class."""
    for one, counts in zip(rows, hits, strict=True):
        images = [(f"image {i}", torch.tensor([[right, 10 - right], [0, 10]])) for i, right in enumerate(counts)]
        (folder / "trainings" / folder_of(one)).mkdir(parents=True)
        make_tally(2, images).save(folder / "trainings" / folder_of(one) / TALLY)


@pytest.mark.parametrize("times", [8, 6])
def test_one_seed_is_compared_over_its_images_and_says_so(times: int, tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[3]]
    assert "No comparison: it takes" in written(tmp_path, rows)  # nothing is known of the images
    keep_tallies(tmp_path, rows, ([1, 2, 3] * times, [7, 8, 9] * times))
    text = re.sub("</?span[^>]*>", "", unescape(written(tmp_path, rows)))
    tallies = [Tally.load(tmp_path / "trainings" / folder_of(one) / TALLY) for one in rows]
    interval = paired_bootstrap(tallies[1].pixels, tallies[0].pixels)
    assert interval.low > 0
    ends = f"{signed(interval.low)} to {signed(interval.high)}"
    images = "24 images" if times == 8 else "18 images (fewer than 20: the interval is too narrow)"
    by = f"by paired bootstrap over {images} of one seed, which leaves run-to-run variation out: better"
    assert text.count(f"ixmatch against supervised: +5.0 points, 95 % interval {ends} {by}") == 2
    assert "the best on these images, fixmatch 45.0 % mIoU, one seed; supervised 40.0 % mIoU, one seed" in text
    assert "An interval of one seed is by paired bootstrap" in text


def test_seeds_count_where_there_are_several(tmp_path: Path) -> None:
    keep_tallies(tmp_path, ROWS, [[1, 2, 3]] * len(ROWS))
    assert "bootstrap" not in written(tmp_path)


def test_a_damaged_tally_is_named(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[3]]
    keep_tallies(tmp_path, rows, ([1, 2], [3, 4]))
    file = tmp_path / "trainings" / folder_of(rows[0]) / TALLY
    file.write_bytes(b"no zip")
    text = unescape(written(tmp_path, [*rows, ROWS[6]]))  # two comparisons with it
    assert text.count(f"{file} is damaged; delete it, and its training is no longer compared over its images") == 1


def test_alarms_of_trainings_are_said(tmp_path: Path) -> None:
    rows = [*ROWS[1:], ROWS[0] | {"alarms": ["step 70: one class takes all"]}]
    assert "Supervised, seed 0, step 70: one class takes all." in written(tmp_path, rows)


def test_trainings_whose_reports_are_there_are_linked_to(tmp_path: Path) -> None:
    linked = "The list of all trainings links to their own reports"
    assert linked not in written(tmp_path)
    named = row("fixmatch", 9, 0.4, labels="wei\u00df & <b>")  # a list file may be called so
    reports = [keep(tmp_path, kept) for kept in (ROWS[3], named)]
    text = written(tmp_path, [*ROWS, named])
    links = [unquote(unescape(link)) for link in re.findall('<a href="([^#"]+)"', text)]
    assert [tmp_path / link for link in links] == reports
    assert not any(Path(link).is_absolute() for link in links)
    assert linked in text
    assert 'aria-label="report of fixmatch, labels wei\u00df &amp; &lt;b&gt;, seed 9"' in text


def test_comparisons_are_said_with_their_interval(tmp_path: Path) -> None:
    text = re.sub("</?span[^>]*>", "", unescape(written(tmp_path)))
    # By hand: gains of +1, -1, +1 points: mean 1/3, deviation 1.1547, and t(0.975, 2) = 4.3027.
    term = "the prototype term on fixmatch: +0.3 points, 95 % interval \u22122.5 to +3.2 over 3 seeds: no clear difference"
    assert text.count(term[1:]) == 2  # once as the headline: it is the only one of its kind
    assert re.search(r"Fixmatch against supervised: \+5\.1 points, .* over 3 seeds: better", text)
    assert "\u22122.5" in text


def test_other_images_are_warned_of(tmp_path: Path) -> None:
    other = [*ROWS[1:], row("supervised", 0, 0.4, split={"evaluation": "test", "hash": "another"})]
    assert "the methods did not get the same images" in written(tmp_path, other)
    assert "the methods did not get the same images" not in written(tmp_path)


def test_curves_are_means_over_seeds(tmp_path: Path) -> None:
    curves = {0: [[5, 0.2], [10, 0.4]], 1: [[5, 0.3], [7, 0.9], [10, 0.5]]}
    rows = [*(row("supervised", seed, 0.5, curve=curve) for seed, curve in curves.items()), row("supervised", 2, 0.9, curve=[])]
    rows += [row("fixmatch", 0, 0.6, curve=[[5, 0.1], [10, 0.6]]), row("fixmatch+prototypes", 0, 0.7, curve=[[10, 0.7]])]
    text = written(tmp_path, rows)
    (points,) = (json.loads(unescape(found)) for found in re.findall('data-points="([^"]+)"', text))
    assert (points["names"], points["x"]) == (["supervised", "fixmatch"], [5, 10])  # step 7 is of one seed alone
    assert points["values"] == [[25, 45], [10, 60]]
    assert "--evaluate-every" not in text


def test_without_curves_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    text = written(tmp_path, [*ROWS, row("supervised", 3, 0.4, curve=[[9, 0.4]])])
    assert "data-points" not in text
    assert "--evaluate-every" in text


def test_confusions_are_those_of_labels_only_and_the_best_other_method(tmp_path: Path) -> None:
    names = {"iou": {"sky": 0.5, HOSTILE: 0.5}}
    rows = [
        row("supervised", 0, 0.4, confusion=[[6, 4], [0, 1]], **names),
        row("supervised", 1, 0.4, confusion=[[2, 8], [3, 2]], **names),
        row("supervised", 2, 0.4, **names),  # of an earlier version
        row("fixmatch", 0, 0.395, confusion=[[7, 3], [0, 0]], **names),
        row("fixmatch+prototypes", 0, 0.39, confusion=[[1, 9], [9, 1]], **names),
    ]
    text = re.sub("<style>.*?</style>", "", written(tmp_path, rows), flags=re.DOTALL)
    mistakes = [unescape(re.sub("<.*?>", "", found)) for found in re.findall(r"<li>(<b>.*? is called .*?)</li>", text)]
    assert mistakes == [
        f"30.0 % of sky is called {HOSTILE}",
        f"60.0 % of sky is called {HOSTILE}",
        f"50.0 % of {HOSTILE} is called sky",
    ]
    assert re.findall("<summary>Confusion matrix of (.*?)</summary>", text) == ["fixmatch", "supervised"]
    assert "--s:0.600" in text
    assert HOSTILE not in text
    assert "What is taken for what" not in written(tmp_path)


def found(signs: Sequence[int], *, over_seeds: bool = True) -> list[Found]:
    return [Found(f"that {sign}", Markup(), sign, over_seeds) for sign in signs]


@pytest.mark.parametrize(
    ("term", "unlabeled", "sentence", "sign"),
    [
        ([1, 1, 0], [], "the prototype term helped in 2 of 3 comparisons", 1),
        ([-1, 0], [1], "the prototype term hurt in 1 of 2 comparisons", -1),
        ([1, -1, 0], [], "the prototype term helped in 1 and hurt in 1 of 3 comparisons", 0),
        ([0, 0], [1, 1], "the prototype term: no clear difference in 2 comparisons", 0),
        ([], [1, 0], "training on unlabelled images helped in 1 of 2 comparisons", 1),
        ([1], [0], "that 1", 1),
    ],
)
def test_the_first_sentence(term: list[int], unlabeled: list[int], sentence: str, sign: int) -> None:
    assert headline(found(term), found(unlabeled)) == (sentence, sign)
    # Those of one seed change nothing where others are over seeds.
    of_one = found([1, -1], over_seeds=False)
    assert headline([*of_one, *found(term)], [*found(unlabeled), *of_one]) == (sentence, sign)


def test_the_first_sentence_of_one_seed() -> None:
    one, two = found([-1], over_seeds=False), found([-1, -1], over_seeds=False)
    assert headline(one, two) == ("that -1", -1)
    said = "the prototype term hurt in 2 of 2 comparisons, with one seed: that is without run-to-run variation"
    assert headline(two, one) == (said, -1)
    assert headline(one, found([1]))[0] == "that 1"  # over seeds, though it is about something else
    assert headline([], [])[0].startswith("no comparison: it takes a method with and without the prototype term")
