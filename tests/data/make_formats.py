"""Writes one and the same small data set in every layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_folder import Pixels, draw_shapes, write_image, write_index

from protoseg.data.formats.voc import palette_color
from protoseg.data.index import Split


@dataclass(frozen=True)
class Picture:
    """An image of the data set. Labels are class ids 0, 1, 2, and 255 where nothing is known; None = unlabelled."""

    stem: str
    split: Split
    image: Pixels
    label: Pixels | None


def make_pictures(seed: int = 0) -> list[Picture]:
    """Three labelled training images, two unlabelled ones, two of val; every labelled one has an ignored corner."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(7):
        image, label = draw_shapes(rng, (40, 48 + i))
        label[:4, :5] = 255
        split: Split = "val" if i > 4 else "train"
        pictures.append(Picture(f"scene_{i}", split, image, None if i in (3, 4) else label))
    return pictures


def write_folder(root: Path, pictures: list[Picture]) -> None:
    for p in pictures:
        below = "val/" if p.split == "val" else ""
        write_image(root / f"images/{below}{p.stem}.png", p.image)
        if p.label is not None:
            write_index(root / f"masks/{below}{p.stem}.png", p.label, palette=True)


def write_folder_of_colors(root: Path, pictures: list[Picture]) -> None:
    write_folder(root, [Picture(p.stem, p.split, p.image, None) for p in pictures])
    colors = np.array([palette_color(i) for i in range(256)], dtype=np.uint8)
    for p in pictures:
        if p.label is not None:
            label = np.where(p.label == 255, 0, p.label)  # a colour table knows no "ignored"
            write_image(root / f"masks/{'val/' if p.split == 'val' else ''}{p.stem}.png", colors[label])
    (root / "classes.txt").write_text("".join(f"class {i} {r} {g} {b}\n" for i, (r, g, b) in enumerate(colors[:3].tolist())))


def write_camvid(root: Path, pictures: list[Picture]) -> None:
    (root / "trainannot").mkdir(parents=True)
    for p in pictures:
        write_image(root / p.split / f"{p.stem}.png", p.image)
        if p.label is not None:
            write_index(root / f"{p.split}annot/{p.stem}.png", np.where(p.label == 255, 11, p.label).astype(np.uint8))


def write_voc(root: Path, pictures: list[Picture], *, folder: str = "SegmentationClass", colored: bool = False) -> None:
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    colors = np.array([palette_color(i) for i in range(256)], dtype=np.uint8)
    for p in pictures:
        write_image(root / f"JPEGImages/{p.stem}.png", p.image)
        if p.label is not None:
            path = root / f"{folder}/{p.stem}.png"
            write_image(path, colors[p.label]) if colored else write_index(path, p.label, palette=True)
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("".join(f"{p.stem}\n" for p in pictures if p.split == split))


def write_voc_aug(root: Path, pictures: list[Picture]) -> None:
    write_voc(root, pictures, folder="SegmentationClassAug")


def write_voc_colors(root: Path, pictures: list[Picture]) -> None:
    write_voc(root, pictures, colored=True)


def write_cityscapes(root: Path, pictures: list[Picture], *, train_ids: bool = False) -> None:
    (root / "gtFine").mkdir(parents=True)
    ids = np.full(256, 255 if train_ids else 4, dtype=np.uint8)  # 4 is "static", which the benchmark ignores
    ids[:3] = (0, 1, 2) if train_ids else (7, 8, 11)
    ending = "labelTrainIds" if train_ids else "labelIds"
    for p in pictures:
        write_image(root / f"leftImg8bit/{p.split}/bonn/{p.stem}_leftImg8bit.png", p.image)
        if p.label is not None:
            write_index(root / f"gtFine/{p.split}/bonn/{p.stem}_gtFine_{ending}.png", ids[p.label])


def write_cityscapes_train_ids(root: Path, pictures: list[Picture]) -> None:
    write_cityscapes(root, pictures, train_ids=True)


def write_ade20k(root: Path, pictures: list[Picture]) -> None:
    for p in pictures:
        folder = "training" if p.split == "train" else "validation"
        write_image(root / f"images/{folder}/{p.stem}.jpg", p.image)
        if p.label is not None:
            write_index(root / f"annotations/{folder}/{p.stem}.png", np.where(p.label == 255, 0, p.label + 1).astype(np.uint8))


WRITERS: dict[str, tuple[str, Callable[[Path, list[Picture]], None]]] = {
    "folder": ("folder", write_folder),
    "folder, colours": ("folder", write_folder_of_colors),
    "camvid": ("camvid", write_camvid),
    "voc": ("voc", write_voc),
    "voc, augmented": ("voc", write_voc_aug),
    "voc, colours": ("voc", write_voc_colors),
    "cityscapes": ("cityscapes", write_cityscapes),
    "cityscapes, train ids": ("cityscapes", write_cityscapes_train_ids),
    "ade20k": ("ade20k", write_ade20k),
}
"""Name -> the format that it has to be recognised as, and what writes it."""
