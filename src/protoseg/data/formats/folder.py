"""`images/` and `masks/` with equal paths below them, suffix aside. An image without a mask is unlabelled.

Both may stand in `train/`. Evaluation images stand in `test/{images,masks}` or in `images/test` and `masks/test` (the same for
`val`, `validation` and the other names that `named_split` knows). Where `images/train` stands beside them, it alone trains.
Class names come from `classes.txt` or another list (see `data.class_list`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from protoseg.data.archive import title
from protoseg.data.class_list import read_class_list
from protoseg.data.index import EXTRA, DataIndex, LeftOut, Sample, Split, named_split
from protoseg.data.io import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    OTHER_PICTURES,
    by_name,
    files_by_name,
    path_below,
    split_suffix,
    walk,
    walk_below,
)
from protoseg.data.left_out import unused_masks
from protoseg.data.masks import MaskFile
from protoseg.data.misplaced import no_masks_folder, rename_hint, unread_pictures
from protoseg.data.samples import Samples, SamplesBuilder

_EVALUATION: tuple[Split, ...] = ("test", "val")
_BLURRED = (IMAGE_SUFFIXES | {".gif"}) - MASK_SUFFIXES


def matches(root: Path) -> bool:
    folders = (root, root / "train", *_evaluation_folders(root))
    return any((folder / "images").is_dir() for folder in folders)


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
        raise FileNotFoundError(no_masks_folder(top))
    files = walk_below(images)
    mask_of, image_of = files_by_name(masks, MASK_SUFFIXES), by_name(images, files, IMAGE_SUFFIXES)
    # `train` means something only beside test or val; on its own it is a folder like any other.
    beside = [part for part in _evaluation_folders(root) if (part / "images").is_dir()]
    has_train = bool(beside or _evaluation_folders(images)) and "train" in map(named_split, _folders(images))
    names: dict[Split | None, list[str]] = {"train": [], "val": [], "test": [], None: []}
    for name in sorted(image_of):
        names[_split_of(name, only_train_folder=has_train)].append(name)
    evaluation = [
        Sample(name, images / image_of[name], _mask(mask_of, name), split) for split in _EVALUATION for name in names[split]
    ]
    for part in beside:
        evaluation += _beside(part)
    evaluation.sort(key=lambda sample: (sample.split, sample.name))
    for first, second in pairwise(evaluation):
        if first.name == second.name:
            raise ValueError(f"{first.image} and {second.image} are the same evaluation image; keep one of the two layouts")
    builder, to_image = SamplesBuilder(), path_below(images)
    for name in names["train"]:
        if (mask := _mask(mask_of, name)) is None:
            builder.add_image(name, to_image(image_of[name]))
        else:
            builder.add(Sample(name, images / image_of[name], mask, "train"))
    train = builder.samples()
    if for_training:
        _check_training(top, train, image_of, mask_of)
    test, val = (Samples(sample for sample in evaluation if sample.split == split) for split in _EVALUATION)
    index = DataIndex(root, "folder", test + train + val, read_class_list(root))
    left_out = _left_out(images, files, [images / image_of[name] for name in names[None]])
    for folder in (masks, *(part / "masks" for part in beside)):
        left_out += unused_masks(folder, index.samples)
    return replace(index, left_out=tuple(left_out))


def _left_out(images: Path, files: list[str], loose: list[Path]) -> list[LeftOut]:
    """Images outside `images/train` and the evaluation folders; pictures that are not read in folders without others."""
    found = []
    if loose:
        where = "outside images/train and the evaluation folders"
        found.append(
            LeftOut(
                f"image stands {where}, and is not used",
                f"images stand {where}, and are not used",
                "move them to images/train, also those without masks, or give --unlabeled DIR",
                tuple(loose),
            )
        )
    good = {_folder_of(file) for file in files if _suffix_of(file) in IMAGE_SUFFIXES}
    other = [images / file for file in files if _suffix_of(file) in OTHER_PICTURES and _folder_of(file) not in good]
    if other:  # those in the other folders are found in every format
        words = "file below images/ is of a kind that is not read", "files below images/ are of kinds that are not read"
        found.append(LeftOut(*words, f"convert them to one of {_list(IMAGE_SUFFIXES)}", tuple(other)))
    return found


def _training_folder(root: Path) -> Path:
    """What holds `images/` and `masks/` for training: the data set's folder, or its `train/`."""
    here, below = root / "images", root / "train/images"
    if here.is_dir() and below.is_dir():
        raise ValueError(f"{here} and {below} both hold training images; keep one of the two layouts")
    return root / "train" if below.is_dir() else root


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def _suffix_of(file: str) -> str:
    return split_suffix(file.rpartition("/")[2])[1].lower()


def _check_training(root: Path, train: Samples, image_of: dict[str, str], mask_of: dict[str, Path]) -> None:
    if not train:
        unread = unread_pictures(root / "images")
        raise ValueError(f"there is no training image in {root / 'images'} ({_list(IMAGE_SUFFIXES)}){unread}")
    if not mask_of:
        others = _BLURRED | OTHER_PICTURES
        if first := next((path for path in walk(root / "masks") if path.suffix.lower() in others), None):
            why = ": JPEG and WebP blur class numbers, GIF changes them" if first.suffix.lower() in _BLURRED else ""
            raise ValueError(
                f"the masks in {root / 'masks'} are no PNG, BMP or TIFF files (the first is {first.name}){why}; export the "
                "masks as PNG"
            )
        raise ValueError(f"there is no mask in {root / 'masks'} ({_list(MASK_SUFFIXES)}); label a few images first")
    if any(sample.mask for sample in train.whole):
        return
    whole_paths = {name: root / "images" / file for name, file in image_of.items()}
    raise ValueError(
        f"no training image in {root / 'images'} has a mask of the same name in {root / 'masks'}"
        f"{rename_hint(mask_of, whole_paths)} (paths must be equal, suffix aside)"
    )


def read_images(root: Path, option: str, *, to_learn_from: bool = False) -> Samples:
    """List a folder of images without masks; their names start with the folder's, so that they differ from all others.

    Args:
        root: folder, at any depth.
        option: of the command line, for messages.
        to_learn_from: of a data set (`images/` beside `masks/`), list the training images alone.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: no image is in it.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root} for {option}")
    # A data set of this layout is images beside masks, which are no pictures to learn from, and images to score on.
    is_data_set = to_learn_from and (root / "images").is_dir() and (root / "masks").is_dir()
    folder = root / "images" if is_data_set else root
    found = by_name(folder, walk_below(folder), IMAGE_SUFFIXES)
    if is_data_set:
        found = {name: file for name, file in found.items() if _split_of(name, only_train_folder=False) == "train"}
    if not found:
        raise ValueError(f"there is no image in {folder} ({_list(IMAGE_SUFFIXES)})")
    builder, above, to_image = SamplesBuilder(), f"{EXTRA}{title(root)}/", path_below(folder)
    for name, file in found.items():
        builder.add_image(above + name, to_image(file))
    return builder.samples()


def _split_of(name: str, *, only_train_folder: bool) -> Split | None:
    split = named_split(name.split("/", 1)[0]) if "/" in name else None
    return split or (None if only_train_folder else "train")


def _folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _evaluation_folders(root: Path) -> list[Path]:
    """The folders directly in another one that are called after an evaluation split."""
    return [root / name for name in _folders(root) if named_split(name) in {"val", "test"}]


def _beside(part: Path) -> list[Sample]:
    """Evaluation images of `root/test/{images,masks}`."""
    split = named_split(part.name)
    assert split is not None
    mask_of = files_by_name(part / "masks", MASK_SUFFIXES)
    image_of = files_by_name(part / "images", IMAGE_SUFFIXES)
    return [Sample(f"{part.name}/{name}", path, _mask(mask_of, name), split) for name, path in image_of.items()]


def _mask(mask_of: dict[str, Path], name: str) -> MaskFile | None:
    return MaskFile(mask_of[name]) if name in mask_of else None


def _list(suffixes: frozenset[str]) -> str:
    return ", ".join(sorted(suffixes))
