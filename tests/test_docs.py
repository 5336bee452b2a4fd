"""Pages that are written from the code are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import make_fault_table

TESTS = Path(__file__).parent

_OTHERS_WORDS = re.compile(r"(cannot be read|run-length code \().*")
"""What Pillow and Python say there may differ from version to version."""


def rows(page: str) -> list[str]:
    return [_OTHERS_WORDS.sub(r"\1", line) for line in page.splitlines()]


def test_the_page_of_bad_input_shows_todays_messages() -> None:
    written = make_fault_table.PAGE.read_text()
    assert rows(make_fault_table.page()) == rows(written), "run python tests/make_fault_table.py"
    assert written.count("\n| ") >= 30


def test_the_page_of_promises_names_tests_that_are_there() -> None:
    page = (TESTS.parent / "docs/reliability.md").read_text()
    sources = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?(?:::(\w+))?`", page)
    assert len(named) > 15
    for file, *names in named:
        for name in filter(None, names):
            assert re.search(rf"(def|class) {name}\b", sources[file]), f"{file} has no {name}"
        assert file in sources
