"""Which cells a grid has, in which order, and what tells one from another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from protoseg.arguments import parse_train
from protoseg.bench import store
from protoseg.bench.cells import (
    METHODS,
    NAMED,
    Labels,
    base_of,
    column_folder,
    find_labels,
    folder_name,
    folder_of,
    is_cell,
    make_cells,
    method_words,
)

CELL = {"method": "prototypes", "seed": 0, "recipe": "demo@12345678"}


@pytest.mark.parametrize(
    ("row", "same"),
    [
        (CELL, True),
        (CELL | {"miou": 0.5, "steps": 3}, True),
        (CELL | {"seed": 1}, False),
        (CELL | {"recipe": "demo@87654321"}, False),
        (CELL | {"settings": "--optimizer.lr 1"}, False),
        (CELL | {"size": "48"}, False),
        (CELL | {"list": "23.txt@12345678"}, False),
        ({"method": "prototypes", "seed": 0}, False),
    ],
)
def test_which_row_is_a_cell(row: dict[str, object], same: bool) -> None:
    assert is_cell(row, CELL) is same


def test_which_row_is_a_tuned_cell() -> None:
    tuned = CELL | {"settings": "--optimizer.lr 1"}
    assert is_cell(tuned, tuned)
    assert not is_cell(CELL, tuned)


def grid(data: Path, *methods: str, labels: tuple[str, ...] = ("23", "46"), extra: tuple[str, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]
    """(labels, seed, method) of all cells in order."""
    found = [find_labels(text, data) for text in labels]
    cells = list(make_cells(data, found, methods, [0, 1], recipe="demo", extra=extra))
    return [(cell.identity["labels"], cell.identity["seed"], cell.identity["method"]) for cell in cells]


def test_a_whole_comparison_comes_first_then_seeds_then_labels(tmp_path: Path) -> None:
    assert grid(tmp_path, "b", "a") == [
        ("23", 0, "b"),
        ("23", 0, "a"),
        ("23", 1, "b"),
        ("23", 1, "a"),
        ("46", 0, "b"),
        ("46", 0, "a"),
        ("46", 1, "b"),
        ("46", 1, "a"),
    ]


def test_each_default_method_stands_without_and_with_the_term() -> None:
    pairs = list(zip(METHODS[::2], METHODS[1::2], strict=True))
    assert [base for base, _ in pairs] == ["supervised", "fixmatch", "unimatch_v2", "CutMix teacher"]
    assert [base_of(with_term) for _, with_term in pairs] == [base for base, _ in pairs]


@pytest.mark.parametrize("method", [*METHODS, *NAMED])
def test_the_words_of_a_cell_are_settings(method: str, tmp_path: Path) -> None:
    (cell,) = make_cells(tmp_path, [find_labels("1/8", tmp_path)], [method], [3], recipe="demo", extra=["--steps", "7000"])
    config = parse_train(cell.words)
    assert (config.data, config.recipe, config.labels, config.seed, config.steps) == (str(tmp_path), "demo", "1/8", 3, 7000)
    assert not config.baseline  # the recipe has one
    named = {"labels only": ("supervised", 0), "CutMix teacher": ("prototype", 0), "prototypes": ("prototype", 4)}
    per_class = 4 if "proto" in method else 0
    assert (config.method, config.prototypes.per_class) == named.get(method, (method.removesuffix("+prototypes"), per_class))


def test_everything_that_changes_a_number_is_in_the_identity(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/2.txt").write_text("a\nb\n")
    own = tmp_path / "own.yaml"
    own.write_text("extends: demo\n")

    def cell(*extra: str, labels: str = "2", recipe: str = str(own)) -> tuple[dict[str, object], str]:
        (made,) = make_cells(tmp_path, [find_labels(labels, tmp_path)], ["fixmatch"], [0], recipe=recipe, extra=extra)
        return dict(made.identity), made.folder

    plain = cell()
    others = [cell("--steps", "5"), cell(labels="3"), cell(recipe="demo")]
    (tmp_path / "splits/2.txt").write_text("a\nc\n")
    others.append(cell())
    own.write_text("extends: demo\nsteps: 5\n")
    others.append(cell())
    for identity, folder in others:
        assert not is_cell(identity, plain[0])
        assert folder != plain[1]
    assert len({folder for _, folder in others}) == len(others)


@pytest.mark.parametrize("extra", [(), ("--steps", "5")])
def test_a_finished_row_knows_its_folder(extra: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a\n")
    for labels in ("2", "1/8", "all", str(tmp_path / "own.txt")):
        (cell,) = make_cells(tmp_path, [find_labels(labels, tmp_path)], ["fixmatch"], [0], recipe="demo", extra=extra)
        digest = hashlib.sha256(json.dumps(cell.identity).encode()).hexdigest()[:8]  # of everything, in its order
        assert cell.folder.endswith(f"seed0-{digest}")
        store.append(tmp_path / "rows.jsonl", {**cell.identity, "miou": 0.5, "labeled": 2})
        assert folder_of(store.read(tmp_path / "rows.jsonl")[-1]) == cell.folder


def test_trainings_of_a_number_of_labels_share_a_folder_and_no_others_do(tmp_path: Path) -> None:
    found = [find_labels(labels, tmp_path) for labels in ("2", "1/8", "all")]
    grids = [
        make_cells(tmp_path, found, ["fixmatch", "prototype"], [0, 1], recipe="demo", extra=extra)
        for extra in ((), ("--steps", "5"))
    ]
    folders = [column_folder(cell.identity) for grid in grids for cell in grid]
    assert folders == [folder for folder in folders[::4] for _ in range(4)]
    assert len(set(folders)) == 6


class TestLabels:
    def test_a_number_is_the_published_list_where_there_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "splits").mkdir()
        (tmp_path / "splits/23.txt").write_text("a\n")
        found = find_labels("23", tmp_path)
        assert found.words == ("--labels", str(tmp_path / "splits/23.txt"))
        assert found.source == f"the list {tmp_path / 'splits/23.txt'}"
        assert found.identity["labels"] == "23"
        assert found.identity["list"].startswith("23.txt@")

    def test_any_other_number_is_drawn(self, tmp_path: Path) -> None:
        for text in ("24", "1/8"):
            assert find_labels(text, tmp_path) == Labels(text, ("--labels", text), "drawn anew by each seed", {"labels": text})

    def test_a_list_and_all(self, tmp_path: Path) -> None:
        own = tmp_path / "own.txt"
        own.write_text("a\n")
        assert (find_labels(str(own), tmp_path).name, find_labels(str(own), tmp_path).words) == ("own", ("--labels", str(own)))
        assert find_labels("all", tmp_path).words == ()

    def test_what_is_none_of_these(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="--labels few is no number"):
            find_labels("few", tmp_path)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("unimatch_v2+prototypes", "unimatch_v2"),
        ("prototype", "CutMix teacher"),
        ("prototypes", "CutMix teacher"),
        ("fixmatch", None),
        ("CutMix teacher", None),
    ],
)
def test_what_a_method_is_without_the_term(method: str, base: str | None) -> None:
    assert base_of(method) == base


def test_names_of_methods_that_are_not_named() -> None:
    assert method_words("fixmatch+prototypes") == ("--method", "fixmatch+prototypes")


def test_folder_names_are_short_enough_and_differ() -> None:
    assert folder_name("CutMix teacher", 0, "camvid@3a7d3a64") == "CutMix-teacher-0-camvid-3a7d3a64"
    long = [folder_name("x" * 300, end) for end in ("a", "b")]
    assert max(map(len, long)) <= 150
    assert long[0] != long[1]
