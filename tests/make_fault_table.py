"""Writes docs/bad-input.md: what can be wrong with data, and the message that each fault gets, from the cases of the tests.

python tests/make_fault_table.py
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "data")]

import pytest  # noqa: E402
import test_annotation_faults as annotations  # noqa: E402
import test_archive as archive  # noqa: E402
import test_class_list as class_list  # noqa: E402
from make_folder import TINY, make_folder  # noqa: E402
from make_formats import WRITERS, make_pictures  # noqa: E402

import test_bad_input as bad_input  # noqa: E402
from protoseg.cli import main  # noqa: E402
from protoseg.data.archive import unpack  # noqa: E402
from protoseg.data.class_list import read_class_list  # noqa: E402
from protoseg.run import load_data  # noqa: E402
from protoseg.settings import TrainConfig  # noqa: E402

PAGE = HERE.parent / "docs/bad-input.md"
_HEAD = """\
# Bad input

What can be wrong with a data set, and what protoseg says. Each row is a case of the tests; this page is written from them by
`python tests/make_fault_table.py`. Every message comes before training, with exit status 2, and nothing is written.

| data | what is wrong | message |
|---|---|---|
"""


def rows() -> Iterator[tuple[str, str, str]]:
    """Kind of data, fault, message."""
    for spoil in bad_input.SPOIL:
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch).resolve() / "data"
            make_folder(data, train=6, labeled=3, test=2)
            spoil(data)
            yield "folder", spoil.__name__.replace("_", " "), _message(data, "train", str(data), *TINY)
    for written, fault, change, _ in annotations.FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            data = Path(scratch).resolve() / "data"
            WRITERS[written][1](data, make_pictures())
            path = data / annotations.FILE[written]
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
            with pytest.raises((ValueError, FileNotFoundError)) as caught:
                load_data(TrainConfig(data=str(data)))
            yield written, fault, str(caught.value).replace(f"{data.parent}/", "")
    for fault, names, _ in archive.FAULTS:
        with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
            root = Path(scratch).resolve()
            patch.setenv("XDG_CACHE_HOME", str(root / "~/.cache"))
            with pytest.raises(ValueError, match=r"x\.zip") as caught:
                unpack(archive.write_zip(root / "x.zip", dict.fromkeys(names, b"one")))
            yield "zip", fault, str(caught.value).replace(f"{root}/", "")
    for file, text, _ in class_list.FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch).resolve()
            (root / file).write_text(text)
            with pytest.raises(ValueError, match=file) as caught:
                read_class_list(root)
            yield file, json.dumps(text) if text else "an empty file", str(caught.value).replace(f"{root}/", "")


def _message(data: Path, *words: str) -> str:
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        status = main([*words, "--out", str(data.parent / "run")])
    assert status == 2, error.getvalue()
    return error.getvalue().strip().removeprefix("protoseg train: ").replace(f"{data.parent}/", "")


def page() -> str:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\0", "␀")

    return _HEAD + "".join(f"| {cell(kind)} | {cell(fault)} | {cell(message)} |\n" for kind, fault, message in rows())


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE}: {PAGE.read_text().count(chr(10)) - _HEAD.count(chr(10))} rows")
