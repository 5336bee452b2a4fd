"""The class list that stands beside a data set: names, or names with the colours of RGB masks."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from protoseg.data.index import ClassTable, table_from_names
from protoseg.data.io import read_lines
from protoseg.data.masks import Color

FILES = ("classes.txt", "classes.csv", "class_dict.csv", "labelmap.txt")
_VALUE = "value"  # the column of a table with the numbers in the masks
_GAP = r"[\s,;]+"
_NUMBERED = re.compile(r"(?P<number>\d{1,6})(?:[:=,;)]|\.(?=\s)|\s)\s*(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)\s*[:=,;]\s*(?P<number>\d{1,6})")
_BEFORE_GAP = r"(?P<name>.*[^\s,;])"  # ends in none of a gap's characters: else each of a long row of them is tried as the end
_NAME_RGB = re.compile(rf"{_BEFORE_GAP}{_GAP}(?P<r>\d+){_GAP}(?P<g>\d+){_GAP}(?P<b>\d+)")
_AFTER_NAME = " :="
_NAME_HEX = re.compile(rf"{_BEFORE_GAP}{_GAP}#(?P<r>[0-9a-fA-F]{{2}})(?P<g>[0-9a-fA-F]{{2}})(?P<b>[0-9a-fA-F]{{2}})")
_RGB_NAME = re.compile(rf"(?P<r>\d+){_GAP}(?P<g>\d+){_GAP}(?P<b>\d+){_GAP}(?P<name>\S.*)")


def read_class_list(root: Path) -> ClassTable | None:
    """The class list of a folder; None where it has none.

    `classes.txt`: one class a line, `name`, `name R G B`, `name #RRGGBB` or `R G B name`; `# ` begins a comment. Where all
    names begin with a number (`1 cat`), or end with one after a colon or comma (`cat: 1`), it is their mask value.
    `classes.csv`, `class_dict.csv`: columns name, r, g, b, with commas, semicolons or tabs between; a column `value` holds the
    mask values.
    `labelmap.txt`: CVAT's `name:R,G,B::`. Without numbers, the order is that of 0, 1, ... in index masks.

    Raises:
        ValueError: several lists, an empty one, a name or a colour twice, a line that does not fit; with file and line.
    """
    found = sorted(path for path in root.iterdir() if path.name.lower() in FILES and path.is_file())
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1]} both list the classes; keep one of them")
    if not found:
        return None
    path = found[0]
    kind = path.name.lower()
    numbers: list[int] | None = None
    if kind.endswith(".csv"):
        lines, numbers = _csv(path)
    else:
        lines = _labelmap(path) if kind == "labelmap.txt" else _text(path)
    if not lines:
        raise ValueError(f"{path} is empty; write one class name a line, in the order of the mask values 0, 1, 2, ...")
    names, colors = [name for name, _ in lines], [color for _, color in lines if color is not None]
    if kind == "classes.txt":
        numbers, names = _numbers(path, names)
    if len(names) == 1 and "," in names[0]:
        raise ValueError(f"{path} holds one line, {names[0][:40]!r}; write one class name a line, without commas or brackets")
    _once(path, names)
    _once(path, colors)
    if colors and len(colors) < len(names):
        bare = next(name for name, color in lines if color is None)
        raise ValueError(f"{path} gives {len(colors)} of {len(names)} classes a colour, but {bare!r} none; give all or none")
    return table_from_names(names, colors or None, numbers=numbers)


def as_csv(classes: ClassTable) -> str:
    """What the numbers of written index masks mean: a `classes.csv` that `read_class_list` reads.

    Colours are left out where two classes share one, which a list is refused for.
    """
    colored = len(set(classes.colors)) == len(classes)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([_VALUE, "name", *("rgb" if colored else "")])
    for value, name, color in zip(classes.written, classes.names, classes.colors, strict=True):
        rows.writerow([value, name, *(color if colored else ())])
    return text.getvalue()


def _numbers(path: Path, names: list[str]) -> tuple[list[int] | None, list[str]]:
    """The mask values that are written beside the names, if any, and the names without them.

    Raises:
        ValueError: a value twice or out of range; only some of the names have one.
    """
    for pattern in (_NUMBERED, _NUMBER_LAST):
        found = [pattern.fullmatch(name) for name in names]
        matches = [match for match in found if match and not match["name"].isdigit()]
        if len(matches) == len(names):
            numbers = [int(match["number"]) for match in matches]
            _check_numbers(path, numbers)
            return numbers, [match["name"].strip() for match in matches]
        if len(matches) > 1 and 2 * len(matches) >= len(names):
            bare = next(name for name, match in zip(names, found, strict=True) if match not in matches)
            raise ValueError(
                f"{path} writes a number beside {len(matches)} of {len(names)} names, but none beside {bare!r}: give all their "
                "mask value (`1 cat`) or none"
            )
    return None, names


def _check_numbers(path: Path, numbers: list[int]) -> None:
    if (twice := next((number for number in numbers if numbers.count(number) > 1), None)) is not None:
        raise ValueError(f"{path} gives the mask value {twice} twice")
    if max(numbers, default=0) >= 1 << 16:
        raise ValueError(f"{path} gives the mask value {max(numbers)}; it takes numbers from 0 to 65535")


def _text(path: Path) -> list[tuple[str, Color | None]]:
    lines: list[tuple[str, Color | None]] = []
    for number, line in enumerate(read_lines(path), start=1):
        text = line.strip()
        if text == "#" or text.startswith("# "):
            continue
        if text.startswith("#"):
            raise ValueError(
                f"{path}, line {number}: {text[:40]!r} begins with #; write `# ` before a comment, or leave it out"
            )
        if match := _NAME_RGB.fullmatch(text) or _RGB_NAME.fullmatch(text):
            if match.re is _RGB_NAME and _NUMBERED.fullmatch(match["name"]):
                raise ValueError(f"{path}, line {number}: {text[:40]!r} begins with four numbers; write `NUMBER name R G B`")
            lines.append((match["name"].rstrip(_AFTER_NAME), _color([match[c] for c in "rgb"], f"{path}, line {number}")))
        elif match := _NAME_HEX.fullmatch(text):
            lines.append((match["name"].rstrip(_AFTER_NAME), (int(match["r"], 16), int(match["g"], 16), int(match["b"], 16))))
        elif text:
            lines.append((text, None))
    return lines


def _csv(path: Path) -> tuple[list[tuple[str, Color | None]], list[int] | None]:
    """Names and colours, and the mask values where there is a column of them."""
    text = read_lines(path)
    # Spreadsheets write semicolons where the comma is in numbers.
    separator = max(",;\t", key=text[0].count) if text else ","
    try:
        cells_of = csv.reader(text, delimiter=separator, skipinitialspace=True)
        rows = [[cell.strip() for cell in row] for row in cells_of if any(row)]
    except csv.Error as error:
        raise ValueError(f"{path} is no table of classes: {error}") from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    if header and "name" not in header:
        raise ValueError(f"{path} has the columns {', '.join(rows[0])}; it needs name, or name, r, g and b, in its first line")
    colored = {"r", "g", "b"} <= set(header)
    lines: list[tuple[str, Color | None]] = []
    values: list[int] | None = [] if _VALUE in header else None
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number} has {len(row)} columns, the first has {len(header)}")
        cells = dict(zip(header, row, strict=True))
        color = _color([cells[c] for c in "rgb"], f"{path}, row {number}") if colored else None
        lines.append((cells["name"], color))
        if values is not None:
            if not re.fullmatch(r"[0-9]{1,6}", cells[_VALUE]):
                raise ValueError(f"{path}, row {number}: {cells[_VALUE]!r} is no mask value; it takes a number from 0 to 65535")
            values.append(int(cells[_VALUE]))
    if values is not None:
        _check_numbers(path, values)
    return lines, values


def _labelmap(path: Path) -> list[tuple[str, Color | None]]:
    lines: list[tuple[str, Color | None]] = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.strip().partition(":")
        lines.append((name, _color(rest.split(":")[0].split(","), f"{path}, line {number}")))
    return lines


def _color(numbers: Sequence[str], where: str) -> Color:
    if len(numbers) != 3 or not all(re.fullmatch(r"\s*[0-9]{1,9}\s*", n) and int(n) < 256 for n in numbers):
        raise ValueError(f"{where}: {', '.join(numbers)!r} is no colour; it takes three numbers from 0 to 255")
    red, green, blue = (int(number) for number in numbers)
    return red, green, blue


def _once(path: Path, items: Sequence[str] | Sequence[Color]) -> None:
    seen = set[str | Color]()
    for item in items:
        if item in seen:
            raise ValueError(
                f"{path} names {item!r} twice; give each class another name (--classes.merge makes several one)"
                if isinstance(item, str)
                else f"{path} uses the colour {item} twice; give each class another one"
            )
        seen.add(item)
