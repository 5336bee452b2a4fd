"""What a run folder holds, read back: whole, cut short by a crash, and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protoseg.engine.callbacks import read_rows, read_shares
from protoseg.stage import read_finished
from protoseg.stored import is_number, is_score, is_text, is_whole, misfit, read_json

SHAPE = {"name": is_text, "sizes?": [is_whole], "scores?": {str: is_score}}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"name": "a"}, ""),
        ({"name": "a", "sizes": [1, -2], "scores": {"x": None, "y": 0.5, "z": float("nan")}, "further": object()}, ""),
        ({}, "'name' is missing"),
        ({"name": None}, "'name' is None"),
        ({"name": "a", "sizes": 3}, "'sizes' is no list"),
        ({"name": "a", "sizes": [1, True]}, "entry 1 of 'sizes' is True"),
        ({"name": "a", "sizes": [1 << 63]}, "entry 0 of 'sizes' is 9223372036854775808"),
        ({"name": "a", "scores": []}, "'scores' is no object"),
        ({"name": "a", "scores": {"x": float("inf")}}, "'x' of 'scores' is inf"),
        ([], "its content is no object"),
    ],
)
def test_what_does_not_fit_is_named(value: Any, why: str) -> None:
    assert misfit(value, SHAPE) == why


def test_numbers_can_be_drawn() -> None:
    for value in (float("nan"), float("inf"), 1e308, 10**400, True, "1", None):
        assert not is_number(value)
    assert is_number(-1)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "3", '{"name": 1}', "\xff".encode("latin-1")])
def test_a_damaged_file_is_named(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"x\.json is damaged \(.*\); take it away"):
        read_json(path, SHAPE, advice="take it away")
    with pytest.raises(ValueError, match=r"y\.json is missing or damaged"):
        read_json(path.with_name("y.json"), SHAPE, advice="take it away")


SCORE = {"miou": 0.5, "iou": {"a": 0.5, "b": None}, "evaluated": 2}
BASELINE = {"miou": 0.4, "iou": {"a": 0.4, "b": None}, "steps": 8, "seconds": 1.5}
RESULT: dict[str, Any] = {"skipped": [], "other_kind": [], "split": {"evaluation": "test"}, "steps": 8, "seconds": 1.5, **SCORE}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"baseline": BASELINE, "gain": 0.1}, ""),
        ({"miou": None}, "'miou' is None"),
        ({"iou": None}, "'iou' is no object"),
        ({"skipped": [3]}, "entry 0 of 'skipped' is 3"),
        ({"baseline": {**BASELINE, "iou": {"a": 0.4}}}, "'baseline' is of other classes"),
        ({"baseline": {"miou": 0.4}}, "'iou' is missing"),
    ],
)
def test_what_a_finished_run_says(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**RESULT, **change}))
    if not why:
        assert read_finished(path, scored=True) == {**RESULT, **change}
        return
    with pytest.raises(ValueError, match=r"result\.json is damaged") as error:
        read_finished(path, scored=True)
    assert why in str(error.value)


def test_a_run_that_was_not_scored(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({name: value for name, value in RESULT.items() if name not in SCORE}))
    assert "miou" not in read_finished(path, scored=False)
    with pytest.raises(ValueError, match="'miou' is missing"):
        read_finished(path, scored=True)


LINE = json.dumps({"step": 1, "labeled": [0.5, 0.5], "pseudo": [], "prototype_use": [[1.0]]}) + "\n"


@pytest.mark.parametrize("cut", ["", "{", LINE[:20], "x"])
def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path, cut: str) -> None:
    (tmp_path / "health.jsonl").write_text(LINE * 2 + cut)
    assert read_shares(tmp_path / "health.jsonl") == [json.loads(LINE)] * 2


@pytest.mark.parametrize(
    "content",
    [
        *(LINE + "{\n" + LINE, LINE + "[" * 100_000, "3\n", "null\n", '{"step": null}\n', LINE.replace("[]", "[0.1]")),
        *(LINE.replace("1,", '"1",', 1), "\xff"),
    ],
    ids=["in the middle", "deep", "a number", "nothing", "no step", "other classes", "a text", "no UTF-8"],
)
def test_damaged_shares_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "health.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"health\.jsonl is damaged \(.*\); put a whole copy in its place, or take it away"):
        read_shares(tmp_path / "health.jsonl")


ROWS = "step,seconds,loss,miou\r\n1,0.5,2.25,\r\n2,1.0,inf,0.5\r\n"


@pytest.mark.parametrize("cut", ["", "3", "3,1.5,", "3,1.5,0.1,", "3,1.5,0.1,1e-"])
def test_a_row_that_a_crash_cut_short_is_left_out(tmp_path: Path, cut: str) -> None:
    (tmp_path / "metrics.csv").write_text(ROWS + cut)
    assert [row["loss"] for row in read_rows(tmp_path / "metrics.csv")] == ["2.25", "inf"]


@pytest.mark.parametrize(
    "content",
    [
        *(ROWS.replace("step", "stop"), ROWS.replace("seconds", "second"), ROWS + "3,1.5,1\r\n", ROWS + "3,1.5,1,1,1\r\n"),
        *(ROWS + "x,1.5,0.1,\r\n", ROWS + "3,x,0.1,\r\n", ROWS + "3,1.5,x,\r\n", ROWS + "3,1.5,1e308,\r\n", ROWS + ",,,\r\n"),
        *(ROWS + "3,inf,0.1,\r\n", ROWS + "\xff\r\n", ROWS + '"' + "x" * 200_000 + "\r\n"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.csv is damaged \(.*\); put a whole copy in its place, or take it away"):
        read_rows(tmp_path / "metrics.csv")


def test_there_need_be_no_file(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "metrics.csv") == []
    assert read_shares(tmp_path / "health.jsonl") == []
