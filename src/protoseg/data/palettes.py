"""Palettes of index masks: the numbers are the classes, but colours that contradict them are a sign that they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from PIL import Image

from protoseg.data.facts import Facts
from protoseg.data.index import ClassTable
from protoseg.data.masks import Color, MaskFile, describe, pack


def palette_of(fact: Facts) -> dict[int, Color]:
    """The colour of each number that a mask holds; empty where it is no palette image."""
    mask = fact.sample.mask
    if not isinstance(mask, MaskFile) or mask.path.suffix.lower() not in {".png", ".bmp"}:
        return {}
    with Image.open(mask.path, formats=("PNG", "BMP")) as image:  # the header alone
        if image.mode != "P" or image.palette is None:
            return {}
        order, colors = image.palette.getdata()  # stored as RGB by PNG, as BGRX by BMP
    step, red, green, blue = len(order), order.index("R"), order.index("G"), order.index("B")
    entries = [colors[i : i + step] for i in range(0, len(colors) - step + 1, step)]
    table = {number: (entry[red], entry[green], entry[blue]) for number, entry in enumerate(entries)}
    return {value: table[value] for value in fact.values if value in table}


def check_palettes(facts: Sequence[Facts], given: ClassTable | None) -> tuple[str, ...]:
    """Compare the palettes of all masks with each other and with the colours of the class table.

    Args:
        facts: about images with masks.
        given: class table, if any. With one, the user has said what the numbers mean.

    Returns:
        What to say about them.

    Raises:
        ValueError: a palette shows a class in the colour of another one, or, without a table, two palettes deal out the same
            colours to other numbers.
    """
    palettes = [(fact, palette) for fact in facts if (palette := palette_of(fact))]
    # A palette that does not tell its numbers apart says nothing.
    palettes = [(fact, palette) for fact, palette in palettes if len(set(palette.values())) == len(palette)]
    if given is not None and _lists_colors(given):
        for fact, palette in palettes:
            _check_colors(fact, palette, given)
    clash = _clash(palettes)
    if clash is None:
        return ()
    what = f"{clash}; in palette masks the numbers count, not the colours"
    if given is None:
        raise ValueError(
            f"{what}. If the numbers are right, list their names in classes.txt; if the colours are, save the masks as RGB"
        )
    return (f"{what}, so look whether both masks mean the same by it",)


def _lists_colors(given: ClassTable) -> bool:
    """Whether a table says how its classes look in masks: the colours of others are only for pictures."""
    return any(pack(color) in values for color, values in zip(given.colors, given.values, strict=True))


def _check_colors(fact: Facts, palette: dict[int, Color], given: ClassTable) -> None:
    known = given.class_of
    for value, color in palette.items():
        listed = known.get(pack(color), known.get(value))
        if listed != known.get(value) and value in known:
            names = [given.names[c] if c is not None and c < len(given) else "ignored" for c in (known[value], listed)]
            raise ValueError(
                f"{fact.sample.mask} shows the value {value} ({names[0]}) in the colour {describe(pack(color))} of {names[1]}: "
                "its palette is in another order than the class list. Save it as RGB if the colours are right, as grey if "
                "the numbers are"
            )


def _clash(palettes: Iterable[tuple[Facts, dict[int, Color]]]) -> str | None:
    """Two masks in which one colour stands for two numbers, in words."""
    first: dict[Color, tuple[int, Facts]] = {}
    for fact, palette in palettes:
        for value, color in palette.items():
            before, other = first.setdefault(color, (value, fact))
            if before != value:
                return (
                    f"the colour {describe(pack(color))} is the value {before} in {other.sample.mask} and the value {value} in "
                    f"{fact.sample.mask}"
                )
    return None
