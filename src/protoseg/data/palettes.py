"""Palettes of index masks: the numbers are the classes, but colours that contradict them are a sign that they are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from protoseg.data.facts import Facts, with_mask
from protoseg.data.index import ClassTable, Sample
from protoseg.data.masks import COLOR, Color, MaskFile, describe, pack, read_with_palette
from protoseg.data.parallel import in_threads


def mask_facts(samples: Sequence[Sample]) -> list[Facts]:
    """What `check_palettes` needs to know of images to score on. No image is opened, and no mask is painted.

    Raises:
        UnreadableImageError: a mask cannot be read.
    """
    return in_threads(_mask_facts, [sample for sample in samples if isinstance(sample.mask, MaskFile)])


def _mask_facts(sample: Sample) -> Facts:
    assert sample.mask is not None
    return with_mask(Facts(sample, "evaluation"), read_with_palette(sample.mask))


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
    # A palette that does not tell its numbers apart says nothing.
    telling = [fact for fact in facts if len(set(fact.shown.values())) == len(fact.shown)]
    if given is not None and lists_colors(given):
        for fact in telling:
            _check_colors(fact, given)
    clash = _clash(telling)
    if clash is None:
        return ()
    what = f"{clash}; in palette masks the numbers count, not the colours"
    if given is None:
        raise ValueError(
            f"{what}. If the numbers are right, list their names in classes.txt; if the colours are, save the masks as RGB"
        )
    return (f"{what}, so look whether both masks mean the same by it",)


def lists_colors(given: ClassTable) -> bool:
    """Whether a table says how its classes look in masks. The grey of a number is only that number, saved as RGB."""
    greys = [{pack((number,) * 3) for number in values if number < 256} for values in given.values]
    return any(
        value >= COLOR and value not in grey for grey, values in zip(greys, given.values, strict=True) for value in values
    )


def _check_colors(fact: Facts, given: ClassTable) -> None:
    known = given.class_of
    for value, color in fact.shown.items():
        listed = known.get(pack(color), known.get(value))
        if listed != known.get(value) and value in known:
            names = [given.names[c] if c is not None and c < len(given) else "ignored" for c in (known[value], listed)]
            raise ValueError(
                f"{fact.sample.mask} shows the value {value} ({names[0]}) in the colour {describe(pack(color))} of {names[1]}: "
                "its palette is in another order than the class list. Save it as RGB if the colours are right, as grey if "
                "the numbers are"
            )


def _clash(facts: Iterable[Facts]) -> str | None:
    """Two masks in which one colour stands for two numbers, in words."""
    first: dict[Color, tuple[int, Facts]] = {}
    for fact in facts:
        for value, color in fact.shown.items():
            before, other = first.setdefault(color, (value, fact))
            if before != value:
                return (
                    f"the colour {describe(pack(color))} is the value {before} in {other.sample.mask} and the value {value} in "
                    f"{fact.sample.mask}"
                )
    return None
