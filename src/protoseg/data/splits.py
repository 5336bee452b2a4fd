"""Which images are labelled, which are not, and which are kept back: read from a list or drawn by a seed; named and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from protoseg.data.index import DataIndex, Sample, Split
from protoseg.functional.random import generator


@dataclass(frozen=True)
class Partition:
    """The training and evaluation images of one run. The three lists never share an image.

    Attributes:
        labeled: images whose masks are learned from.
        unlabeled: all other training images; their masks, if any, are never opened.
        evaluation: labelled images to score on, empty where there are none.
        evaluation_name: "test", "val", "holdout", or "" where there are none.
    """

    labeled: tuple[Sample, ...]
    unlabeled: tuple[Sample, ...]
    evaluation: tuple[Sample, ...]
    evaluation_name: str

    @property
    def hash(self) -> str:
        """12 hex digits that change when any of the three lists does."""
        lists = [[sample.name for sample in part] for part in (self.labeled, self.unlabeled, self.evaluation)]
        return hashlib.sha256(json.dumps(lists).encode()).hexdigest()[:12]


def make_partition(
    index: DataIndex,
    *,
    labels: str | None = None,
    holdout: str | None = None,
    split: Split = "test",
    seed: int = 0,
    classes_in: Callable[[Sample], frozenset[int]] | None = None,
) -> Partition:
    """Divide the images of a data set.

    Args:
        index: the data set.
        labels: which of the training masks to use: a list file, a number, a fraction such as `1/8`, or None for all.
        holdout: labelled images to keep back for evaluation, given in the same three ways; None for none. Taken out before
            `labels` is applied, and never trained on, not even as unlabelled images.
        split: which evaluation images to score on where there is no holdout; the other split is used where this is empty.
        seed: of the draws.
        classes_in: the mask values of a labelled image, so that a drawn holdout covers every class it can. It opens masks:
            only those of images that `labels` and `holdout` may choose from.

    Returns:
        Partition with sorted lists.

    Raises:
        FileNotFoundError, ValueError: a list file is missing or a line of it fits no image or two; too few masks.
    """
    train = index.of("train")
    masked = [sample for sample in train if sample.mask is not None]
    listed = labels is not None and not _is_amount(labels)
    if holdout is None:
        kept: list[Sample] = []
    elif _is_amount(holdout):
        # A list of labels is the whole stock of masks: the holdout comes out of it.
        stock = _from_list(Path(labels), train, index, "--labels") if listed and labels is not None else masked
        kept = _draw_covering(stock, _amount(holdout, len(stock), "--holdout"), seed, classes_in)
    else:
        kept = _from_list(Path(holdout), train, index, "--holdout")
    kept_names = {sample.name for sample in kept}
    rest = [sample for sample in masked if sample.name not in kept_names]

    if labels is None:
        labeled = rest
    elif listed:
        labeled = [s for s in _from_list(Path(labels), train, index, "--labels") if s.name not in kept_names]
    else:
        order = torch.randperm(len(rest), generator=generator(seed, "labels")).tolist()
        labeled = [rest[i] for i in order[: _amount(labels, len(rest), "--labels")]]
    if not labeled:
        raise ValueError("no labelled image is left to learn from; keep back fewer with --holdout or give more masks")
    labeled_names = {sample.name for sample in labeled}
    unlabeled = [s for s in train if s.name not in labeled_names and s.name not in kept_names]

    evaluation, name = kept, "holdout" if kept else ""
    if not kept:
        other: Split = "val" if split == "test" else "test"
        for candidate in (split, other):
            evaluation = [sample for sample in index.of(candidate) if sample.mask is not None]
            if evaluation:
                name = candidate
                break
    return Partition(_sorted(labeled), _sorted(unlabeled), _sorted(evaluation), name)


def _sorted(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: sample.name))


def _is_amount(text: str) -> bool:
    return text.replace("/", "", 1).isdigit()


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
        raise ValueError(f"{option} {text}: there are {available} images with a mask to choose from, so give 1 to {available}")
    return count


def _from_list(path: Path, train: Sequence[Sample], index: DataIndex, option: str) -> list[Sample]:
    """The training images that a list file names, one a line, by stem or by path below the image folder."""
    if not path.is_file():
        raise FileNotFoundError(f"{option} {path}: there is no such file (and it is no number or fraction)")
    by_key: dict[str, list[Sample]] = {}
    for sample in train:
        keys = {sample.name, sample.name + sample.image.suffix, sample.name.rsplit("/", 1)[-1], sample.image.name}
        for key in keys:
            by_key.setdefault(key, []).append(sample)
    evaluation = {key for s in index.samples if s.split != "train" for key in (s.name, s.name.rsplit("/", 1)[-1])}
    chosen: dict[str, Sample] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        key = line.strip()
        if not key:
            continue
        found = by_key.get(key, [])
        where = f"{path}, line {number}: {key!r}"
        if not found:
            hint = " (it names an evaluation image, which never trains)" if key in evaluation else ""
            raise ValueError(f"{where} fits no training image{hint}; write its name or its path below images/")
        if len(found) > 1:
            raise ValueError(f"{where} fits {found[0].name} and {found[1].name}; write the path below images/")
        if found[0].mask is None:
            raise ValueError(f"{where} has no mask; expected one of the same path below masks/")
        chosen[found[0].name] = found[0]
    if not chosen:
        raise ValueError(f"{option} {path} names no image")
    return list(chosen.values())


def _draw_covering(
    stock: Sequence[Sample], count: int, seed: int, classes_in: Callable[[Sample], frozenset[int]] | None
) -> list[Sample]:
    """Draw images so that both parts hold every class where possible: first those that add a class, then in drawn order."""
    if count >= len(stock):
        raise ValueError(f"--holdout {count} would keep back all {len(stock)} labelled images; leave some to learn from")
    order = torch.randperm(len(stock), generator=generator(seed, "holdout")).tolist()
    drawn = [stock[i] for i in order]
    if classes_in is None:
        return drawn[:count]
    classes = {sample.name: classes_in(sample) for sample in drawn}
    left = {value: sum(value in found for found in classes.values()) for found in classes.values() for value in found}
    kept: list[Sample] = []
    covered: set[int] = set()
    for only_new in (True, False):
        for sample in drawn:
            if len(kept) == count:
                break
            found = classes[sample.name]
            # The last image of a class is learned from: a class never seen cannot be scored in any useful way.
            if sample in kept or any(left[value] == 1 for value in found) or (only_new and found <= covered):
                continue
            kept.append(sample)
            covered |= found
            for value in found:
                left[value] -= 1
    for sample in drawn:  # nothing left but images that hold the last of a class: fill up in drawn order
        if len(kept) < count and sample not in kept:
            kept.append(sample)
    return kept
