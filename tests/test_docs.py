"""Pages that are written from the code are up to date."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import make_fault_table

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import make_docs
import score_tables
from line_plot import line_plot
from protoseg.arguments import parse_train
from protoseg.bench.cells import recipe_identity
from protoseg.config import SECTIONS, build_class_rules, method_class
from protoseg.data.index import DataIndex
from protoseg.settings import ConsistencyConfig, PrototypesConfig, TrainConfig

TESTS = Path(__file__).parent

_OTHERS_WORDS = re.compile(r"(cannot be read|run-length code \().*")
"""What Pillow and Python say there may differ from version to version."""


def rows(page: str) -> list[str]:
    return [_OTHERS_WORDS.sub(r"\1", line) for line in page.splitlines()]


def test_the_page_of_bad_input_shows_todays_messages() -> None:
    written = make_fault_table.PAGE.read_text()
    assert rows(make_fault_table.page()) == rows(written), "run python tests/make_fault_table.py"
    assert written.count("\n| ") >= 30


@pytest.mark.parametrize("page", [*make_docs.PAGES, make_docs.METHODS_PAGE], ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_those_of_the_results(page: Path) -> None:
    written = page.read_text()
    assert make_docs.filled(page, written) == written, "run python benchmarks/make_docs.py"
    shapes = {"methods.md": r"\| \d\.\d( \||;)", "performance.md": r"\| \d\d\.\d \| \d\.\d\d \("}
    number = shapes.get(page.name, r"\| \d\d\.\d ±")
    spoilt = re.sub(number, lambda match: re.sub(r"\d+\.\d", "99.9", match[0]), written, count=1)
    assert spoilt != written
    assert make_docs.filled(page, spoilt) == written


@pytest.mark.parametrize("picture", make_docs.PLOTS, ids=lambda picture: picture.name)
def test_the_plots_are_those_of_the_results(picture: Path) -> None:
    assert make_docs.PLOTS[picture]() == picture.read_text(), "run python benchmarks/make_docs.py"
    root = ElementTree.fromstring(picture.read_text())
    assert sum(part.tag.endswith("circle") for part in root) > 3


def test_a_plot_places_points_by_their_logarithms() -> None:
    root = ElementTree.fromstring(line_plot({"a": [(1, 1), (10, 10), (100, 100)]}, x="x", y="<y>"))
    places = [(float(part.attrib["cx"]), float(part.attrib["cy"])) for part in root if part.tag.endswith("circle")]
    (x, y), (middle_x, middle_y), (last_x, last_y) = places
    assert x < middle_x < last_x
    assert y > middle_y > last_y
    assert middle_x == pytest.approx((x + last_x) / 2, abs=0.1)
    assert middle_y == pytest.approx((y + last_y) / 2, abs=0.1)
    assert "<y>" in "".join(root.itertext())


@pytest.mark.parametrize("name", ["demo", "camvid"])
def test_the_reported_numbers_are_those_of_todays_recipe(name: str) -> None:
    """Who changes a recipe trains its tables anew, or says on the page that they are of an earlier one."""
    assert {"demo": score_tables.DEMO, "camvid": score_tables.CAMVID}[name]["recipe"] == recipe_identity(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- end -->", "", "needs an <!-- end -->"),
        ("<!-- table: camvid -->", "<!-- table: camvit -->", "make_docs.py knows"),
        ("<!-- table: camvid -->", "", "none else"),
    ],
)
def test_a_place_without_a_table_is_noticed(old: str, new: str, message: str) -> None:
    page = make_docs.ROOT / "README.md"
    with pytest.raises(ValueError, match=message):
        make_docs.filled(page, page.read_text().replace(old, new, 1))


def test_both_learning_rates_show_what_has_run_and_what_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = [
        ("labels only", 0, 0.5, {}),
        ("CutMix teacher", 0, 0.4, {}),
        ("CutMix teacher", 0, 0.45, {"settings": "--optimizer.lr 3e-4"}),
        ("prototypes", 0, 0.46, {"settings": "--optimizer.lr 3e-4"}),
        ("prototypes", 1, 0.9, {"settings": "--optimizer.lr 1e-3"}),
    ]
    identity = {"recipe": "camvid@3a7d3a64", "labels": "23", "scored": "test"}
    cells = [{"method": method, "seed": seed, "miou": miou, **identity, **own} for method, seed, miou, own in ran]
    (tmp_path / "camvid.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    monkeypatch.setattr(score_tables, "RESULTS", tmp_path)
    assert score_tables.learning_rates().splitlines()[2:] == [
        "| labels only | 1e-4 | 50.0 | not run | not run | 50.0 |  |",
        "| labels only | 3e-4 | not run | not run | not run |  |  |",
        "| CutMix teacher | 1e-4 | 40.0 | not run | not run | 40.0 | -10.0 |",
        "| CutMix teacher | 3e-4 | 45.0 | not run | not run | 45.0 | -5.0 |",
        "| prototypes | 1e-4 | not run | not run | not run |  |  |",
        "| prototypes | 3e-4 | 46.0 | not run | not run | 46.0 | -4.0 |",
        "| what the term adds | 1e-4 | not run | not run | not run |  |  |",
        "| what the term adds | 3e-4 | +1.0 | not run | not run | +1.0 |  |",
    ]


def test_the_section_of_classes_on_the_page_of_formats_says_what_it_says(tmp_path: Path) -> None:
    (section,) = re.findall(r"```yaml\n(.*?)```", (TESTS.parent / "docs/formats.md").read_text(), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(section)
    rules = build_class_rules(parse_train(["data", "--recipe", str(tmp_path / "mine.yaml")]).classes)
    table = rules.table_of(DataIndex(Path(), "folder", (), None))
    assert table is not None
    classes = rules.apply(table)
    assert set(classes.names) == {"road", "vehicle", "sky"}
    numbers = {
        name: [value for value in classes.class_of if value < 256 and classes.class_of[value] == c]
        for c, name in enumerate(classes.names)
    }
    assert numbers == {"road": [7], "vehicle": [26, 27], "sky": [23]}
    assert classes.class_of[0] == 255


def test_the_page_of_promises_names_tests_that_are_there() -> None:
    page = (TESTS.parent / "docs/reliability.md").read_text()
    sources = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?(?:::(\w+))?`", page)
    assert len(named) > 15
    for file, *names in named:
        for name in filter(None, names):
            assert re.search(rf"(def|class) {name}\b", sources[file]), f"{file} has no {name}"
        assert file in sources


def settings_named(text: str) -> set[str]:
    """`section.name` in backquotes, with or without what is given to it."""
    return set(re.findall(rf"`(?:--)?((?:{'|'.join(SECTIONS)})\.\w+)(?= [^`]*`|`)", text))


def test_decisions_name_settings_that_are_there() -> None:
    pages = list((TESTS.parent / "docs/decisions").glob("*.md"))
    named = set[str]().union(*(settings_named(page.read_text()) for page in pages))
    assert len(named) > 20
    assert {name for name in named if not hasattr(getattr(TrainConfig(), name.split(".")[0]), name.split(".")[1])} == set()


def test_every_choice_of_the_paper_has_a_line_in_its_decision() -> None:
    """Whatever can be set about the prototype term, and about the consistency that the paper's method has."""
    (page,) = (TESTS.parent / "docs/decisions").glob("0002-*.md")
    own = inspect.signature(method_class("prototype")).parameters.keys() | {"weight", "ema_momentum", "warmup_steps"}
    of_consistency = {f"consistency.{field.name}" for field in dataclasses.fields(ConsistencyConfig) if field.name in own}
    assert {"consistency.threshold", "consistency.selection", "consistency.normalizer"} < of_consistency
    of_term = {f"prototypes.{field.name}" for field in dataclasses.fields(PrototypesConfig)}
    assert (of_term | of_consistency) - settings_named(page.read_text()) == set()
