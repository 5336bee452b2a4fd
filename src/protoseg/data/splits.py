"""Which images are labelled, which are not, and which are kept back: read from a list or drawn by a seed; named and hashed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TypeGuard

import torch

from protoseg.data.index import EXTRA, DataIndex, Sample, Split
from protoseg.data.io import composed, listed_path, read_lines
from protoseg.data.samples import Samples, packed
from protoseg.functional.random import generator
from protoseg.words import counted

_TOGETHER = 4096  # names that are hashed at a time
_NO_MASK = "give it one where the data set keeps them, or take the line out"
_BELOW = "path below the data set's folder"  # every layout has its images elsewhere
_SHARE = re.compile(r"(?P<number>[0-9]*\.[0-9]+|[0-9]+(?=\s*%))\s*(?P<percent>%?)")
_FLAGS = frozenset({"-1", "0", "1"})  # behind the names in VOC's lists of one class: absent, difficult, present


@dataclass(frozen=True)
class Partition:
    """The training and evaluation images of one run. The three lists never share an image.

    Attributes:
        labeled: images whose masks are learned from.
        unlabeled: all other training images; their masks, if any, are never opened. However they are given, they are kept as
            `Samples`.
        evaluation: labelled images to score on, empty where there are none.
        evaluation_name: "test", "val", "holdout", or "" where there are none.
        notes: how a list was read, where that is not plain.
    """

    labeled: tuple[Sample, ...]
    unlabeled: Sequence[Sample]
    evaluation: tuple[Sample, ...]
    evaluation_name: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "unlabeled", packed(self.unlabeled))

    @cached_property
    def hash(self) -> str:
        """12 hex digits that change when any of the three lists does."""
        labeled, unlabeled, evaluation = map(_json_names, (self.labeled, self.unlabeled, self.evaluation))
        return _digest(chain("[", labeled, [", "], unlabeled, [", "], evaluation, "]"))

    @cached_property
    def unlabeled_hash(self) -> str:
        """12 hex digits of the unlabelled images alone: two runs with equal ones learned from the same pool."""
        return _digest(_json_names(self.unlabeled))


def _digest(pieces: Iterable[str]) -> str:
    hashed = hashlib.sha256()
    for piece in pieces:
        hashed.update(piece.encode())
    return hashed.hexdigest()[:12]


def _json_names(samples: Sequence[Sample]) -> Iterator[str]:
    """The names as `json.dumps` writes their list, in pieces: a million of them are never there together."""
    names = samples.names() if isinstance(samples, Samples) else (sample.name for sample in samples)
    between = "["
    while some := list(islice(names, _TOGETHER)):
        yield between + json.dumps(some)[1:-1]
        between = ", "
    yield "]" if between == ", " else "[]"


def make_partition(
    index: DataIndex,
    *,
    labels: str | None = None,
    holdout: str | None = None,
    split: Split | None = None,
    seed: int = 0,
    classes_in: Callable[[Sample], frozenset[int]] | None = None,
) -> Partition:
    """Divide the images of a data set.

    Args:
        index: the data set.
        labels: which of the training masks to use: a list file, a number, a fraction such as `1/8`, or None for all.
        holdout: labelled images to keep back for evaluation, given in the same three ways; None for none. Never trained on,
            not even as unlabelled images. A number of labels is the number left; a list of labels is the whole stock of
            masks, and the holdout comes out of it.
        split: which evaluation images to score on; `test`, or `val` where there is no `test`, when left out.
        seed: of the draws.
        classes_in: the classes in a labelled image, so that a drawn holdout covers every class it can. It opens masks:
            only those of images that `labels` and `holdout` may choose from.

    Returns:
        Partition with sorted lists.

    Raises:
        FileNotFoundError, ValueError: a list file is missing or a line of it fits no image or two; too few masks; no image of
            the split that was asked for.
    """
    if holdout is not None and split is not None:
        raise ValueError(f"--holdout {holdout} and --split {split} both say which images to score on; give one of them")
    train = index.of("train")
    masked = [sample for sample in train.whole if sample.mask is not None]
    notes = list[str]()
    listed = _from_list(Path(labels), index, "--labels", notes) if is_list(labels) else None
    kept: list[Sample] = []
    if is_list(holdout):
        kept = _from_list(Path(holdout), index, "--holdout", notes)
    if listed is not None and (out := len(listed) - len(_without(listed, kept))):
        one, many = (f"of the {len(listed)} images of --labels {verb}" for verb in ("is", "are"))
        notes.append(f"{counted(out, one, many)} held out by --holdout {holdout} and not trained on")
    stock = _without(masked if listed is None else listed, kept)
    num_kept = 0 if holdout is None or kept else _amount(holdout, len(stock), "--holdout")
    if labels is not None and listed is None:
        # Drawn before the holdout is chosen from it, so that no other mask is opened for that choice.
        num_labeled = _amount(labels, len(stock) - num_kept, "--labels")
        stock = draw_labels(stock, str(num_labeled + num_kept), seed=seed)
    if num_kept:
        kept = _draw_covering(stock, num_kept, seed, classes_in)
    labeled = _without(stock, kept)
    if not labeled:
        raise ValueError("no labelled image is left to learn from; keep back fewer with --holdout or give more masks")
    used = {sample.name for sample in (*labeled, *kept)}
    unlabeled = _without_spare(train.where(lambda name: name not in used), [*labeled, *kept], index)
    evaluation, name = (kept, "holdout") if kept else _evaluation(index, split)
    return Partition(_sorted(labeled), unlabeled.by_name(), _sorted(evaluation), name, tuple(notes))


def draw_labels(
    stock: Sequence[Sample],
    labels: str,
    *,
    seed: int,
    classes_in: Callable[[Sample], frozenset[int]] | None = None,
    option: str = "--labels",
) -> list[Sample]:
    """Draw labelled images. Draws of one seed are nested: fewer images are always among the more.

    Args:
        stock: images with masks.
        labels: a number, or a fraction of them.
        seed: of the draw.
        classes_in: the classes in an image; with it, the next image is the one that brings most new classes, and once all
            are there, one that holds the class drawn least so far.
        option: of the command line, for messages.

    Raises:
        ValueError: no amount, or more than there are.
    """
    if not is_amount(labels):
        raise ValueError(f"{option} {labels!r} is neither a number nor a fraction such as 1/8")
    count = _amount(labels, len(stock), option)
    order = torch.randperm(len(stock), generator=generator(seed, "labels")).tolist()
    drawn = [stock[i] for i in order]
    if classes_in is None:
        return drawn[:count]
    classes = {sample.name: classes_in(sample) for sample in drawn}
    times = Counter[int]()
    chosen: list[Sample] = []
    while len(chosen) < count:
        left = {value for sample in drawn for value in classes[sample.name]}
        if not left:  # all that is left of the masks is ignored
            return chosen + drawn[: count - len(chosen)]
        wanted = min(left, key=lambda value: (times[value], value))
        new = left - times.keys()
        best = max(drawn, key=lambda sample: (len(classes[sample.name] & new), wanted in classes[sample.name]))
        chosen.append(best)  # the first drawn among equals
        drawn.remove(best)
        times.update(classes[chosen[-1].name])
    return chosen


def _evaluation(index: DataIndex, split: Split | None) -> tuple[list[Sample], str]:
    """The labelled images of a split; those of `val` where none is named and there is no `test`."""
    candidates: tuple[Split, ...] = ("test", "val") if split is None else (split,)
    for candidate in candidates:
        if found := [sample for sample in index.of(candidate) if sample.mask is not None]:
            return found, candidate
    if split is not None:
        raise ValueError(f"there is no labelled {split} image in {index.root}; choose another --split, or leave it out")
    return [], ""


def _without(samples: Sequence[Sample], others: Sequence[Sample]) -> list[Sample]:
    names = {sample.name for sample in others}
    return [sample for sample in samples if sample.name not in names]


def _without_spare(samples: Samples, chosen: Sequence[Sample], index: DataIndex) -> Samples:
    """Samples without the images that a list chose from the spare ones, which a further folder may bring under another name."""
    spare = {sample.name for sample in index.spare}
    images = {sample.image.resolve() for sample in chosen if sample.name in spare}
    if not images:
        return samples
    return Samples(s for s in samples if not s.name.startswith(EXTRA) or s.image.resolve() not in images)


def _sorted(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.name))


def is_amount(text: str) -> bool:
    """Whether `--labels` or `--holdout` gives a number or a fraction; anything else is the name of a list file."""
    return re.fullmatch(r"[0-9]+(/[0-9]+)?", text) is not None


def is_list(text: str | None) -> TypeGuard[str]:
    """Whether `--labels` or `--holdout` is given and names a list file."""
    return text is not None and not is_amount(text)


def _amount(text: str, available: int, option: str) -> int:
    """`12` or `1/8` of `available`, rounded, at least one.

    Raises:
        ValueError: more than there is, zero, or a fraction above one.
    """
    if "/" in text:
        above, below = (int(part) for part in text.split("/"))
        if below == 0 or above == 0 or above > below:
            raise ValueError(f"{option} {text} is not a fraction between 0 and 1")
        return max(1, round(available * above / below))
    count = int(text)
    if count < 1 or count > available:
        there = counted(available, "image with a mask is", "images with a mask are")
        raise ValueError(f"{option} {text}: {there} there to choose from, so give 1 to {available}")
    return count


def _fraction(text: str) -> str:
    """The fraction that `0.25` or `25%` stands for, as 1/4; empty where it stands for none."""
    if (match := _SHARE.fullmatch(text)) is None:
        return ""
    share = Fraction(match["number"]) / (100 if match["percent"] else 1)
    return f"{share.numerator}/{share.denominator}" if 0 < share <= 1 else ""


def _from_list(path: Path, index: DataIndex, option: str, notes: list[str]) -> list[Sample]:
    """The training images that a list file names, one a line: by path below the image folder or the data set's, or by stem.
    They may be spare ones: who names them means them, whatever the data set's own lists say.

    Args:
        path: of the list.
        index: the data set.
        option: of the command line, for messages.
        notes: what to say about the list is added.
    """
    if not path.is_file():
        meant = _fraction(str(path))
        why = f"; for that share of the images, write {meant}" if meant else " (and it is no number or fraction)"
        raise FileNotFoundError(f"{option} {path}: there is no such file{why}")
    train = index.of("train").where(lambda name: not name.startswith(EXTRA))

    def whole_names(sample: Sample) -> tuple[str, ...]:
        below_root, whole = sample.image.relative_to(index.root).as_posix(), sample.image.as_posix().lstrip("/")
        return sample.name, sample.name + sample.image.suffix, below_root, whole

    whole = _by([*train, *index.spare], whole_names)
    short = _by(index.spare, _short_names) | _by(train, _short_names)
    scored = [sample for sample in index.whole if sample.split != "train"]
    evaluation = _by(scored, whole_names).keys() | _by(scored, _short_names).keys()
    chosen: dict[str, Sample] = {}
    empty, others = list[Sample](), list[str]()
    for number, line in enumerate(read_lines(path), start=1):
        key = line.strip()
        if not key:
            continue
        found, tried = list[Sample](), set[str]()
        # A name as it is, blanks and backslashes included, before a path as people write it.
        text = name = exact if (exact := composed(line)) in whole else listed_path(key)
        # A whole path is meant even where it is another one's stem.
        while name and not (found := whole.get(name) or short.get(name, [])):
            tried.add(name)
            # The lists of the benchmarks give `image mask` pairs. A name may hold blanks itself.
            name = "".join(name.rsplit(maxsplit=1)[:-1])
        where = f"{path}, line {number}: {key!r}"
        if not found:
            hint = " (it names an evaluation image, which never trains)" if tried & evaluation else ""
            raise ValueError(f"{where} fits no training image{hint}; write its name, or its {_BELOW}")
        if len(found) > 1:
            raise ValueError(f"{where} fits {found[0].name} and {found[1].name}; write the {_BELOW}")
        image = found[0]
        if image.mask is None and image.if_listed is not None:
            image = replace(image, mask=image.if_listed)
            empty.append(image)
        if image.mask is None:
            expected = "expected one of the same path below masks/" if index.format == "folder" else _NO_MASK
            raise ValueError(f"{where} has no mask; {expected}")
        if _names_another_mask(text[len(name) :].strip(), image, index, where):
            others.append(key)
        chosen[image.name] = image
    if empty:
        notes.append(
            f"{counted(len(empty), f'image of {path} has', f'images of {path} have')} no annotation (the first is "
            f"{empty[0].image}): being listed, such count as seen by somebody, and as background"
        )
    if added := len(chosen.keys() & {sample.name for sample in index.spare}):
        notes.append(
            f"{counted(added, f'image of {path} stands', f'images of {path} stand')} in no list of {index.root} itself: being "
            "named by this one, such count as labelled"
        )
    if others:
        notes.append(
            f"{counted(len(others), f'line of {path} names a mask that is', f'lines of {path} name masks that are')} not read "
            f"({others[0]!r}): those of the data set's own layout ({index.format}) count"
        )
    if not chosen:
        raise ValueError(f"{option} {path} names no image")
    return list(chosen.values())


def _names_another_mask(second: str, image: Sample, index: DataIndex, where: str) -> bool:
    """Whether the second word of a line is another mask than the one that is read.

    Published lists name the masks of one copy of a data set: VOC's without those of SBD, Cityscapes' train ids, pictures of
    what COCO has as JSON. They are the same labels, told by their names. A plain folder has no such copies.

    Raises:
        ValueError: it is no mask, that of another image, or of a plain folder and not the one that is read.
    """
    if not second or second in _FLAGS:
        return False
    own = composed(str(image.mask))
    if f"/{own}".endswith(f"/{listed_path(second)}"):
        return False
    if not Path(second).suffix:
        raise ValueError(
            f"{where} begins with the image {image.name}, but {second!r} after it is no mask; write the name alone, or the "
            f"path of its mask behind it ({own})"
        )
    stems = {composed(Path(text).stem.split("_gtFine_")[0]) for text in (own, image.image.stem)}
    if index.format == "folder" or Path(second).stem.split("_gtFine_")[0] not in stems:
        raise ValueError(
            f"{where} names the mask {second}, but the mask of {image.image} here is {own}; write that one or leave it out, or "
            "put the other masks in its place"
        )
    return True


def _short_names(sample: Sample) -> tuple[str, ...]:
    return sample.name.rsplit("/", 1)[-1], sample.image.name


def _by(samples: Sequence[Sample], keys: Callable[[Sample], tuple[str, ...]]) -> dict[str, list[Sample]]:
    table: dict[str, list[Sample]] = {}
    for sample in samples:
        for key in set(map(composed, keys(sample))):
            table.setdefault(key, []).append(sample)
    return table


def _draw_covering(
    stock: Sequence[Sample], count: int, seed: int, classes_in: Callable[[Sample], frozenset[int]] | None
) -> list[Sample]:
    """Draw images so that both parts hold every class where possible.

    Always the image that adds most classes, the first drawn among equals; never the last one of a class while others are
    left, because a class that is not learned cannot be scored in any useful way.
    """
    if count >= len(stock):
        raise ValueError(
            f"--holdout {count} would keep back all of {counted(len(stock), 'labelled image')}; leave some to learn from"
        )
    order = torch.randperm(len(stock), generator=generator(seed, "holdout")).tolist()
    drawn = [stock[i] for i in order]
    if classes_in is None:
        return drawn[:count]
    classes = {sample.name: classes_in(sample) for sample in drawn}
    left = Counter(value for found in classes.values() for value in found)
    kept: list[Sample] = []
    covered: set[int] = set()
    while len(kept) < count:
        spare = [sample for sample in drawn if all(left[value] > 1 for value in classes[sample.name])]
        best = max(spare or drawn, key=lambda sample: len(classes[sample.name] - covered))
        drawn.remove(best)
        kept.append(best)
        covered |= classes[best.name]
        left.subtract(classes[best.name])
    return kept
