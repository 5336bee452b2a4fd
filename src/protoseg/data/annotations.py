"""What formats of annotation files share: reading JSON, and finding the images that it names, inside the data set alone."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from protoseg.data.archive import title
from protoseg.data.index import BACKGROUND, EXTRA, ClassTable, Split, default_colors, split_among
from protoseg.data.io import IMAGE_SUFFIXES, composed, is_text, walk


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested deeper than any annotation file.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"), parse_constant=_refuse, parse_int=_parse_int, parse_float=_parse_float
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8; save it in that encoding") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be an annotation file") from error


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no number of an annotation file")


def _parse_int(text: str) -> int:
    if len(text) > 18:
        raise ValueError("a number of an annotation file is longer than any pixel, area or id")
    return int(text)


def _parse_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no number of an annotation file")
    return number


def json_files(folder: Path) -> list[Path]:
    """The JSON files directly in a folder, sorted; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if is_json(path))


def is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def beginning(path: Path) -> str:
    """The first 64 Ki characters of a file, enough to tell a format: annotation files may be as long as half a gigabyte."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(1 << 16).lstrip()


_TOKEN = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*)"(?P<colon>\s*:)?|[{}\[\]]')


def outer_keys(head: str) -> frozenset[str]:
    """The keys of the JSON object that a text begins with, as far as it goes, without those of the objects inside it."""
    keys, depth = set[str](), 0
    if head.startswith("{"):
        for token in _TOKEN.finditer(head):
            if token["text"] is None:
                depth += 1 if token[0] in "{[" else -1
            elif token["colon"] and depth == 1:
                keys.add(token["text"])
    return frozenset(keys)


def mentions(path: Path, word: str) -> bool:
    """Whether a text file holds a word, however long it is."""
    tail = ""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while part := file.read(1 << 20):
            if word in tail + part:
                return True
            tail = part[-len(word) :]
    return False


def field(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field of a JSON object, checked.

    Raises:
        ValueError: the record is no object, lacks the field, or has something else in it.
    """
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{where} has no {name!r}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: {name!r} is {type(value).__name__}, which does not belong there")
    if isinstance(value, str):
        check_text(value, f"{where}: {name!r}")
    return value


def check_text(text: str, what: str) -> None:
    """Stop at half a letter (`\\ud800` without the other half), which JSON can hold and no list, picture or result.

    Raises:
        ValueError: it is no text.
    """
    if not is_text(text):
        raise ValueError(f"{what} is {text!a}, which is no text in UTF-8; correct it")


def size_field(record: Any, height: str, width: str, where: str) -> tuple[int, int]:
    """(H, W) out of two fields.

    Raises:
        ValueError: one is missing or no length of an image. (A mask is made in that size before the image is opened.)
    """
    size = int(field(record, height, (int, float), where)), int(field(record, width, (int, float), where))
    if min(size) < 1 or size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{where} is {size[1]}x{size[0]} pixels, which no image is")
    return size


_MOST_PIXELS = 1 << 28  # 16,384 x 16,384; more in an annotation file is an error or an attack
_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # bytes, on every usual system
_SHOWN = 40  # letters of a name that is too long for a message


class ImageFinder:
    """Finds the images that annotation files name.

    A path counts from the annotation file's folder, then from the data set's, then from its `images/`; else the only image
    of that file name anywhere in the data set is meant, because tools write the paths of the machine they ran on.

    Args:
        root: of the data set.
        folders: further ones that the user has named. What lies outside of all these is never opened.
    """

    def __init__(self, root: Path, folders: Sequence[Path] = ()) -> None:
        self.root = root
        self.folders = tuple(folder for folder in folders if not folder.is_relative_to(root))

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """All images of the data set and of the further folders."""
        found = (path for folder in (self.root, *self.folders) for path in walk(folder))
        return tuple(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)

    def beside(self, annotated: Iterable[Path]) -> list[Path]:
        """The images in the folders of annotated ones: those without an annotation are unlabelled. Pictures elsewhere below
        the data set's folder (results of runs, masks for the eye) are no data.

        Raises:
            ValueError: two of them have the same name, suffix aside.
        """
        folders = {path.parent for path in annotated}
        found = [path for path in self.images if path.parent in folders]
        for first, second in pairwise(found):
            if first.with_suffix("") == second.with_suffix(""):
                raise ValueError(f"{first} and {second} have the same name; keep one of them")
        return found

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        table: dict[str, list[Path]] = {}
        for path in self.images:
            table.setdefault(composed(path.name), []).append(path)
        return table

    def find(self, text: str, *, beside: Path, names: Sequence[str] = ()) -> Path:
        """The image that an annotation file names.

        Args:
            text: path as the file has it.
            beside: the annotation file.
            names: further file names to look for, best first.

        Raises:
            FileNotFoundError: there is none, or the path leads out of the data set.
            ValueError: several images have that name, or no file can have it.
        """
        wanted = text.replace("\\", "/")  # written on Windows
        if "\0" in wanted:
            raise ValueError(f"{beside} names an image with a zero byte in its name")
        if not is_text(wanted):
            raise ValueError(f"{beside} names an image {text!a}, which is no text in UTF-8; write the name of its file")
        length = len(wanted.encode())
        if length > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in wanted.split("/")):
            raise ValueError(
                f"{beside} names an image {text[:_SHOWN]}..., and these {length} bytes are more than any file's name has; "
                "write the name of its file"
            )
        allowed = (self.root, *self.folders)
        for folder in (beside.parent, self.root, self.root / "images"):
            path = Path(os.path.normpath(folder / wanted))  # `..` is resolved, links are not: those the user made himself
            if any(path.is_relative_to(a) for a in allowed) and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                return path
        for name in (wanted.rsplit("/", 1)[-1], *names):
            found = self._by_name.get(composed(name), [])
            if len(found) > 1:
                raise ValueError(f"{beside} names {text}, and both {found[0]} and {found[1]} are called so")
            if found:
                return found[0]
        raise FileNotFoundError(f"{beside} names {text}, but no such image is in {' or '.join(map(str, allowed))}")

    def name_of(self, image: Path) -> str:
        """Name of a sample: the path below the data set's folder, without suffix; that of a further folder says so."""
        for folder in self.folders:
            if image.is_relative_to(folder) and not image.is_relative_to(self.root):
                return f"{EXTRA}{title(folder)}/{image.relative_to(folder).with_suffix('').as_posix()}"
        return image.relative_to(self.root).with_suffix("").as_posix()


def split_of(name: str) -> Split:
    """The images below a folder called after an evaluation split belong to it; all others train."""
    return split_among(name.split("/")[:-1])


def table_with_background(names: Sequence[str]) -> ClassTable:
    """Class 0 is what no shape covers; a name "background" among the classes is the same."""
    others = [name for name in names if name != BACKGROUND]
    colors = ((0, 0, 0), *default_colors(len(others)))
    return ClassTable((BACKGROUND, *others), tuple((i,) for i in range(len(others) + 1)), colors)
