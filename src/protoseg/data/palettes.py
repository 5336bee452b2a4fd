"""Palettes of index masks: the numbers are the classes, but colours that contradict them are a sign that they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protoseg.data.facts import Facts
from protoseg.data.images import colormap_of
from protoseg.data.index import ClassTable, Sample
from protoseg.data.io import opened
from protoseg.data.masks import COLOR, Color, MaskFile, MaskSource, count_values, describe, pack


def palette_of(mask: MaskSource | None) -> dict[int, Color]:
    """The colour of each number in the palette of a mask file; empty where it has none. The pixels are not decoded.

    Raises:
        UnreadableImageError: the file is missing or damaged.
    """
    if not isinstance(mask, MaskFile):
        return {}
    if mask.path.suffix.lower() in {".tif", ".tiff"}:
        colors = colormap_of(mask.path)
        return {} if colors is None else {number: (r, g, b) for number, (r, g, b) in enumerate(colors.tolist())}
    with opened(mask.path) as image:
        if image.mode != "P" or image.palette is None:
            return {}
        order, stored = image.palette.getdata()  # stored as RGB by PNG, as BGRX by BMP
    step, red, green, blue = len(order), order.index("R"), order.index("G"), order.index("B")
    entries = [stored[i : i + step] for i in range(0, len(stored) - step + 1, step)]
    return {number: (entry[red], entry[green], entry[blue]) for number, entry in enumerate(entries)}


def mask_facts(samples: Iterable[Sample]) -> list[Facts]:
    """What `check_palettes` needs to know of images to score on: the values in masks with palettes. No image is opened.

    Raises:
        UnreadableImageError: a mask cannot be read.
    """
    with_palette = [(sample, sample.mask) for sample in samples if palette_of(sample.mask)]
    return [Facts(sample, "evaluation", values=count_values(mask.read())) for sample, mask in with_palette if mask is not None]


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
    palettes = [(fact, _shown(fact)) for fact in facts]
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


def _shown(fact: Facts) -> dict[int, Color]:
    """The colours of the numbers that a mask holds."""
    palette = palette_of(fact.sample.mask)
    return {value: palette[value] for value in fact.values if value in palette}


def _lists_colors(given: ClassTable) -> bool:
    """Whether a table says how its classes look in masks. The grey of a number is only that number, saved as RGB."""
    greys = [{pack((number,) * 3) for number in values if number < 256} for values in given.values]
    return any(
        value >= COLOR and value not in grey for grey, values in zip(greys, given.values, strict=True) for value in values
    )


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
