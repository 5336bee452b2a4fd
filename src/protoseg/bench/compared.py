"""What one method is ahead of another, how sure that is, and how to say it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from protoseg.bench.remains import images_interval
from protoseg.bench.tables import cells_of, gains, sign_of, t_interval
from protoseg.report.charts import interval_chart
from protoseg.report.compare import FEW, Interval, signed
from protoseg.words import counted

Row = Mapping[str, Any]
_SAID = {1: "better", -1: "worse", 0: "no clear difference"}


class Found(NamedTuple):
    """One comparison. Attributes: sentence; `interval_chart` of it; whether it is better (1), worse (-1), or not shown; whether
    it is over seeds, or of one seed over its images."""

    sentence: str
    chart: Markup
    sign: int
    over_seeds: bool = True


def compare(rows: Sequence[Row], pairs: Sequence[tuple[str, str, str]], trainings: Path) -> tuple[list[Found], list[str]]:
    """Compare methods with others.

    Args:
        rows: finished cells that differ by method and seed alone.
        pairs: what a comparison is called, the method, and what it is compared with.
        trainings: folder of `keep_remains`.

    Returns:
        Those for which there is something to go by; and in words which of their files are damaged.
    """
    found, damaged = list[Found](), list[str]()
    for what, method, base in pairs:
        gained = gains(rows, method, base)
        try:
            one = _over_seeds(what, gained) if len(gained) > 1 else _over_images(what, gained, rows, method, base, trainings)
        except ValueError as error:
            damaged.append(str(error))
        else:
            found += [] if one is None else [one]
    return found, damaged


def headline(term: Sequence[Found], unlabeled: Sequence[Found]) -> tuple[str, int]:
    """The sentence to read first, and its sign. Comparisons over seeds count alone where there are any.

    Args:
        term: what the prototype term adds to methods.
        unlabeled: what methods are ahead of labels only.
    """
    over_seeds = any(found.over_seeds for found in (*term, *unlabeled))
    basis = "" if over_seeds else ", with one seed: that is without run-to-run variation"
    for what, all_found in (("the prototype term", term), ("training on unlabelled images", unlabeled)):
        found = [one for one in all_found if one.over_seeds == over_seeds]
        if not found:
            continue
        if len(found) == 1:
            return found[0].sentence, found[0].sign
        better, worse = (sum(one.sign == sign for one in found) for sign in (1, -1))
        of = f"of {counted(len(found), 'comparison')}{basis}"
        if better and worse:
            return f"{what} helped in {better} and hurt in {worse} {of}", 0
        if better or worse:
            return f"{what} {'helped' if better else 'hurt'} in {better or worse} {of}", 1 if better else -1
        return f"{what}: no clear difference in {counted(len(found), 'comparison')}{basis}", 0
    return (
        "no comparison: it takes a method with and without the prototype term, or one beside labels only, of the same seed",
        0,
    )


def _over_seeds(what: str, gained: Mapping[int, float]) -> Found:
    """Of two seeds or more."""
    points = list(gained.values())
    interval = Interval(*(end / 100 for end in t_interval(points)))
    return _found(what, statistics.mean(points) / 100, interval, f"over {counted(len(points), 'seed')}")


def _over_images(
    what: str, gained: Mapping[int, float], rows: Sequence[Row], method: str, base: str, trainings: Path
) -> Found | None:
    """Of one seed; None without it, or where nothing is known of its images.

    Raises:
        ValueError: see `images_interval`.
    """
    for seed, points in gained.items():
        if (known := images_interval(trainings, cells_of(rows, method)[seed], cells_of(rows, base)[seed])) is not None:
            interval, images = known
            narrow = f" (fewer than {FEW}: the interval is too narrow)" if images < FEW else ""
            basis = f"by paired bootstrap over {counted(images, 'image')}{narrow} of one seed"
            basis += ", which leaves run-to-run variation out"
            return _found(what, points / 100, interval, basis)._replace(over_seeds=False)
    return None


def _found(what: str, mean: float, interval: Interval, basis: str) -> Found:
    ends, sign = f"{signed(interval.low)} to {signed(interval.high)}", sign_of(*interval)
    sentence = f"{what}: {signed(mean)} points, 95 % interval {ends} {basis}: {_SAID[sign]}"
    return Found(sentence, Markup(interval_chart(mean, interval)), sign)
