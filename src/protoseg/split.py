"""`protoseg split`: draw which masks to use, once and for all, into a list that `--labels` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from protoseg.data.check import classes_in
from protoseg.data.duplicates import ALIKE, Look, Pair, bits_between, find_doubles, look_at_all
from protoseg.data.formats import open_dataset
from protoseg.data.index import EXTRA, ClassTable, DataIndex, Sample, named_split
from protoseg.data.masks import describe
from protoseg.data.parallel import in_threads
from protoseg.data.splits import Partition, draw_labels, make_partition
from protoseg.settings import TrainConfig
from protoseg.trained import progress
from protoseg.words import counted

_SHOWN = 3


def split_data(
    root: Path,
    labels: str,
    *,
    console: Console,
    seed: int = TrainConfig.seed,
    balanced: bool = False,
    within: Path | None = None,
    out: Path | None = None,
    format: str | None = None,
    unlabeled: Path | None = None,
) -> Path:
    """Draw labelled images and write their names to a list.

    Draws of one seed are nested: 1/16 is a part of 1/8, and so on.

    Args:
        root: data set.
        labels: how many, as a number or a fraction of those that have masks.
        console: for what is said.
        seed: of the draw.
        balanced: take the rarest class next, so that every class occurs as early as possible. It opens every mask.
        within: an earlier list to draw from, instead of all masks.
        out: file to write; default `splits/NAME.txt` in the data set's folder (beside it where the data is a zip file).
        format: layout of the data set; recognised when left out.
        unlabeled: one more folder of unlabelled images, for the comparison of pictures.

    Returns:
        The list's path.

    Raises:
        ValueError, FileNotFoundError: see `open_dataset` and `make_partition`.
        FileExistsError: the file is there already.
    """
    index = open_dataset(root, format=format, unlabeled=unlabeled, is_listed=within is not None)
    whole = make_partition(index, labels=None if within is None else str(within))
    stock = whole.labeled
    read = classes_in(index.classes)
    found: dict[str, frozenset[int]] = {}
    if balanced:
        held = in_threads(read, stock, track=progress("reading masks", console))
        found = {sample.name: classes for sample, classes in zip(stock, held, strict=True)}
    chosen = draw_labels(stock, labels, seed=seed, classes_in=(lambda sample: found[sample.name]) if balanced else None)
    target = out or (root if root.is_dir() else root.parent) / "splits" / f"{_name(labels, seed, balanced)}.txt"
    if target.exists():
        raise FileExistsError(f"{target} exists; give another file with --out, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{name}\n" for name in sorted(sample.name for sample in chosen)), encoding="utf-8")

    partition = make_partition(index, labels=str(target))
    console.print(f"{root} is read as {index.format}")
    for note in index.notes + whole.notes:
        console.print(f"note: {note}")
    of = counted(len(stock), "labelled image")
    console.print(f"{len(partition.labeled)} of {of}, {counted(len(partition.unlabeled), 'other')} unlabelled")
    if balanced:
        missing = frozenset[int]().union(*found.values()).difference(*(found[sample.name] for sample in chosen))
        if missing:
            console.print(
                f"note: this draw of {counted(len(chosen), 'image')} does not hold every class; missing: "
                f"{_names(missing, index.classes)}. Take more --labels, or another --seed"
            )
    console.print(f"list: {target}, hash {partition.hash}: protoseg train {root} --labels {target}")
    _warn_of_leaks(index, partition, console)
    return target


def _name(labels: str, seed: int, balanced: bool) -> str:
    return f"labels-{labels.replace('/', '_')}-seed{seed}{'-balanced' if balanced else ''}"


def _names(found: Iterable[int], table: ClassTable | None) -> str:
    """Classes for people; where there is no table, mask values."""
    if table is None:
        return ", ".join(f"mask value {describe(value)}" for value in sorted(found))
    return ", ".join(table.names[c] if c < len(table) else "a value outside the class list" for c in sorted(found))


def _warn_of_leaks(index: DataIndex, partition: Partition, console: Console) -> None:
    """Evaluation images that training shows too, and unlabelled ones that are labelled too: by name or as nearly the same
    picture."""
    train, evaluation = [*partition.labeled, *partition.unlabeled], [s for s in index.whole if s.split != "train"]
    labeled = {sample.image.stem: sample for sample in partition.labeled}
    extra = [sample for sample in partition.unlabeled if sample.name.startswith(EXTRA)]
    # Within one data set equal file names are usual (a folder for each camera or sequence), and then not the same picture.
    if again := [(labeled[s.image.stem], s) for s in extra if s.image.stem in labeled]:
        console.print(
            f"note: {counted(len(again), 'image of the further folder has', 'images of the further folder have')} the file "
            f"name of a labelled image, e.g. {again[0][0].image} and {again[0][1].image}"
        )
    looks = look_at_all((*train, *evaluation), track=progress("comparing pictures", console))
    _warn_of_names(train, evaluation, looks, console)

    def seen(samples: Sequence[Sample]) -> dict[str, Look]:
        return {sample.name: looks[sample.name] for sample in samples if sample.name in looks}

    doubles = find_doubles(labeled=seen(partition.labeled), unlabeled=seen(partition.unlabeled), evaluation=seen(evaluation))
    images = {sample.name: sample.image for sample in (*train, *evaluation)}

    def examples(pairs: Sequence[Pair]) -> str:
        return ", ".join(f"{images[pair.first]} and {images[pair.second]}" for pair in pairs[:_SHOWN])

    if leaks := doubles.leaks:
        what = counted(len(leaks), "evaluation image looks", "evaluation images look")
        console.print(f"warning: {what} nearly the same as a training image: {examples(leaks)}; a score on them is too good")
    if copies := doubles.unlabeled:
        what = counted(len(copies), "unlabelled image is", "unlabelled images are")
        console.print(f"note: {what} the same picture as a labelled one: {examples(copies)}")
    if alike := doubles.alike_unlabeled:
        what = counted(len(alike), "unlabelled image looks", "unlabelled images look")
        console.print(
            f"note: {what} nearly the same as a labelled one (neighbouring frames, or a saved copy; look at them): "
            f"{examples(alike)}"
        )


def _warn_of_names(train: Sequence[Sample], evaluation: Sequence[Sample], looks: dict[str, Look], console: Console) -> None:
    """Evaluation images that are called like a training image, splits aside. Where each folder counts its own files from 1 that
    says nothing, and a warning would teach people to read over warnings: there the pictures differ as any two do."""
    by_name: dict[str, list[Sample]] = {}
    for sample in train:
        by_name.setdefault(_without_split(sample.name), []).append(sample)
    alike, others = list[tuple[Sample, Sample]](), list[tuple[Sample, Sample]]()
    for sample in evaluation:
        for double in by_name.get(_without_split(sample.name), []):
            seen = [looks[s.name] for s in (double, sample) if s.name in looks]
            bits = bits_between(*seen) if len(seen) == 2 else None
            (alike if bits is None or bits <= ALIKE else others).append((double, sample))
    for severity, pairs, what in (
        ("warning", alike, "and may be the same scene; a score on them is too good if so"),
        ("note", others, "but show something else, as is usual where each folder counts its own files"),
    ):
        if pairs:
            many = counted(len({sample.name for _, sample in pairs}), "evaluation image is", "evaluation images are")
            first, second = pairs[0]
            console.print(f"{severity}: {many} called like a training image (e.g. {first.image} and {second.image}), {what}")


def _without_split(name: str) -> str:
    """`street/1` for `test/street/1`, `train2017/street/1`, and `street/1` in a further folder."""
    if name.startswith(EXTRA):
        name = name.split("/", 1)[-1]
    return "/".join(part for part in name.split("/") if named_split(part.rstrip("0123456789")) is None)
