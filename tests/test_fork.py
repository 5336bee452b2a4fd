"""A contestant that starts from the prototype run's warm-up ends where its whole run ends, to the last bit."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from make_folder import make_folder
from safetensors.torch import load_file

from same_bits import differing, flat

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import fork
import grid
from protoseg.arguments import parse_train
from protoseg.bench.cells import NAMED, Cell
from protoseg.cli import main
from protoseg.engine.callbacks import Checkpoint
from protoseg.engine.resumable import load_state
from protoseg.stored import DamagedError

RECIPE = """
method: prototype
steps: 8
crop: 32
batch: 2
workers: 0
log_every: 1
checkpoint_every: 2
evaluate_every: 2
model: {arch: small_unet, width: 4, weights: none}
prototypes: {per_class: 2, grid: 8}
consistency: {threshold: 0.1, warmup_steps: 5}
optimizer: {lr: 1.0e-3}
trainer: {accelerator: cpu}
"""
END, LAST_IN_WARMUP = 5, 4
"""Of the warm-up, and the last checkpoint in it."""


class Grid(NamedTuple):
    cells: dict[str, Cell]
    runs: Path
    data: str
    beside: dict[int, Path]  # the folder of the prototype run as it was at a step


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """The prototype run, copied while it runs, and the contestants forked beside it."""
    root = tmp_path_factory.mktemp("grid")
    data = make_folder(root / "data", train=6, labeled=3, test=2)
    beside: dict[int, Path] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("mine.yaml").write_text(RECIPE)
        cell = grid.shared_identity("mine.yaml", [])
        made = grid.unfinished([], list(NAMED), [3], lambda _: [str(data)], recipe="mine.yaml", extra=[], cell=cell)
        cells = {str(one.identity["method"]): one for one in made}
        source = root / "runs" / cells["prototypes"].folder
        usual = Checkpoint.on_step

        def on_step(self: Checkpoint, trainer: Any, module: Any, step: int) -> None:
            usual(self, trainer, module, step)
            beside[step] = root / "beside" / str(step) / source.name
            shutil.copytree(source, beside[step])

        with pytest.MonkeyPatch.context() as watched:
            watched.setattr(Checkpoint, "on_step", on_step)
            assert main(["train", *cells["prototypes"].words, "--out", str(source)]) == 0
        yield Grid(cells, root, str(data), beside)


@pytest.mark.parametrize("method", fork.OTHERS)
def test_a_fork_ends_as_the_whole_run(ran: Grid, method: str) -> None:
    """Forked after step 7, when the last checkpoint is past the warm-up and the one before it is not."""
    cell = ran.cells[method]
    whole, forked = ran.runs / "whole" / cell.folder, ran.beside[7].with_name(cell.folder)
    if not forked.exists():
        assert sorted(fork.fork(ran.beside[7])) == sorted(
            ran.beside[7].with_name(ran.cells[name].folder) for name in fork.OTHERS
        )
    assert load_state(forked / "last.ckpt")["global_step"] == LAST_IN_WARMUP
    assert main(["train", *cell.words, "--out", str(whole)]) == 0
    assert main(["train", "--resume", str(forked)]) == 0
    assert differing(*(load_file(run / "model.safetensors") for run in (whole, forked))) == []
    states = [load_state(run / "last.ckpt") for run in (whole, forked)]
    assert differing(*(state["state_dict"] for state in states)) == []
    assert differing(*(flat(state["optimizer_states"]) for state in states)) == []
    assert metrics(whole) == metrics(forked)
    assert len(metrics(whole)) == 8
    assert (whole / "health.jsonl").read_text() == (forked / "health.jsonl").read_text()
    results = [json.loads((run / "result.json").read_text()) for run in (whole, forked)]
    assert all(
        results[0][key] == results[1][key] for key in ("method", "recipe", "miou", "iou", "split", "labeled", "unlabeled")
    )
    assert settings(whole) == settings(forked)
    # It can fail: the run it was forked from ends elsewhere.
    assert metrics(whole)[:END] == [without_prototypes(row, metrics(whole)[0]) for row in metrics(source_of(ran))[:END]]
    assert metrics(whole)[-1]["labeled"] != metrics(source_of(ran))[-1]["labeled"]


def test_a_fork_with_other_settings_of_the_term_ends_as_its_whole_run(ran: Grid, tmp_path: Path) -> None:
    words = ["--prototypes.emphasis", "uncertain", "--consistency.threshold", "0.2"]
    cell = grid.shared_identity("mine.yaml", words)
    (made,) = grid.unfinished([], ["prototypes"], [3], lambda _: [ran.data], recipe="mine.yaml", extra=words, cell=cell)
    source = shutil.copytree(ran.beside[4], tmp_path / ran.beside[4].name)
    *_, forked = fork.fork(source, also=[" ".join(words)])
    assert forked.name == made.folder
    assert load_state(forked / "last.ckpt")["global_step"] == LAST_IN_WARMUP
    whole = tmp_path / "whole"
    assert main(["train", *made.words, "--out", str(whole)]) == 0
    assert main(["train", "--resume", str(forked)]) == 0
    assert differing(*(load_file(run / "model.safetensors") for run in (whole, forked))) == []
    assert metrics(whole) == metrics(forked)
    assert settings(whole) == settings(forked)
    assert metrics(whole)[-1]["prototype_labeled"] != metrics(source_of(ran))[-1]["prototype_labeled"]


@pytest.mark.parametrize(
    "words",
    [
        *("--optimizer.lr 2e-3", "--prototypes.emphasis boundary --consistency.warmup_steps 4", "--prototypes.start random"),
        *("--prototypes.per_class 3", "--prototypes.class_prior true"),
    ],
)
def test_a_setting_that_changes_the_warm_up_is_no_fork(ran: Grid, tmp_path: Path, words: str) -> None:
    source = shutil.copytree(ran.beside[4], tmp_path / ran.beside[4].name)
    with pytest.raises(ValueError, match="changes the checkpoint of the warm-up too"):
        fork.fork(source, also=[words])
    assert [path.name for path in tmp_path.iterdir()] == [source.name], "nothing was left behind"


def test_a_run_is_forked_in_its_warm_up_alone(ran: Grid, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="past its warm-up, which ended at step 5: its checkpoints are of step 6 and 8"):
        fork.fork(shutil.copytree(ran.beside[8], tmp_path / "late" / ran.beside[8].name))
    with pytest.raises(ValueError, match="no checkpoint yet; --wait"):
        fork.fork(shutil.copytree(ran.beside[1], tmp_path / "early" / ran.beside[1].name))
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == [source_of(ran).name] * 2, "nothing was left behind"


def test_waiting_for_the_last_checkpoint_of_the_warm_up(ran: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks the run goes on by a step."""
    run, looks = tmp_path / source_of(ran).name, iter(range(1, 9))

    def go_on(seconds: float) -> None:
        shutil.copytree(ran.beside[next(looks)], run, dirs_exist_ok=True)

    monkeypatch.setattr(fork.time, "sleep", go_on)
    for out in fork.fork(run, wait=True):
        assert load_state(out / "last.ckpt")["global_step"] == LAST_IN_WARMUP
        assert [row["step"] for row in metrics(out)] == ["1", "2", "3", "4"]
    assert next(looks) == 5


def test_a_checkpoint_that_the_run_renames_meanwhile(ran: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two renames there is the one before alone, which is in the warm-up too."""
    run = shutil.copytree(ran.beside[4], tmp_path / ran.beside[4].name)
    (run / "last.ckpt").unlink()
    (out, *_) = fork.fork(run)
    assert load_state(out / "last.ckpt")["global_step"] == 2
    (run / "previous.ckpt").write_bytes(b"")
    (run / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(DamagedError, match=r"last\.ckpt is damaged"):
        fork.shared_state(run, parse_train(["--resume", str(run)]), wait=True)


def test_what_is_no_prototype_cell_is_not_forked(ran: Grid, tmp_path: Path) -> None:
    (out, *_) = fork.fork(shutil.copytree(ran.beside[4], tmp_path / ran.beside[4].name))
    with pytest.raises(ValueError, match="is no prototypes cell"):
        fork.fork(out)
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        fork.fork(tmp_path / ran.beside[4].name)
    with pytest.raises(FileNotFoundError, match="there is no run"):
        fork.fork(tmp_path / "nowhere")


def source_of(ran: Grid) -> Path:
    return ran.runs / "runs" / ran.cells["prototypes"].folder


def metrics(run: Path) -> list[dict[str, str]]:
    timing = {"seconds", "images_per_second"}
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in timing} for row in csv.DictReader(file)]


def without_prototypes(row: dict[str, str], columns: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name in columns}


def settings(run: Path) -> dict[str, Any]:
    stored: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())
    assert Path(stored.pop("out")).resolve() == run.resolve()
    return stored
