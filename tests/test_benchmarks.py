"""The benchmarks' committed results: they are found again, and nothing is run twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import grid
from protoseg.bench import store
from protoseg.bench.cells import NAMED, is_cell

BENCHMARKS = Path(grid.__file__).parent
CAMVID, DEMO = (store.read(BENCHMARKS / f"results/{name}.jsonl") for name in ("camvid", "demo"))


def words(seed: int) -> list[str]:
    return [f"data{seed}"]


@pytest.mark.parametrize(
    ("rows", "recipe", "own"),
    [
        (CAMVID, "camvid@3a7d3a64", {"labels": "23", "scored": "test"}),
        (DEMO, "demo@50329b7c", {}),
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


def test_a_failed_cell_ends_a_grid_with_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = grid.arguments("", tmp_path / "r.jsonl").parse_args(["--seeds", "0", "--methods", "labels only"])
    with pytest.raises(SystemExit) as stop:
        grid.run(options, [], lambda _: [str(tmp_path / "nowhere")], recipe="demo", hide={})
    assert stop.value.code == 1
    assert "FAILED" in capsys.readouterr().out
