"""`images/` and `masks/` with equal paths below them, suffix aside. An image without a mask is unlabelled.

Evaluation images stand in `test/{images,masks}` or in `images/test` and `masks/test` (the same for `val`). Where
`images/train` stands beside them, it alone trains. Class names come from `classes.txt`, one a line.
"""

from __future__ import annotations

from pathlib import Path

from protoseg.data.index import ClassTable, DataIndex, Sample, Split, table_from_names
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES

_EVALUATION: tuple[Split, ...] = ("val", "test")


def matches(root: Path) -> bool:
    return (root / "images").is_dir()


def read(root: Path) -> DataIndex:
    """List a folder data set. No image is opened.

    Raises:
        ValueError: no training image, two files for one name, or masks that fit no image at all.
        FileNotFoundError: there is no `masks/`.
    """
    images, masks = root / "images", root / "masks"
    if not masks.is_dir():
        raise FileNotFoundError(f"{root} has images/ but no masks/ folder; a few labelled images are needed to learn from")
    mask_of = _files(masks, MASK_SUFFIXES)
    image_of = _files(images, IMAGE_SUFFIXES)
    if not mask_of:
        raise ValueError(f"there is no mask in {masks} ({_list(MASK_SUFFIXES)}); label a few images first")
    has_train = (images / "train").is_dir()
    samples = []
    for name, path in image_of.items():
        split = _split_of(name, only_train_folder=has_train)
        if split is not None:
            samples.append(Sample(name, path, mask_of.get(name), split))
    for split in _EVALUATION:
        samples += _beside(root, split)
    if not any(sample.split == "train" for sample in samples):
        raise ValueError(f"there is no training image in {images} ({_list(IMAGE_SUFFIXES)})")
    if not any(sample.mask for sample in samples if sample.split == "train"):
        example = next(iter(mask_of))
        raise ValueError(
            f"no image in {images} has a mask of the same name in {masks}: e.g. {mask_of[example].relative_to(root)} "
            f"belongs to images/{example}.* (paths must be equal, suffix aside)"
        )
    samples.sort(key=lambda sample: (sample.split, sample.name))
    return DataIndex(root, "folder", tuple(samples), read_classes(root / "classes.txt"))


def read_unlabeled(root: Path) -> list[Sample]:
    """List a folder of images without masks.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} for --unlabeled")
    found = _files(root, IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"there is no image in {root} ({_list(IMAGE_SUFFIXES)})")
    return [Sample(f"{root.name}:{name}", path, None, "train") for name, path in found.items()]


def read_classes(path: Path) -> ClassTable | None:
    """Class names from a file, one a line in the order of the mask values; None where there is no file.

    Raises:
        ValueError: the file names no class, or one twice.
    """
    if not path.is_file():
        return None
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty; write one class name a line, in the order of the mask values 0, 1, 2, ...")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path} names {repeated!r} twice")
    return table_from_names(names)


def _split_of(name: str, *, only_train_folder: bool) -> Split | None:
    top = name.split("/", 1)[0] if "/" in name else ""
    if top in _EVALUATION:
        return top
    return "train" if top == "train" or not only_train_folder else None


def _beside(root: Path, split: Split) -> list[Sample]:
    """Evaluation images of `root/test/{images,masks}`."""
    if not (root / split / "images").is_dir():
        return []
    mask_of = _files(root / split / "masks", MASK_SUFFIXES)
    image_of = _files(root / split / "images", IMAGE_SUFFIXES)
    return [Sample(f"{split}/{name}", path, mask_of.get(name), split) for name, path in image_of.items()]


def _files(root: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Relative path without suffix -> file, sorted.

    Raises:
        ValueError: two files share a name.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    return found


def _list(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
