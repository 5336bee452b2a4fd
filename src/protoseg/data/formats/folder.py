"""`images/` and `masks/` with equal paths below them, suffix aside. An image without a mask is unlabelled.

Both may stand in `train/`. Evaluation images stand in
`test/{images,masks}` or in `images/test` and `masks/test` (the same for `val`). Where `images/train` stands beside them, it
alone trains. Class names come from `classes.txt` or another list (see `data.class_list`).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from protoseg.data.class_list import read_class_list
from protoseg.data.index import EXTRA, DataIndex, Sample, Split
from protoseg.data.io import IMAGE_SUFFIXES, MASK_SUFFIXES, walk
from protoseg.data.masks import MaskFile

_NO_MASKS = (IMAGE_SUFFIXES | {".gif"}) - MASK_SUFFIXES
_EVALUATION: tuple[Split, ...] = ("val", "test")


def matches(root: Path) -> bool:
    return any((root / part / "images").is_dir() for part in ("", "train", *_EVALUATION))


def read(root: Path, *, for_training: bool = True) -> DataIndex:
    """List a folder data set. No image is opened.

    Args:
        root: of the data set.
        for_training: whether there must be training images with masks.

    Raises:
        ValueError: no training image, two files for one name, or masks that fit no image at all.
        FileNotFoundError: there is no `masks/`.
    """
    top = _training_folder(root)
    images, masks = top / "images", top / "masks"
    if for_training and not masks.is_dir():
        raise FileNotFoundError(f"{top} has no masks/ folder; a few labelled images are needed to learn from")
    mask_of, image_of = _files(masks, MASK_SUFFIXES), _files(images, IMAGE_SUFFIXES)
    # `train` means something only beside test or val; on its own it is a folder like any other.
    has_splits = any((images / split).is_dir() or (root / split / "images").is_dir() for split in _EVALUATION)
    has_train = has_splits and (images / "train").is_dir()
    samples = []
    for name, path in image_of.items():
        split = _split_of(name, only_train_folder=has_train)
        if split is not None:
            samples.append(Sample(name, path, _mask(mask_of, name), split))
    for split in _EVALUATION:
        samples += _beside(root, split)
    samples.sort(key=lambda sample: (sample.split, sample.name))
    for first, second in pairwise(samples):
        if first.name == second.name:
            raise ValueError(f"{first.image} and {second.image} are the same evaluation image; keep one of the two layouts")
    if for_training:
        _check_training(top, samples, image_of, mask_of)
    return DataIndex(root, "folder", tuple(samples), read_class_list(root))


def _training_folder(root: Path) -> Path:
    """What holds `images/` and `masks/` for training: the data set's folder, or its `train/`."""
    here, below = root / "images", root / "train/images"
    if here.is_dir() and below.is_dir():
        raise ValueError(f"{here} and {below} both hold training images; keep one of the two layouts")
    return root / "train" if below.is_dir() else root


def _check_training(root: Path, samples: list[Sample], image_of: dict[str, Path], mask_of: dict[str, Path]) -> None:
    train = [sample for sample in samples if sample.split == "train"]
    if not train:
        raise ValueError(f"there is no training image in {root / 'images'} ({_list(IMAGE_SUFFIXES)})")
    if not mask_of:
        if blurred := next((path for path in walk(root / "masks") if path.suffix.lower() in _NO_MASKS), None):
            raise ValueError(
                f"the masks in {root / 'masks'} are no PNG, BMP or TIFF files (the first is {blurred.name}): JPEG and WebP "
                "blur class numbers, GIF changes them; export the masks as PNG"
            )
        raise ValueError(f"there is no mask in {root / 'masks'} ({_list(MASK_SUFFIXES)}); label a few images first")
    if any(sample.mask for sample in train):
        return
    orphan = next((name for name in mask_of if name not in image_of), None)
    example = f": e.g. {mask_of[orphan]} belongs to images/{orphan}.*" if orphan else ""
    raise ValueError(
        f"no training image in {root / 'images'} has a mask of the same name in {root / 'masks'}{example} "
        "(paths must be equal, suffix aside)"
    )


def read_images(root: Path, option: str) -> list[Sample]:
    """List a folder of images without masks; their names start with the folder's, so that they differ from all others.

    Args:
        root: folder, at any depth.
        option: of the command line, for messages.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} for {option}")
    found = _files(root, IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"there is no image in {root} ({_list(IMAGE_SUFFIXES)})")
    return [Sample(f"{EXTRA}{root.name}/{name}", path, None, "train") for name, path in found.items()]


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
    return [Sample(f"{split}/{name}", path, _mask(mask_of, name), split) for name, path in image_of.items()]


def _mask(mask_of: dict[str, Path], name: str) -> MaskFile | None:
    return MaskFile(mask_of[name]) if name in mask_of else None


def _files(root: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Relative path without suffix -> file, sorted.

    Raises:
        ValueError: two files share a name.
    """
    found: dict[str, Path] = {}
    for path in walk(root):
        if path.suffix.lower() not in suffixes:
            continue
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    return found


def _list(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
