"""What will go wrong in training, from what reading the files showed, and what to try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from protoseg.data.check import binary_doubt, other_rule, stray_values, too_few_classes
from protoseg.data.duplicates import Look, Pair, find_doubles
from protoseg.data.facts import Facts, Role, class_pixels
from protoseg.data.images import PHOTOGRAPH
from protoseg.data.index import ClassTable, DataIndex, unnamed
from protoseg.data.masks import describe, pack
from protoseg.data.splits import Partition
from protoseg.types import IGNORE_INDEX
from protoseg.words import counted

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")

_NAMED_CLASSES, _NAMED_RARE = 5, 20  # in one sentence
_SEPARATE = 3  # findings of one kind; more of them are told in one, because nobody reads twenty
# Where a finding begins. Rules of thumb, not results.
RARE_SHARE = 0.002
FEW_IMAGES, FEW_SHARE = 3, 0.05  # a class in fewer images is rare too, unless it fills much of them
STRAY_SHARE, STRAY_PIXELS = 0.0005, 20  # of all labelled pixels, and in each mask that holds the value
IGNORED_SHARE = 0.5
COLOR_DISTANCE = 1.5  # in standard deviations of the images' mean colours
GREY_STEP = 32  # between the greys of a picture of a mask; VOC's 0, 15 and 255 of a few masks are numbers
_WHITE = frozenset({IGNORE_INDEX, pack((255, 255, 255))})
_LARGEST = 65535  # of a mask: GDAL's and NumPy's -1 in 16 bits
_SAME_COLOR = 0.02  # of the scale: images of one colour have no deviation to measure by


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        severity: an "error" stops training or makes its result worthless, a "warning" costs accuracy, a "note" is to be known.
        title: what it is, with numbers.
        advice: what to try next.
        files: those it is about.
        details: what was found in them, one line each, where that differs.
        no_files: why none is named, where none is.
    """

    severity: Severity
    title: str
    advice: str
    files: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    no_files: str = ""

    def __post_init__(self) -> None:
        if bool(self.files) == bool(self.no_files):
            raise ValueError(f"a finding names files or says why it names none: {self.title}")


def diagnose(facts: Sequence[Facts], classes: ClassTable | None, *, crop: int | None = None) -> list[Finding]:
    """All findings, the gravest first.

    Args:
        facts: of `examine`.
        classes: of the masks; None where they could not be made out.
        crop: side of the training crops in pixels.
    """
    found: list[Finding] = [
        *_unreadable(facts),
        *_sizes(facts),
        *_kinds(facts),
        *_last_band(facts),
        *_turned(facts),
        *_elsewhere(facts),
        *_holes(facts),
        *_duplicates(facts),
        *_colors(facts),
    ]
    if classes is not None:
        found += [
            *_values(facts, classes),
            *_few(facts, classes),
            *_stray(facts, classes),
            *_largest(facts, classes),
            *_rare(facts, classes),
            *_ignored(facts, classes),
            *_table(facts, classes),
        ]
    if crop is not None:
        found += _crop(facts, crop)
    return gravest_first(found)


def left_out(index: DataIndex) -> list[Finding]:
    """Files that look like data and are not used."""
    return [
        Finding("warning", f"{counted(len(o.files), o.one, o.many)}, e.g. {o.files[0]}", o.advice, tuple(map(str, o.files)))
        for o in index.left_out
    ]


def unscored(index: DataIndex) -> list[Finding]:
    """Evaluation images without masks."""
    bare = [sample for sample in index.whole if sample.split != "train" and sample.mask is None]
    if not bare:
        return []
    return [
        Finding(
            "note",
            f"{counted(len(bare), 'evaluation image has', 'evaluation images have')} no mask: neither scored nor trained on, "
            f"e.g. {bare[0].image}",
            "give them masks, or keep some labelled images back with --holdout 1/5",
            tuple(str(sample.image) for sample in bare),
        )
    ]


def nothing_to_score_on(partition: Partition) -> list[Finding]:
    """No evaluation images at all: known before the training, not after it."""
    if partition.evaluation:
        return []
    return [
        Finding(
            "note",
            "there is no image to score on, so the training will end without mIoU",
            "keep some labelled images back with --holdout 1/5",
            no_files="none is there",
        )
    ]


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; each in the order they came."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def class_rows(facts: Sequence[Facts], classes: ClassTable) -> list[tuple[str, float, int, int]]:
    """For each class: name, share of the labelled pixels, labelled images that hold it, evaluation images that hold it."""
    images = {"labeled": Counter[int](), "evaluation": Counter[int]()}
    for fact in facts:
        if fact.role in images:
            images[fact.role].update(fact.pixels(classes).keys())
    pixels = class_pixels((fact for fact in facts if fact.role == "labeled"), classes)
    shares = pixels / max(1, pixels.sum())
    return [(name, float(shares[c]), images["labeled"][c], images["evaluation"][c]) for c, name in enumerate(classes.names)]


def ignored_shares(facts: Sequence[Facts], classes: ClassTable) -> tuple[float, dict[str, float]]:
    """Share of the pixels that are labelled as "ignored": of all labelled images, and of each by its file."""
    ignored, pixels = dict[str, int](), dict[str, int]()
    for fact in facts:
        if fact.role == "labeled" and fact.values:
            image = str(fact.sample.image)
            ignored[image], pixels[image] = fact.ignored(classes), sum(fact.values.values())
    shares = {image: ignored[image] / pixels[image] for image in ignored}
    return sum(ignored.values()) / max(1, sum(pixels.values())), shares


def _files(facts: Iterable[Facts]) -> tuple[str, ...]:
    return tuple(str(fact.sample.image) for fact in facts)


def _masks(facts: Iterable[Facts]) -> tuple[str, ...]:
    return tuple(str(fact.sample.mask) for fact in facts)


def _unreadable(facts: Sequence[Facts]) -> Iterator[Finding]:
    needed = [fact for fact in facts if not fact.is_readable and fact.role != "unlabeled"]
    if needed:
        reasons = "; ".join(fact.fault or fact.mask_fault or "" for fact in needed[:2])
        yield Finding(
            "error",
            f"{counted(len(needed), 'labelled or evaluation image')} cannot be used: {reasons}",
            "mend or restore these files, or take image and mask away",
            _files(needed),
        )
    spare = [fact for fact in facts if fact.fault and fact.role == "unlabeled"]
    if spare:
        yield Finding(
            "warning",
            f"{counted(len(spare), 'unlabelled image')} cannot be read: {spare[0].fault}",
            "training skips them; restore or remove them",
            _files(spare),
        )


def _sizes(facts: Sequence[Facts]) -> Iterator[Finding]:
    wrong = [fact for fact in facts if fact.mask_size is not None and fact.mask_size != fact.size]
    if wrong:
        (height, width), (mask_height, mask_width) = wrong[0].size, wrong[0].mask_size or (0, 0)
        yield Finding(
            "error",
            f"{counted(len(wrong), 'mask is', 'masks are')} not of the image's size, the first {mask_width}x{mask_height} for "
            f"{width}x{height}",
            "export the masks again at the image's size; an image that EXIF turns needs a mask turned the same way",
            _masks(wrong),
        )


def _kinds(facts: Sequence[Facts]) -> Iterator[Finding]:
    kinds = Counter(fact.kind for fact in facts if fact.kind is not None)
    if len(kinds) > 1:
        usual, count = kinds.most_common(1)[0]
        others = [fact for fact in facts if fact.kind not in (None, usual)]
        grave = any(fact.role != "unlabeled" for fact in others)
        yield Finding(
            "error" if grave else "warning",
            f"{counted(len(others), 'image has', 'images have')} {others[0].kind} where {counted(count, 'has', 'have')} "
            f"{usual}",
            "convert them to the kind of the others; training takes one kind alone",
            _files(others),
        )


def _turned(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Images that EXIF turns and whose masks would fit unturned too: the sizes cannot tell."""
    doubtful = [f for f in facts if f.mask_size is not None and f.orientation in range(2, 9)]
    doubtful = [f for f in doubtful if f.orientation < 5 or f.size[0] == f.size[1]]
    if doubtful:
        yield Finding(
            "warning",
            f"{counted(len(doubtful), 'image with a mask is', 'images with masks are')} turned or mirrored as the EXIF "
            f"data says, {doubtful[0].sample.image} first (orientation {doubtful[0].orientation}); whether the mask fits that "
            "cannot be told from the sizes",
            "look at such an image with its mask; if they do not fit, remove the orientation from the EXIF data",
            _files(doubtful),
        )


def _elsewhere(facts: Sequence[Facts]) -> Iterator[Finding]:
    if found := [fact for fact in facts if fact.elsewhere]:
        yield Finding(
            "warning",
            f"{counted(len(found), 'mask lies', 'masks lie')} in another place than the image, {found[0].sample.mask} "
            f"{found[0].elsewhere}",
            "image and mask are paired pixel by pixel: warp or cut the masks to the images, or correct the places",
            _masks(found),
        )


def _holes(facts: Sequence[Facts]) -> Iterator[Finding]:
    holes = [fact for fact in facts if fact.missing]
    if holes:
        worst = max(holes, key=lambda fact: fact.missing)
        yield Finding(
            "warning",
            f"{counted(len(holes), 'image holds', 'images hold')} pixels without a value (no data, NaN or infinite), "
            f"{worst.sample.image} in {100 * worst.missing:.1f} % of them",
            "they count as the mean, and as not labelled where no channel has a value; if they are meant, fill them",
            _files(holes),
        )
    kept = [fact for fact in facts if fact.nodata is not None]
    if kept and kept[0].nodata is not None:
        value, share = kept[0].nodata
        yield Finding(
            "warning",
            f"{counted(len(kept), 'image holds', 'images hold')} {value:g}, declared as the value for no data, "
            f"{kept[0].sample.image} in {100 * share:.1f} % of its pixels; {kept[0].kind} cannot mark it, so it is "
            "read like any other value",
            "mark these pixels as 255 (not labelled) in the masks, or save the images as float32",
            _files(kept),
        )


def _last_band(facts: Sequence[Facts]) -> Iterator[Finding]:
    """Two or four channels may be grey or colour and soft transparency, which is no data; the numbers cannot tell."""
    odd = [fact for fact in facts if fact.kind is not None and fact.kind.channels in {2, 4}]
    odd = [fact for fact in odd if fact.sample.image.suffix.lower() in {".png", ".webp"}]
    if odd and odd[0].kind is not None:
        yield Finding(
            "note",
            f"{counted(len(odd), 'image has', 'images have')} {odd[0].kind}, the last of which may be a band or soft "
            "transparency; it is used",
            "if it is transparency, save the images without it",
            _files(odd),
        )


def _duplicates(facts: Sequence[Facts]) -> Iterator[Finding]:
    looks: dict[Role, dict[str, Look]] = {"labeled": {}, "unlabeled": {}, "evaluation": {}}
    image_of = {fact.sample.name: str(fact.sample.image) for fact in facts}
    for fact in facts:
        if fact.look is not None:
            looks[fact.role][fact.sample.name] = fact.look
    leaks, twice, copies, alike_labeled, alike_unlabeled = find_doubles(**looks)
    of = f"of {counted(len(looks['evaluation']), 'evaluation image')}"
    if leaks:
        yield Finding(
            "warning",
            f"{counted(len(leaks), f'{of} looks', f'{of} look')} nearly the same as a training image, "
            f"e.g. {image_of[leaks[0].first]} and {image_of[leaks[0].second]}",
            "a score on them is too good: take one of each pair away, or divide videos and scenes as a whole",
            *_both(leaks, image_of),
        )
    if twice:
        yield Finding(
            "note",
            f"{counted(len(twice), 'pair of labelled images is', 'pairs of labelled images are')} the same picture, e.g. "
            f"{image_of[twice[0].second]} and {image_of[twice[0].first]}",
            "a second mask of one picture teaches little; label another image instead",
            *_both(twice, image_of),
        )
    if copies:
        yield Finding(
            "note",
            f"{counted(len(copies), 'unlabelled image is', 'unlabelled images are')} the same picture as a labelled one, e.g. "
            f"{image_of[copies[0].first]} and {image_of[copies[0].second]}",
            "a copy teaches nothing new; remove it",
            *_both(copies, image_of),
        )
    if alike_labeled:
        yield Finding(
            "note",
            f"{counted(len(alike_labeled), 'pair of labelled images looks', 'pairs of labelled images look')} nearly the same, "
            f"e.g. {image_of[alike_labeled[0].second]} and {image_of[alike_labeled[0].first]}",
            f"look at them: {_FRAMES_OR_COPIES}",
            *_both(alike_labeled, image_of, "~"),
        )
    if alike_unlabeled:
        yield Finding(
            "note",
            f"{counted(len(alike_unlabeled), 'unlabelled image looks', 'unlabelled images look')} nearly the same as a "
            f"labelled one, e.g. {image_of[alike_unlabeled[0].first]} and {image_of[alike_unlabeled[0].second]}",
            f"look at them: {_FRAMES_OR_COPIES}",
            *_both(alike_unlabeled, image_of, "~"),
        )


_FRAMES_OR_COPIES = "neighbouring frames of a video are worth keeping, a copy that was saved again teaches nothing new"


def _both(pairs: Sequence[Pair], image_of: Mapping[str, str], sign: str = "=") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files and details of a finding on pairs: every file once, and which belongs to which."""
    named = [(image_of[pair.first], image_of[pair.second]) for pair in pairs]
    return tuple(dict.fromkeys(file for pair in named for file in pair)), tuple(f"{one} {sign} {two}" for one, two in named)


def _colors(facts: Sequence[Facts]) -> Iterator[Finding]:
    kind = next((fact.kind for fact in facts if fact.role == "labeled" and fact.kind is not None), PHOTOGRAPH)
    parts = {role: [f for f in facts if f.role == role and f.kind == kind and f.color] for role in ("labeled", "unlabeled")}
    if min(len(part) for part in parts.values()) < 3:
        return
    labeled, unlabeled = (np.array([fact.color for fact in part]) for part in parts.values())
    # Other images than photographs may fill a small part of their type's scale.
    scale = 1.0 if kind.is_photograph else max(float(np.abs(labeled).max()), float(np.finfo(np.float32).tiny))
    spread = np.maximum(np.sqrt((labeled.var(axis=0) + unlabeled.var(axis=0)) / 2), _SAME_COLOR * scale)
    distance = np.abs(labeled.mean(axis=0) - unlabeled.mean(axis=0)) / spread
    if distance.max() > COLOR_DISTANCE:
        channel = int(distance.argmax())
        color = ("red", "green", "blue")[channel] if kind.is_photograph else f"of channel {channel + 1}"
        each = np.abs(unlabeled - labeled.mean(axis=0))[:, channel] / spread[channel]
        far = _files(parts["unlabeled"][i] for i in np.argsort(-each, kind="stable") if each[i] > COLOR_DISTANCE)
        yield Finding(
            "warning",
            f"unlabelled images look different: their mean {color} is {distance.max():.1f} standard deviations away from that "
            f"of the labelled ones, farthest in {far[0]}",
            "pseudo-labels are made by what was learned on the labelled images; label a few of the others too",
            far,
        )


def _values(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    known = classes.class_of
    wrong = [(fact, value) for fact in facts for value in fact.values if value not in known]
    if wrong:
        fact, value = wrong[0]
        files = tuple(dict.fromkeys(str(f.sample.mask) for f, _ in wrong))
        values = ", ".join(describe(v) for v in sorted({v for _, v in wrong})[:8])
        rule = other_rule([fact for fact in facts if fact.role == "labeled"], classes)
        yield Finding(
            "error",
            f"{counted(len(files), 'mask holds', 'masks hold')} values that are no class ({values}), the first "
            f"{fact.sample.mask}: {describe(value)} in {counted(fact.values[value], 'pixel')}",
            rule
            or "correct the masks, list every class in classes.txt, or declare the values by --classes.names and --classes.ids",
            files,
            tuple(f"{f.sample.mask}: {describe(v)} in {counted(f.values[v], 'pixel')}" for f, v in wrong),
        )


def _few(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.values]
    few = too_few_classes(class_pixels(labeled, classes), classes, [fact.sample for fact in labeled]) if labeled else ""
    if few:
        yield Finding("error", few, "look whether the masks hold what they should", _masks(labeled))


def _stray_classes(facts: Sequence[Facts], classes: ClassTable) -> list[int]:
    """Classes that nobody has named and that are a few pixels wherever they occur: what a brush or a smooth resizing leaves."""
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.values]
    pixels = class_pixels(labeled, classes)
    most = [max((fact.pixels(classes).get(c, 0) for fact in labeled), default=0) for c in range(len(classes))]
    return [
        c
        for c, (name, values) in enumerate(zip(classes.names, classes.values, strict=True))
        if name == unnamed(values[0]) and 0 < pixels[c] < STRAY_SHARE * pixels.sum() and most[c] <= STRAY_PIXELS
    ]


def _stray(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    for c in _stray_classes(facts, classes):
        value = describe(classes.values[c][0])
        held = [(f, n) for f in facts if f.role == "labeled" and (n := f.pixels(classes).get(c, 0))]
        fact, pixels = held[0]
        yield Finding(
            "warning",
            f"the mask value {value} is probably an error: {fact.sample.mask} holds it in {counted(pixels, 'pixel')}"
            + (f", {counted(len(held) - 1, 'other mask')} in as few" if len(held) > 1 else "")
            + ", and it becomes a class of its own",
            "set these pixels to the class that they belong to, or to 255 (not labelled); if the value is a class, name all "
            "classes in classes.txt",
            _masks(f for f, _ in held),
            tuple(f"{f.sample.mask}: {value} in {counted(n, 'pixel')}" for f, n in held),
        )


def _largest(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    """The largest number of 16 bits as a class that nobody has named."""
    if unnamed(_LARGEST) not in classes.names:
        return
    c = classes.names.index(unnamed(_LARGEST))
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.values]
    pixels = class_pixels(labeled, classes)
    yield Finding(
        "warning",
        f"the mask value {_LARGEST} is a class of its own, in {100 * pixels[c] / pixels.sum():.1f} % of the labelled pixels; "
        "in masks of 16 bits it often means 'not labelled'",
        f"if so here: --classes.ignore '[{unnamed(_LARGEST)}]'; if it is a class, name all classes in classes.txt",
        _masks(fact for fact in labeled if _LARGEST in fact.values),
    )


def _rare(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.values]
    absent, stray = list[str](), _stray_classes(facts, classes)
    rare = list[tuple[int, float, int]]()  # class id, share, images
    for c, (name, share, images, scored) in enumerate(class_rows(facts, classes)):
        if images == 0 and not scored:
            absent.append(name)
        elif images == 0:
            holding = _files(fact for fact in facts if fact.role == "evaluation" and c in fact.pixels(classes))
            yield Finding(
                "warning",
                f"no labelled image holds {name}, but "
                f"{counted(scored, 'evaluation image does', 'evaluation images do')}, e.g. {holding[0]}",
                "label an image that shows it, or leave it out with --classes.ignore or --classes.merge",
                holding,
            )
        elif c not in stray and share < (FEW_SHARE if images < min(FEW_IMAGES, len(labeled)) else RARE_SHARE):
            rare.append((c, share, images))
    yield from _rare_ones(rare, labeled, classes)
    if absent:
        more = f" and {len(absent) - _NAMED_CLASSES} more" if len(absent) > _NAMED_CLASSES else ""
        yield Finding(
            "note",
            f"no labelled image holds {', '.join(absent[:_NAMED_CLASSES])}{more}",
            "label images that show them, or leave them out with --classes.ignore or --classes.merge",
            no_files="no image with a mask holds these classes",
        )


def _rare_ones(rare: Sequence[tuple[int, float, int]], labeled: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    """One finding for each rare class; one for all of them where they are many.

    Args:
        rare: class id, share of the labelled pixels, and labelled images that hold it.
        labeled: facts about all labelled images.
        classes: of the masks.
    """
    of = counted(len(labeled), "image")
    holding = {c: [fact for fact in labeled if c in fact.pixels(classes)] for c, _, _ in rare}
    said = [f"{classes.names[c]} {100 * share:.2f} % in {images}" for c, share, images in rare]
    advice = "draw labels with protoseg split --balanced, label more images that show {0}, or merge {0} with {1}"
    if len(rare) > _SEPARATE:
        more = f" and {len(rare) - _NAMED_RARE} more" if len(rare) > _NAMED_RARE else ""
        files = dict.fromkeys(file for facts in holding.values() for file in _files(facts))
        yield Finding(
            "warning",
            f"{len(rare)} of {len(classes)} classes are rare (share of the labelled pixels, and images of {len(labeled)}): "
            f"{', '.join(said[:_NAMED_RARE])}{more}",
            advice.format("them", "others"),
            tuple(files),
            tuple(said),
        )
        return
    for c, share, images in rare:
        yield Finding(
            "warning",
            f"{classes.names[c]} is rare: {100 * share:.2f} % of the labelled pixels, in {images} of {of}",
            advice.format("it", "another class"),
            _files(holding[c]),
        )


def _ignored(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    labeled = [fact for fact in facts if fact.role == "labeled" and fact.values]
    # What the settings ignore is meant, and needs no doubt.
    kept = replace(classes, ignored=tuple(value for value in classes.ignored if value not in classes.ignored_by_rule))
    share, _ = ignored_shares(labeled, kept)
    beside = " besides what the settings ignore" if classes.ignored_by_rule else ""
    if share:
        yield Finding(
            "warning" if share > IGNORED_SHARE else "note",
            f"{100 * share:.1f} % of the labelled pixels are ignored{beside}",
            "look whether 'ignored' is meant: background is a class of its own unless it is really unknown",
            _masks(fact for fact in labeled if fact.ignored(kept)),
        )
    if empty := [fact for fact in labeled if not fact.pixels(classes)]:
        what = f"{counted(len(empty), 'labelled mask is', 'labelled masks are')} ignored everywhere"
        yield Finding("warning", what, "such a mask teaches nothing", _masks(empty))


def _table(facts: Sequence[Facts], classes: ClassTable) -> Iterator[Finding]:
    labeled = [fact for fact in facts if fact.role == "labeled"]
    found = {value for fact in labeled for value in fact.values}
    first = [values[0] for values in classes.values]
    if doubt := binary_doubt(labeled, classes):
        stray = _masks(fact for fact in labeled if stray_values(fact))
        yield Finding("warning", doubt, "look at one of these masks, then decide which of the two holds", stray)
    if IGNORE_INDEX in first and len(classes) > 2:
        white = _masks(fact for fact in facts if IGNORE_INDEX in fact.values)
        yield Finding(
            "warning",
            "the mask value 255 is a class here",
            "in most data sets it means 'not labelled'; see --classes.ids",
            white,
            no_files="" if white else "no mask holds it",
        )
    if 0 in classes.ignored and 0 in found and 255 in found:
        yield Finding(
            "note",
            "both 0 and 255 are ignored",
            "0 is often the background: a class of its own, if it is known to be nothing else",
            _masks(fact for fact in labeled if 0 in fact.values),
        )
    white = _masks(fact for fact in labeled if not _WHITE.isdisjoint(fact.values))
    if white and (grey := _below_white(classes)):
        yield Finding(
            "warning",
            f"the mask values {', '.join(map(str, grey))} and 255 are far apart, as in pictures of masks, and 255 counts as "
            "'not labelled'",
            f"if 255 is a class, name all with --classes.names and --classes.ids '{[*grey, IGNORE_INDEX]}'; if it is not, the "
            f"others with --classes.ids '{grey}'",
            white,
        )
        return
    numbers = [value for value in first if value < 256]
    holding = _masks(fact for fact in facts if not fact.values.keys().isdisjoint(numbers))
    far = len(numbers) >= 3 and len(numbers) == len(first) and min(np.diff(sorted(numbers))) > 10
    if far and holding and _is_unnamed(classes):
        yield Finding(
            "warning",
            f"the mask values {', '.join(map(str, sorted(numbers)))} are far apart, as in pictures of masks",
            "if they come from a picture for the eye, export class numbers instead; if they are meant, name the classes",
            holding,
        )


def _is_unnamed(classes: ClassTable) -> bool:
    """Whether nobody has named any class."""
    return all(name == unnamed(values[0]) for name, values in zip(classes.names, classes.values, strict=True))


def _below_white(classes: ClassTable) -> list[int]:
    """The mask values of unnamed classes, where they and 255, which is ignored, are as far apart as the greys of a picture."""
    numbers = sorted(values[0] for values in classes.values)
    if IGNORE_INDEX not in classes.ignored or len(numbers) < 2 or numbers[-1] > IGNORE_INDEX or not _is_unnamed(classes):
        return []
    return numbers if min(np.diff([*numbers, IGNORE_INDEX])) >= GREY_STEP else []


def _crop(facts: Sequence[Facts], crop: int) -> Iterator[Finding]:
    readable = [fact for fact in facts if fact.fault is None and fact.role != "evaluation"]  # those are never cropped
    small = [fact for fact in readable if min(fact.size) < crop]
    if small:
        smallest = min(min(fact.size) for fact in small)
        looked_at = "training" if any(fact.role == "unlabeled" for fact in readable) else "labelled"
        of = f"of {counted(len(readable), f'{looked_at} image')}"
        yield Finding(
            "warning" if len(small) > len(readable) / 2 else "note",
            f"{counted(len(small), f'{of} is', f'{of} are')} smaller than the crop ({smallest} < {crop} px) and padded",
            f"--crop {max(32, smallest // 32 * 32)} wastes less",
            _files(small),
        )
    large = [fact for fact in readable if min(fact.size) > 4 * crop]
    if readable and len(large) > len(readable) / 2:
        yield Finding(
            "note",
            f"most images are more than four times as large as the crop of {crop} px, which so sees little of the surroundings",
            "give a larger --crop if memory allows, or smaller images",
            _files(large),
        )
