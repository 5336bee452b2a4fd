"""Pascal VOC: `JPEGImages`, `SegmentationClass` (and SBD's `SegmentationClassAug`), lists in `ImageSets/Segmentation`.

Everingham et al., IJCV 2010; Hariharan et al. (SBD), ICCV 2011. 21 classes, 255 = boundary, ignored.

Images of `val.txt` and `test.txt` (or `validation.txt` and so on) are for evaluation. All other listed ones train, and with
`SegmentationClassAug` every image that has a mask there; further images in `JPEGImages` are left alone, because the benchmarks
do not use them (`--unlabeled` adds them). But `--labels` and `--holdout` may name those with a mask: UniMatch puts SBD's masks
into `SegmentationClass`, beside the original lists. Without any list all images train.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.index import ClassTable, DataIndex, LeftOut, Sample, Split, named_split
from protoseg.data.io import IMAGE_SUFFIXES, files_by_name, listed_path, read_lines, walk
from protoseg.data.masks import Color, MaskFile, pack

NEEDS = "JPEGImages/ and SegmentationClass/"
NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def palette_color(number: int) -> Color:
    """VOC's colour of a class: its bits dealt out to red, green and blue in turn, from the highest bit down."""
    red, green, blue = (sum((number >> (3 * i + channel) & 1) << (7 - i) for i in range(8)) for channel in range(3))
    return red, green, blue


_COLORS = tuple(palette_color(i) for i in range(len(NAMES)))
CLASSES = ClassTable(
    NAMES,
    tuple((i, pack(color)) for i, color in enumerate(_COLORS)),  # some copies of the masks were saved as RGB
    _COLORS,
    ignored=(255, pack(palette_color(255))),
)


def matches(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and any((root / f"SegmentationClass{kind}").is_dir() for kind in ("", "Aug"))


def read(root: Path) -> DataIndex:
    """List the data set. No image is opened."""
    samples, spare = read_samples(root)
    classes = read_class_list(root) or CLASSES
    return DataIndex(root, "voc", tuple(samples), classes, left_out=unlisted(root, spare), spare=tuple(spare))


def read_samples(root: Path) -> tuple[list[Sample], list[Sample]]:
    """The samples of a folder in this layout, whatever its classes, and those that its lists pass over.

    Raises:
        FileNotFoundError: a listed image is not there.
        ValueError: two images or two masks have the same name.
    """
    images, augmented = _by_id(root / "JPEGImages"), _by_id(root / "SegmentationClassAug")
    masks = _by_id(root / "SegmentationClass") | augmented
    listed = root / "ImageSets/Segmentation"
    lists = {p.stem.lower(): _ids(p, images) for p in walk(listed) if p.parent == listed and p.suffix == ".txt"}
    evaluation: dict[str, Split] = {}
    for title, names in lists.items():
        if (split := named_split(title)) in {"val", "test"}:
            evaluation |= dict.fromkeys(names, split)
    chosen = {name for names in lists.values() for name in names} or set(images)
    chosen |= augmented.keys()
    if lacking := sorted(chosen - images.keys()):
        raise FileNotFoundError(f"{root} lists {lacking[0]}, or has a mask of it, but there is no such image in JPEGImages/")

    def sample(name: str) -> Sample:
        return Sample(name, images[name], MaskFile(masks[name]) if name in masks else None, evaluation.get(name, "train"))

    return [sample(name) for name in sorted(chosen)], [sample(name) for name in sorted(images.keys() - chosen)]


def unlisted(root: Path, spare: Sequence[Sample]) -> tuple[LeftOut, ...]:
    """Images that no list names."""
    files = tuple(sample.image for sample in spare)
    advice = (
        f"to learn from them, add them with --unlabeled {root / 'JPEGImages'}, or put their names into a list, "
        "there or (with a mask) for --labels"
    )
    words = "image of JPEGImages/ stands in no list", "images of JPEGImages/ stand in no list"
    return (LeftOut(*words, advice, files),) if files else ()


def _by_id(folder: Path) -> dict[str, Path]:
    """Files by their path below a folder, without suffix."""
    return files_by_name(folder, IMAGE_SUFFIXES)


def _ids(path: Path, images: Container[str]) -> list[str]:
    """Image ids of a list: each line, or its beginning (`name flag`, `JPEGImages/name.jpg SegmentationClass/name.png`)."""
    return [_id_in(listed_path(line.strip()), images) for line in read_lines(path) if line.strip()]


def _id_in(line: str, images: Container[str]) -> str:
    """The longest beginning of a line that names an image, because a name may hold blanks; where none does, its first word."""
    text = line
    while text:
        path = text.removeprefix("JPEGImages/")
        for name in (text, path, str(Path(path).with_suffix("")) if Path(path).suffix.lower() in IMAGE_SUFFIXES else path):
            if name in images:
                return name
        text = "".join(text.rsplit(maxsplit=1)[:-1])
    return line.split()[0]
