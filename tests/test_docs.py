"""Pages that are written from the code are up to date."""

from __future__ import annotations

import re

import make_fault_table

_OTHERS_WORDS = re.compile(r"(cannot be read|run-length code \().*")
"""What Pillow and Python say there may differ from version to version."""


def rows(page: str) -> list[str]:
    return [_OTHERS_WORDS.sub(r"\1", line) for line in page.splitlines()]


def test_the_page_of_bad_input_shows_todays_messages() -> None:
    written = make_fault_table.PAGE.read_text()
    assert rows(make_fault_table.page()) == rows(written), "run python tests/make_fault_table.py"
    assert written.count("\n| ") >= 30
