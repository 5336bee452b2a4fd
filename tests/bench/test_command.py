"""`protoseg bench` from the words to the tables, with trainings of two steps."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, make_folder
from PIL import Image

from bench.test_page import row as make_row
from protoseg.arguments import parse_train
from protoseg.bench import running, store
from protoseg.bench.cells import Labels, find_labels, folder_of, make_cells
from protoseg.bench.command import columns_of, report
from protoseg.bench.pictures import read_pictures
from protoseg.cli import main
from protoseg.engine.metrics import iou

METHODS = ["supervised", "fixmatch+prototypes"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_folder(tmp_path_factory.mktemp("bench") / "cells", train=6, labeled=None, test=2)
    (root / "splits").mkdir()
    (root / "splits/3.txt").write_text("img_00\nimg_01\nimg_02\n")
    return root


def words(data: Path, out: Path, *more: str, methods: str = ",".join(METHODS), seeds: str = "0,1") -> list[str]:
    grid = [str(data), "--labels", "3", "--methods", methods, "--seeds", seeds, "--out", str(out)]
    return ["bench", *grid, *TINY, "--log-every", "1", *more]


@pytest.mark.parametrize("given", ["here --steps 2", "--steps 2 here", "--steps 2 --data here", "--seeds 0 here --steps=2"])
def test_the_data_may_stand_anywhere(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the trainings that follows it, or comes before, keeps its value."""
    seen = []
    monkeypatch.setattr("protoseg.bench.command.bench", lambda data, **options: seen.append((data, options["extra"])) or 0)
    assert main(["bench", *given.split()]) == 0
    ((root, extra),) = seen
    assert root == Path("here")
    assert " ".join(extra).replace("=", " ") == "--steps 2"


@pytest.mark.parametrize("given", ["--data camvid --root here", "--root here camvid"])
def test_the_layout_may_be_named(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("protoseg.bench.command.bench", lambda data, **options: seen.append((data, options)) or 0)
    assert main(["bench", *given.split(), "--steps", "2"]) == 0
    ((root, options),) = seen
    assert (root, options["out"]) == (Path("here"), Path("bench/here"))
    config = parse_train([str(root), *options["extra"]])
    assert (config.data, config.format, config.steps) == ("here", "camvid", 2)


def test_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--labels", "3", "--steps", "2"]) == 2
    assert "protoseg bench data/ --labels" in capsys.readouterr().err


def test_from_images_to_tables(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two methods, two seeds, two steps; then the same again, which runs nothing."""
    out = tmp_path / "out"
    assert main(words(data, out, "--evaluate-every", "1")) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    assert f"{data} is read as folder\nlabels 3: the list {data / 'splits/3.txt'}" in printed
    rows = store.read(out / "results.jsonl")
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for s in (0, 1) for m in METHODS]
    assert {(row["labels"], row["labeled"], row["evaluated"], row["steps"]) for row in rows} == {("3", 3, 2, 2)}
    for row in rows:
        assert row["curve"][-1] == [2, round(row["miou"], 4)]
        assert row["images_per_second"] > 0
        assert iou(torch.tensor(row["confusion"])).mean == row["miou"]
        assert row["peak_bytes"] > 2**20
        assert "--evaluate-every 1" in row["settings"]
    assert len({row["split"]["hash"] for row in rows}) == 1
    table = (out / "table.md").read_text()
    assert table.strip() in printed
    for shown in ("## labels 3: 3 labelled images, the list", "best step", "against supervised", "| class 0 |", "hours a run"):
        assert shown in table, shown
    assert Image.open(out / "plot.png").width == 760
    assert printed.splitlines()[-1] == f"report: {out / 'report.html'}"
    page = (out / "report.html").read_text()
    for shown in ("4 finished trainings", "What is taken for what", 'data-points="'):
        assert shown in page, shown
    assert f"protoseg bench {data} --labels 3" in page
    assert not any((out / "runs").iterdir())
    shown = read_pictures(out / "pictures", rows[-1])
    assert shown is not None
    assert (shown.method, shown.seed, shown.methods) == ("supervised", 0, tuple(METHODS))
    for row in rows:
        report = Path("trainings") / folder_of(row) / "report.html"
        assert f'href="{report}"' in page
        assert f"<dd>{row['seed']}, of everything random" in (out / report).read_text()
    (left, worst), (_, best) = [(x["name"], x["layers"][1]["score"]) for x in shown.examples]
    assert worst <= best
    assert f'<figcaption><b>worst</b> <span class="name">{left}</span>' in page
    assert "By the mean IoU of supervised, seed 0," in page

    before = (out / "results.jsonl").read_bytes()
    assert main(words(data, out, "--evaluate-every", "1")) == 0
    assert (out / "results.jsonl").read_bytes() == before
    assert main(words(data, out, "--evaluate-every", "1", "--table")) == 0
    assert capsys.readouterr().out.count("| fixmatch+prototypes | 0, 1 |") == 2


BAR = "\N{BOX DRAWINGS LIGHT VERTICAL}"
"""Between the cells of a table on a terminal."""


@pytest.fixture
def finished(data: Path, tmp_path: Path) -> list[str]:
    """A command all of whose cells have been run."""
    command = words(data, tmp_path / "out")
    extra = command[command.index("--out") + 2 :]
    labels = [find_labels("3", data)]
    for number, cell in enumerate(make_cells(data, labels, METHODS, (0, 1), recipe="prototype", extra=extra)):
        row = make_row(cell.identity["method"], cell.identity["seed"], 0.4 + number**2 / 50)
        store.append(tmp_path / "out/results.jsonl", row | cell.identity)
    return command


def test_plain_lines_where_there_is_no_terminal(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(finished) == 0
    printed = capsys.readouterr().out
    assert "| fixmatch+prototypes | 0, 1 |" in printed
    assert "\x1b" not in printed
    assert BAR not in printed


def test_what_other_methods_left_in_the_folder_is_no_part_of_it(
    finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["prototype" if word == ",".join(METHODS) else word for word in finished]
    assert other != finished
    assert main([*other, "--table"]) == 0
    assert "there is no finished cell of this grid" in capsys.readouterr().out


def test_quiet(finished: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*finished, "--quiet"]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'out/report.html'}\n"


@pytest.mark.parametrize("no_color", [False, True])
def test_a_bar_and_tables_on_a_terminal(
    no_color: bool, finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take anything for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    assert main(finished) == 0
    printed = capsys.readouterr().out
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", printed)) == (not no_color)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    assert re.search(r"cells \S+ *4/4 ", shown)
    lines = [
        line for line in (tmp_path / "out/table.md").read_text().splitlines() if line.startswith("| fixmatch+prototypes |")
    ]
    assert lines
    for line in lines:
        cells = [re.escape(cell.strip()) for cell in line.strip("|").split("|")]
        assert re.search(rf" *{BAR} *".join(cells), shown), line
        assert line not in shown
    assert shown.splitlines()[-1] == f"report: {tmp_path / 'out/report.html'}"


def test_a_failing_cell_ends_with_status_1(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes are not started here: the first method dies, as of a lack of memory, the second leaves a run folder."""

    def die_or_train(command: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
        if "supervised" in command:
            streams["stdout"].write("CUDA out of memory\n")
            return subprocess.CompletedProcess(command, -9)
        folder = Path(command[command.index("--out") + 1])
        folder.mkdir(parents=True)
        result: dict[str, Any] = dict.fromkeys(("steps", "labeled", "unlabeled", "evaluated"), 3)
        result |= {"miou": 0.5, "iou": {"a": 0.5}, "seconds": 1.0, "peak_bytes": None, "versions": {}}
        (folder / "result.json").write_text(json.dumps(result | {"split": {"labels": "3", "evaluation": "test", "hash": "aa"}}))
        (folder / "metrics.csv").write_text("step,images_per_second\n2,5.0\n")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(running.subprocess, "run", die_or_train)
    assert main(words(data, tmp_path / "out", seeds="0")) == 1
    printed = capsys.readouterr().out
    assert "CUDA out of memory" in printed
    assert "failed: supervised, labels 3, seed 0: protoseg train ended with status -9" in printed
    assert "1 of 2 cells failed" in printed
    assert [row["method"] for row in store.read(tmp_path / "out/results.jsonl")] == METHODS[1:]
    assert "| fixmatch+prototypes | 0 | 50.0 |" in printed


def test_goes_on_with_the_run_of_a_cell_that_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[list[str]]()

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(command[4:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(running.subprocess, "run", run)
    folder = tmp_path / "run"
    running.train(("data",), folder, tmp_path / "log", {})
    folder.mkdir()
    (folder / "config.yaml").write_text("")
    running.train(("data",), folder, tmp_path / "log", {})
    assert started == [["data", "--out", str(folder)], ["data", "--resume", str(folder)]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seed", "3"], "sets --seed of each training; give --seeds"),
        (["--no-baseline"], "sets --baseline"),
        (["--dry-run"], "give protoseg train --dry-run"),
        (["--stpes", "3"], "did you mean --steps"),
        (["--methods", "supervised,fixmtach"], "there is no method 'fixmtach'"),
        (["--methods", "supervised,supervised"], "no method twice"),
        (["--labels", "few"], "--labels few is no number"),
        (["--seeds", "one"], "--seeds takes whole numbers"),
        (["--jobs", "0"], "must be 1 or more"),
        (["--no-evaluate"], "nothing to compare by"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    more: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(data, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_without_images_to_score_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", train=6, labeled=None)
    assert main([*words(data, tmp_path / "out"), "--labels", "2"]) == 2
    assert "keep some with --holdout 1/5" in capsys.readouterr().err


def test_several_label_counts_are_several_tables(tmp_path: Path) -> None:
    def row(labels: Labels, method: str, seed: int, miou: float) -> dict[str, Any]:
        costs = {"steps": 9, "seconds": 3600, "labeled": int(labels.name), "split": {"hash": f"{labels.name}{seed}"}}
        return {"method": method, "seed": seed, "miou": miou, "iou": {"sky": miou}, **labels.identity, **costs}

    few, many = (find_labels(text, tmp_path) for text in ("4", "8"))
    rows = [row(few, m, seed, 0.4 + seed / 10) for m in METHODS for seed in (0, 1)] + [row(many, METHODS[0], 0, 0.7)]
    text = report(columns_of(rows, [few, many]), METHODS)
    first, second = text.split("## labels 8")
    assert first.startswith("## labels 4: 4 labelled images, drawn anew by each seed\n")
    assert "| supervised | 0, 1 | 45.0 ± 7.1 |" in first
    assert "| supervised | 0 | 70.0 |" in second
    assert "fixmatch" not in second
    assert "95 % t-interval over seeds: one that holds zero shows nothing" in second
    assert report(columns_of([], [few]), METHODS) == ""


def test_drawn_labels_are_not_those_of_a_list(data: Path, tmp_path: Path) -> None:
    """The same number means something else once the list is gone."""
    shutil.copytree(data, tmp_path / "cells")
    shutil.rmtree(tmp_path / "cells/splits")
    assert find_labels("3", tmp_path / "cells").identity != find_labels("3", data).identity
