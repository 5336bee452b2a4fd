"""The benchmarks' committed results: they are found again, and nothing is run twice."""

from __future__ import annotations

import json
import sys
import time
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_folder import TINY, make_folder

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import ablations
import branch
import doctor
import grid
import growth
import index as bench_index
import input as bench_input
import pool
import predict as bench_predict
import pseudo_labels
import recalibrate
import step
from ablations import ABLATIONS, Variant, ablation_table, variants
from protoseg.arguments import parse_train
from protoseg.bench import store
from protoseg.bench.cells import NAMED, is_cell
from protoseg.cli import main
from protoseg.data.duplicates import perceptual_hash
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.dry_run import differences

BENCHMARKS = Path(grid.__file__).parent
CAMVID, DEMO = (store.read(BENCHMARKS / f"results/{name}.jsonl") for name in ("camvid", "demo"))


def words(seed: int) -> list[str]:
    return [f"data{seed}"]


@pytest.mark.parametrize(
    ("rows", "recipe", "own"),
    [
        (CAMVID, "camvid@3a7d3a64", {"labels": "23", "scored": "test"}),
        (DEMO, "demo@aa124617", {}),
        (DEMO, "demo@bc132b08", {}),
    ],
    ids=["camvid", "demo", "the demo before"],
)
def test_finished_cells_are_found_again(rows: list[dict[str, object]], recipe: str, own: dict[str, str]) -> None:
    """With the recipe's identity as it was stored: today's recipe may be another one."""
    cell = {**own, "recipe": recipe}
    found = grid.unfinished(rows, list(NAMED), [0, 1, 2], words, recipe="demo", extra=[], cell=cell)
    assert found == []
    further = grid.unfinished(rows, ["prototypes"], [2, 3], words, recipe="demo", extra=[], cell=cell)
    assert [made.identity for made in further] == [{"method": "prototypes", "seed": 3, **cell}]
    assert further[0].words == ("data3", "--recipe", "demo", "--seed", "3", "--method", "prototype")
    tuned = grid.unfinished(rows, ["prototypes"], [2], words, recipe="demo", extra=[], cell=cell | {"settings": "--steps 9"})
    assert len(tuned) == 1


def test_what_a_grid_has_in_common() -> None:
    shared = grid.shared_identity("demo", ["--optimizer.lr", "1e-3"], size="64")
    assert shared.keys() == {"size", "recipe", "settings"}
    assert shared["settings"] == "--optimizer.lr 1e-3"
    assert shared["recipe"].startswith("demo@")
    assert len(shared["recipe"]) == len("demo@12345678")


def test_the_tables_of_committed_cells() -> None:
    """As they were printed before the tables moved into the package."""
    rows = [row for row in CAMVID if is_cell(row, {"recipe": "camvid@3a7d3a64", "labels": "23", "scored": "test"})]
    scores, classes, term = grid.tables(rows, list(NAMED))
    assert "| labels only | 0, 1, 2 | 48.7 ± 0.7 |  | 1000 | 1747 |" in scores
    assert "| CutMix teacher | 0, 1, 2 | 48.1 ± 0.3 | -0.6 ± 0.5 (" in scores
    assert "| sign_symbol | 16.7 | 9.7 | 5.2 |" in classes
    assert "| CutMix teacher | 0, 1, 2 | -0.6 ± 0.1 | -0.9 to -0.2 | hurts |" in term


@pytest.mark.parametrize("recipe", ["demo", "camvid"])
def test_contestants_differ_in_nothing_but_the_method(recipe: str) -> None:
    labels, teacher, prototypes = (parse_train(["data", "--recipe", recipe, *words]) for words in NAMED.values())
    assert [config.prototypes.per_class for config in (labels, teacher, prototypes)] == [0, 0, 4]
    assert prototypes.consistency.ema_momentum == 0.99
    for config in (labels, teacher):
        assert config.consistency.ema_momentum == prototypes.consistency.ema_momentum
        assert config.consistency.warmup_steps == prototypes.consistency.warmup_steps
        for part in ("steps", "crop", "batch", "model", "optimizer", "views", "loss", "trainer"):
            assert getattr(config, part) == getattr(prototypes, part), part


def test_a_failed_cell_ends_a_grid_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = grid.arguments("", tmp_path / "r.jsonl").parse_args(["--seeds", "0", "--methods", "labels only"])
    with pytest.raises(SystemExit) as stop:
        grid.run(options, [], lambda _: [str(tmp_path / "nowhere")], recipe="demo", hide={})
    assert stop.value.code == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["demo", "camvid"])
def test_every_ablation_has_the_recipe_as_it_is_and_that_comes_first(recipe: str) -> None:
    found = variants(recipe, list(ABLATIONS))
    assert len(found) == sum(map(len, ABLATIONS.values()))
    assert [variant.ablation for variant in found if not variant.words] == list(ABLATIONS)
    assert not any(variant.words for variant in found[: len(ABLATIONS)])


def test_an_ablation_changes_one_setting() -> None:
    as_it_is = parse_train(["data", "--recipe", "demo"]).to_dict()
    changed: dict[str, set[str]] = {name: set() for name in ABLATIONS}
    for ablation, _, words in variants("demo", list(ABLATIONS)):
        config = parse_train(["data", "--recipe", "demo", *words])
        setting = [text.split()[0] for text in differences(as_it_is, config.to_dict())]
        assert len(setting) == bool(words)
        changed[ablation].update(setting)
    assert changed == {
        "prototypes of each class": {"prototypes.per_class"},
        "images with the term": {"prototypes.per_class", "prototypes.images"},
        "start": {"prototypes.start"},
        "momentum of the prototypes": {"prototypes.momentum"},
        "CutMix": {"views.cutmix_probability"},
        "temperature": {"prototypes.temperature"},
        "points of an image": {"prototypes.grid"},
        "threshold": {"consistency.threshold"},
        "weight of the term": {"prototypes.weight"},
        "steps until the prototypes start": {"prototypes.delay"},
        "points of a cell": {"prototypes.points_per_cell"},
        "balance of the points": {"prototypes.balance"},
        "points that weigh more": {"prototypes.emphasis"},
        "projection": {"model.projection"},
        "features": {"prototypes.unit_features"},
        "class prior": {"prototypes.class_prior"},
        "pseudo-labels": {"prototypes.labels"},
    }


def test_an_ablation_is_compared_with_the_recipe() -> None:
    own = [Variant("start", "k-means", ()), Variant("start", "random", ("--prototypes.start", "random"))]
    costs = {"steps": 9, "seconds": 60.0, "seed": 100}
    rows = [{"miou": 0.5, **costs}, {"miou": 0.4, "settings": "--prototypes.start random", **costs}]
    rows.append({"miou": 0.1, "settings": "--prototypes.grid 8", **costs})
    header, _, *lines = ablation_table(rows, own, []).splitlines()
    assert header.startswith("| start | seeds | mIoU, last step | against k-means (as in the recipe) |")
    assert lines == ["| k-means (as in the recipe) | 100 | 50.0 |  | 9 | 60 |", "| random | 100 | 40.0 | -10.0 | 9 | 60 |"]
    longer = [{**row, "settings": f"--steps 9 {row.get('settings', '')}".strip()} for row in rows]
    assert ablation_table(longer, own, ["--steps", "9"]).splitlines()[2:] == lines
    assert len(ablation_table(longer, own, []).splitlines()) == 2  # those cells are others


def test_ablations_run_the_recipe_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ablation has the recipe as it is; on the demo, whose images are written when a cell needs them."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(ablations.demo, "write_demo", lambda *_, **__: None)
    monkeypatch.setattr(ablations, "run_cells", lambda cells, *_, **__: ran.extend(cell.words for cell in cells) or [])
    words = ["--seeds", "100,101", "--results", str(tmp_path / "r.jsonl"), "--steps", "900"]
    monkeypatch.setattr(sys, "argv", ["ablations.py", *words])
    ablations.main()
    assert len(ran) == 2 * (1 + sum(len(values) - 1 for values in ABLATIONS.values()))
    first = [words for words in ran if "--seed" in words and words[words.index("--seed") + 1] == "100"]
    assert ran[: len(first)] == first
    assert first[0][-2:] == ("--steps", "900")
    assert all(words.index("--steps") < len(words) - 2 for words in first[1:])


def test_the_doctor_is_timed_on_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "d.jsonl"
    doctor.main(["--images", "8", "--labeled", "4", "--test", "2", "--repeats", "1", "--results", str(results)])
    (kept,) = store.read(results)
    assert (kept["images"], kept["masks"], kept["runs"]) == (8, 6, [kept["seconds"]])
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[:2] == ["| 8", "6"]
    assert min(float(row[3]), float(row[6])) > 0
    assert row[4].endswith("in 1 runs")

    doctor.write_images(tmp_path / "data", 8, labeled=4, test=2)
    index = open_dataset(tmp_path / "data")
    assert [(sample.split, sample.mask is not None) for sample in index.samples] == (
        [("test", True)] * 2 + [("train", True)] * 4 + [("train", False)] * 2
    )
    images = [read_image(sample.image) for sample in index.samples]
    assert {image.shape for image in images} == {(375, 500, 3)}
    assert len({perceptual_hash(image) for image in images}) == 8
    with pytest.raises(ValueError, match="--labeled 7 and --test 2 are more than --images 8"):
        doctor.write_images(tmp_path, 8, labeled=7, test=2)


def test_what_the_teacher_would_teach() -> None:
    """Counted by hand: two classes of 10 and 2 pixels, a third that is nowhere."""
    every = np.array([[9, 1, 0], [1, 1, 0], [0, 0, 0]])
    confident = np.array([[8, 0, 0], [1, 0, 0], [0, 0, 0]])
    seen = pseudo_labels.compare(every, confident, ["wall", "pole", "sign"])
    assert seen["miou"] == pytest.approx((9 / 11 + 1 / 3) / 2)
    assert (seen["confident"], seen["right"]) == (pytest.approx(9 / 12), pytest.approx(8 / 9))
    pole = {"iou": 1 / 3, "recall": 0.5, "precision": 0.5, "predicted": 1.0}
    pole |= {"confidently_right": 0.0, "confidently_wrong": 0.5, "confidently_predicted": 0.0}
    assert seen["classes"]["pole"] == pytest.approx(pole)
    assert set(seen["classes"]["sign"].values()) == {None}
    lines = pseudo_labels.table(seen["classes"]).splitlines()
    assert lines[3:] == ["| pole | 33 | 50 | 50 | 1.00 | 0 | 50 | 0.00 |", "| sign |  |  |  |  |  |  |  |"]


def test_looks_into_a_finished_run_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_folder(tmp_path / "data", train=6, labeled=6, test=2)
    words = ["--labels", "2", "--steps", "4", "--consistency.warmup_steps", "2", "--out", str(tmp_path / "run")]
    assert main(["train", str(data), *TINY, *words]) == 0
    for script in (pool, pseudo_labels, recalibrate):
        monkeypatch.setattr(sys, "argv", ["look.py", str(tmp_path / "run"), "--head", "mean", "--results", str(tmp_path / "l")])
        script.main()
    rows = {row["look"]: row for row in store.read(tmp_path / "l")}
    assert {(row["run"], row["method"], row["head"], row["labeled"]) for row in rows.values()} == {
        ("run", "prototype", "mean", 2)
    }
    assert [rows["pool"][part]["images"] for part in ("unlabelled", "evaluation")] == [4, 2]
    assert rows["recalibrate"]["miou"]["as it is"] == rows["pool"]["evaluation"]["miou"]
    assert rows["pseudo-labels"]["miou"] == pytest.approx(rows["pool"]["unlabelled"]["miou"], abs=1e-6)


def test_the_branch_is_measured_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--crop", "65", "--batch", "2", "--channels", "8", "--classes", "3", "--per-class", "2", "--rounds", "1"]
    branch.main([*small, "--results", str(tmp_path / "b.jsonl")])
    (row,) = store.read(tmp_path / "b.jsonl")
    assert row["seconds"].keys() == row["peak_bytes"].keys() == {"at the points", "up-sampled first"}
    assert row["peak_bytes"]["up-sampled first"] > 2 * 65 * 65 * 8 * 4  # the map at the size of the images
    assert "equal results" in capsys.readouterr().out


def test_prediction_is_measured_beside_the_bare_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--encoder", "resnet18", "--side", "80", "--window", "48", "--images", "2", "--rounds", "1"]
    bench_predict.main(["speed", *small, "--results", str(tmp_path / "p.jsonl")])
    (row,) = store.read(tmp_path / "p.jsonl")
    assert row["windows"] == 2 * 2 * 2
    assert 0 < row["ratio"] == pytest.approx(row["seconds"]["network"] / row["seconds"]["predict"])
    assert f"predict reaches {row['ratio']:.2f} of the network's own speed" in capsys.readouterr().out


def test_the_memory_of_a_huge_image_is_measured(tmp_path: Path) -> None:
    results = ["--classes", "3", "--results", str(tmp_path / "p.jsonl")]
    for side, kind in (("700", "tiff"), ("1400", "png")):
        bench_predict.main(["memory", "--side", side, "--kinds", kind, *results])
    rows = store.read(tmp_path / "p.jsonl")
    assert [(row["kind"], row["side"], row["decoded"]) for row in rows] == [
        ("tiff", 700, 1_470_000),
        ("png", 1400, 5_880_000),
    ]
    assert rows[0]["grown"] > 1_470_000  # the image itself, and what the network makes of it
    assert rows[1]["grown"] > rows[0]["grown"] + 5_880_000 - 1_470_000


def test_memory_is_printed_in_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = SimpleNamespace(stdout=json.dumps({"grown": 5 << 30, "windows": 1, "seconds": 7.4}))
    monkeypatch.setattr(bench_predict, "subprocess", SimpleNamespace(run=lambda *_, **__: found, PIPE=None))
    for kind in ("tiff", "png"):
        monkeypatch.setattr(bench_predict, f"write_{kind}", lambda *_: None)
    bench_predict.main(["memory", "--side", "20000", "--results", str(tmp_path / "p.jsonl")])
    cells = "1.12 GiB | 5.00 GiB | 3.88 GiB | 7"
    assert capsys.readouterr().out.splitlines()[-2:] == [f"| {kind} | {cells} |" for kind in ("tiff", "png")]
    rows = store.read(tmp_path / "p.jsonl")
    assert [(row["decoded"], row["above"]) for row in rows] == 2 * [(1_200_000_000, 4_168_709_120)]


def test_the_images_of_the_memory_benchmark_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_predict, "_BLOCK", 90)
    monkeypatch.setattr(bench_predict, "_TILE", 64)
    bench_predict.write_tiff(tmp_path / "x.tif", 200)
    bench_predict.write_png(tmp_path / "x.png", 200)
    image = read_image(tmp_path / "x.png")
    assert (image == read_image(tmp_path / "x.tif")).all()
    assert (image[90:180, :90] == image[:90, 90:180]).all()


def test_a_step_of_each_method_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--methods", "supervised,prototype", "--crop", "32", "--batch", "2", "--rounds", "3", "--model.arch", "small_unet"]
    files = ["--results", str(tmp_path / "s.jsonl"), "--json", str(tmp_path / "s.json")]
    monkeypatch.setattr(sys, "argv", ["step.py", *words, "--model.width", "4", *files])
    run, seconds = (
        step.Step.run,
        chain([9, 9, 9, 9], [1, 8, 2, 2, 4, 4], repeat(9)),
    )  # of both in turns, the first two rounds do

    def timed(*given: Any) -> float:
        run(*given)
        return next(seconds)

    monkeypatch.setattr(step.Step, "run", timed)
    step.main()
    rows = store.read(tmp_path / "s.jsonl")
    assert rows == json.loads((tmp_path / "s.json").read_text())
    assert [(row["method"], row["against"]) for row in rows] == [("supervised", "supervised"), ("prototype", "supervised")]
    assert [row["seconds"] for row in rows] == [2, 4]
    assert rows[1]["peak_bytes"] > rows[0]["peak_bytes"] > 2 * 3 * 32 * 32 * 4  # at least its crops as floats
    assert (rows[1]["ratio"], rows[1]["quartiles"]) == (1, [1, 8])  # the median of 8, 1 and 1; not 4 to 2
    assert "| prototype | 4.0000 | 1.00 (1.00 to 8.00) | " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("inside", [False, True])
def test_a_pool_of_unlabelled_images_is_listed(tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for count in (30, 330):
        clock, held = iter([0, 1, 1, 3, 3, 6, 6, 10]), iter([10, 30])
        monkeypatch.setattr(bench_index, "time", SimpleNamespace(process_time=clock.__next__))
        monkeypatch.setattr(bench_index, "memory", lambda name, held=held: 50 if name == "VmHWM" else next(held))
        rows.append(bench_index.measure(*bench_index.write_data(tmp_path / f"{count}", count, 4, inside=inside)))
        packed = rows[-1].pop("packed")
        assert count < packed < 1000 + 100 * count  # bytes, of names that have much in common
        assert rows[-1] == {"list": 1, "divide": 2, "hash": 3, "pack": 4, "peak": 40, "held": 20, "unlabeled": count}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_is_counted_in_bytes() -> None:
    size = 1 << 27
    before, content = bench_index.memory("VmRSS"), np.ones(size, dtype=np.uint8)
    now, most = bench_index.memory("VmRSS"), bench_index.memory("VmHWM")
    del content
    assert most >= now > before + size // 2


def test_crops_are_counted_by_all_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_input, "SETTINGS", [bench_input.Setting(40, 30, ".jpg", 16)])
    starts, uncounted, counted = [0, 4, 4, 6], [6] * 5, [6, 7, 7, 15, 15, 17, 17, 18, 18, 22]
    clock = iter([*starts, *uncounted, *counted])
    monkeypatch.setattr(bench_input, "time", SimpleNamespace(process_time=clock.__next__, strftime=time.strftime))
    bench_input.main(["--images", "2", "--rounds", "1", "--results", str(tmp_path / "i.jsonl")])
    (row,) = store.read(tmp_path / "i.jsonl")
    speeds = {"decode": 2, "theirs": 0.25, "worker": 1, "cached": 2, "views": 0.5}
    assert {name: row[name] for name in speeds} == speeds
    assert (row["gain"], row["fill"], row["check"]) == (2, 2, 1)
    line = "| 40 x 30 jpg | 16 | 2 | 0.2 | 1 | 4.0 x | 0 | 1.3 x | 2 | 2.00 x | 2000.0 | 1000.0 |"
    assert line in capsys.readouterr().out.splitlines()


def test_the_growth_of_the_branch_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = iter([*[9] * 6, *(1, 2, 3, 4, 5, 6), *(2, 2, 2, 2, 2, 24)])  # the first round does not count
    monkeypatch.setattr(growth, "seconds", lambda *_: next(taken))
    words = ["--classes", "2,5", "--per-class", "1,3", "--crops", "65", "--channels", "8", "--rounds", "2"]
    growth.main([*words, "--results", str(tmp_path / "g.jsonl")])
    rows = store.read(tmp_path / "g.jsonl")
    sizes = [(21, 4, 257), (2, 1, 257), (2, 3, 257), (5, 1, 257), (5, 3, 257), (21, 4, 65)]
    assert [(row["classes"], row["per_class"], row["crop"]) for row in rows] == sizes
    assert [row["seconds"] for row in rows] == [1.5, 2, 2.5, 3, 3.5, 15]
    assert [row["ratio"] for row in rows] == [1, 1.5, 2, 2.5, 3, 9]  # the last one's of 6 and 12; not 15 to 1.5
    peaks = {size: row["peak_bytes"] for size, row in zip(sizes, rows, strict=True)}
    assert 0 < peaks[2, 1, 257] < peaks[5, 3, 257] < peaks[21, 4, 257]
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[-1] == f"| 21 | 4 | 65 | 15.0000 | 9.00 | {peaks[21, 4, 65] / 2**20:.0f} MiB |"
    assert len(lines) == len(sizes)
