"""Writes one and the same small data set in every layout."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_codes
from make_folder import Pixels, draw_shapes, write_image, write_index
from numpy.typing import NDArray
from PIL import Image

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


def known(picture: Picture) -> Pixels:
    """Its label with class 0 where nothing is known."""
    assert picture.label is not None
    return np.where(picture.label == 255, 0, picture.label).astype(np.uint8)


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
            write_image(root / f"masks/{'val/' if p.split == 'val' else ''}{p.stem}.png", colors[known(p)])
    rows = zip(("ground", "square", "disc"), colors[:3].tolist(), strict=True)
    (root / "classes.txt").write_text("".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in rows))


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
        write_image(root / f"images/{folder}/ADE_{p.stem}.jpg", p.image)
        if p.label is not None:
            write_index(
                root / f"annotations/{folder}/ADE_{p.stem}.png", np.where(p.label == 255, 0, p.label + 1).astype(np.uint8)
            )
    names = ["wall", "building, edifice", "sky", *(f"thing {i}" for i in range(4, 151))]
    lines = [f"{i}\t0.1\t9\t9\t0\t{name}\n" for i, name in enumerate(names, start=1)]
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n" + "".join(lines))


def write_cvat(root: Path, pictures: list[Picture]) -> None:
    """Masks in the task's own colours; no "ignored"."""
    colors = np.array([[0, 0, 0], [250, 50, 83], [61, 61, 245]], dtype=np.uint8)
    names = ("background", "red square", "disc")
    lines = [f"{name}:{r},{g},{b}::\n" for name, (r, g, b) in zip(names, colors.tolist(), strict=True)]
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines))
    for p in pictures:
        write_image(root / f"JPEGImages/my photos/{p.stem}.png", p.image)
        if p.label is not None:
            write_image(root / f"SegmentationClass/my photos/{p.stem}.png", colors[known(p)])
    for split, subset in (("train", "default"), ("val", "Val")):
        (lists / f"{subset}.txt").write_text("".join(f"my photos/{p.stem}\n" for p in pictures if p.split == split))


def write_cvat_zip(root: Path, pictures: list[Picture]) -> None:
    folder = root.with_name("unzipped")
    write_cvat(folder, pictures)
    shutil.make_archive(str(root), "zip", folder)
    root.with_suffix(".zip").rename(root)


def write_coco(root: Path, pictures: list[Picture], *, compressed: bool = True) -> None:
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": 44, "name": "disc", "supercategory": "thing"}, {"id": 7, "name": "square"}]
    for split in ("train", "val"):
        images, annotations = [], []
        for number, p in enumerate(pictures):
            if p.split != split:
                continue
            write_image(root / f"{split}2017/{p.stem}.png", p.image)
            height, width = p.image.shape[:2]
            images.append({"id": number, "file_name": f"{p.stem}.png", "height": height, "width": width})
            for value, category in () if p.label is None else ((1, 7), (2, 44)):
                if not (p.label == value).any():
                    continue
                code = mask_codes.encode(np.asfortranarray(p.label == value))
                code["counts"] = code["counts"].decode() if compressed else runs(p.label == value)
                code["size"] = [int(side) for side in code["size"]]
                area = int((p.label == value).sum())
                annotations.append({"id": 1, "image_id": number, "category_id": category, "segmentation": code, "area": area})
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    (root / "annotations/captions_train2017.json").write_text('{"images": [], "annotations": [{"caption": "a disc"}]}')


def write_coco_uncompressed(root: Path, pictures: list[Picture]) -> None:
    write_coco(root, pictures, compressed=False)


def write_coco_roboflow(root: Path, pictures: list[Picture]) -> None:
    """As Roboflow exports it: a file beside the images of each split, and a category that only groups the others."""
    categories = [
        {"id": 0, "name": "shapes", "supercategory": "none"},
        {"id": 1, "name": "square", "supercategory": "shapes"},
        {"id": 2, "name": "disc", "supercategory": "shapes"},
    ]
    for split, folder in (("train", "train"), ("val", "valid")):
        images, annotations = [], []
        for number, p in enumerate(p for p in pictures if p.split == split):
            write_image(root / folder / f"{p.stem}.png", p.image)
            height, width = p.image.shape[:2]
            images.append({"id": number, "license": 1, "file_name": f"{p.stem}.png", "height": height, "width": width})
            for value in (1, 2):
                if p.label is not None and (p.label == value).any():
                    code = {"size": [height, width], "counts": runs(p.label == value)}
                    annotations.append({"id": len(annotations), "image_id": number, "category_id": value, "segmentation": code})
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (root / folder / "_annotations.coco.json").write_text(json.dumps(content))


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's plain run lengths: column by column, zeros first."""
    flat = mask.T.ravel()
    lengths, value, length = [], False, 0
    for pixel in flat.tolist():
        if pixel != value:
            lengths.append(length)
            value, length = pixel, 0
        length += 1
    return [*lengths, length]


def write_labelme(root: Path, pictures: list[Picture], *, windows: bool = False) -> None:
    """As stored masks; polygons have tests of their own. `windows`: files in a folder beside the images."""
    for p in pictures:
        write_image(root / f"{p.split}/images/{p.stem}.png", p.image)
        if p.label is None:
            continue
        shapes: list[dict[str, object]] = []
        for value, name in ((0, "_background_"), (1, "a square"), (2, "disc"), (255, "__ignore__")):
            rows, columns = np.nonzero(p.label == value)
            if len(rows) == 0:
                continue
            top, left, bottom, right = rows.min(), columns.min(), rows.max(), columns.max()
            buffer = io.BytesIO()
            Image.fromarray(p.label[top : bottom + 1, left : right + 1] == value).save(buffer, "PNG")
            points = [[float(left), float(top)], [float(right), float(bottom)]]
            code = base64.b64encode(buffer.getvalue()).decode()
            shapes.append({"label": name, "points": points, "shape_type": "mask", "mask": code, "flags": {}})
        content = {
            "version": "5.5.0",
            "shapes": shapes,
            "imagePath": f"..\\images\\{p.stem}.png" if windows else f"{p.stem}.png",
            "imageHeight": p.image.shape[0],
            "imageWidth": p.image.shape[1],
        }
        path = root / p.split / ("json" if windows else "images") / f"{p.stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def write_labelme_windows(root: Path, pictures: list[Picture]) -> None:
    write_labelme(root, pictures, windows=True)


def write_label_studio(root: Path, pictures: list[Picture]) -> None:
    tasks = []
    ways = ("/data/upload/3/0a1b2c3d-{}", "/data/local-files/?d=my%20photos/{}", "s3://bucket/folder/{}", "{}")
    for number, p in enumerate(pictures):
        write_image(root / f"images/{p.split}/{p.stem}.png", p.image)
        height, width = p.image.shape[:2]
        result = [
            {
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "type": "brushlabels",
                "value": {"format": "rle", "rle": encode_brush(p.label == value), "brushlabels": [name]},
            }
            for value, name in ((1, "a square"), (2, "disc"))
            if p.label is not None and (p.label == value).any()
        ]
        wrong = {"was_cancelled": True, "result": [{**r, "value": {**r["value"], "brushlabels": ["a square"]}} for r in result]}
        data = {"image": ways[number % 4].format(f"{p.stem}.png")}
        tasks.append({"id": number, "annotations": [{"result": result}, wrong] if result else [], "data": data})
    (root / "project-3.json").write_text(json.dumps(tasks))


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask (H, W) the way that the editor stores a stroke of opaque white."""
    values = np.repeat(np.where(mask.ravel(), 255, 0), 4)
    out = _BitWriter()
    out.write(len(values), 32)
    out.write(_WORD_BITS - 1, 5)
    for bits in _RUN_BITS:
        out.write(bits - 1, 4)
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        for length in _pieces(end - start, 1 << _RUN_BITS[-1]):
            which = next(k for k, bits in enumerate(_RUN_BITS) if length <= 1 << bits)
            out.write(1, 1)
            out.write(which, 2)
            out.write(length - 1, _RUN_BITS[which])
            out.write(int(values[start]), _WORD_BITS)
    return out.finish()


def _pieces(length: int, most: int) -> Iterable[int]:
    while length > 0:
        yield min(length, most)
        length -= most


class _BitWriter:
    def __init__(self) -> None:
        self.bits: list[str] = []

    def write(self, value: int, bits: int) -> None:
        self.bits.append(f"{value:0{bits}b}")

    def finish(self) -> list[int]:
        text = "".join(self.bits)
        text += "0" * (-len(text) % 8)
        return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


NAMES: dict[str, tuple[str, str, str]] = {
    "folder": ("class 0", "class 1", "class 2"),
    "folder, colours": ("ground", "square", "disc"),
    "camvid": ("sky", "building", "pole"),
    **dict.fromkeys(("voc", "voc, augmented", "voc, colours"), ("background", "aeroplane", "bicycle")),
    **dict.fromkeys(("cityscapes", "cityscapes, train ids"), ("road", "sidewalk", "building")),
    "ade20k": ("wall", "building", "sky"),
    **dict.fromkeys(("cvat", "cvat, zip"), ("background", "red square", "disc")),
    **dict.fromkeys(("coco", "coco, plain run lengths", "coco, Roboflow"), ("background", "square", "disc")),
    **dict.fromkeys(("labelme", "labelme, from Windows", "label studio"), ("background", "a square", "disc")),
}
"""What the classes 0, 1 and 2 are called: as the files say, as the benchmark has it, or by their numbers where nobody says."""

PLACES: dict[str, tuple[str, str]] = {
    "folder": ("{}", "val/{}"),
    "camvid": ("train/{}", "val/{}"),
    "voc": ("{}", "{}"),
    "cityscapes": ("train/bonn/{}_leftImg8bit", "val/bonn/{}_leftImg8bit"),
    "ade20k": ("training/ADE_{}", "validation/ADE_{}"),
    "cvat": ("my photos/{}", "my photos/{}"),
    "coco": ("train2017/{}", "val2017/{}"),
    "coco, Roboflow": ("train/{}", "valid/{}"),
    "labelme": ("train/images/{}", "val/images/{}"),
    "label_studio": ("images/train/{}", "images/val/{}"),
}
"""Format, or one way to write it -> what a training image of some stem is called, and an evaluation image: its path as the
layout has it."""

NO_IGNORED = {"folder, colours", "cvat", "cvat, zip", "coco", "coco, plain run lengths", "coco, Roboflow", "label studio"}
"""Written without "ignored" pixels, because the layout has none: they are class 0."""

_WORD_BITS, _RUN_BITS = 8, (3, 4, 8, 16)  # as Label Studio's editor writes them

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
    "cvat": ("cvat", write_cvat),
    "cvat, zip": ("cvat", write_cvat_zip),
    "coco": ("coco", write_coco),
    "coco, plain run lengths": ("coco", write_coco_uncompressed),
    "coco, Roboflow": ("coco", write_coco_roboflow),
    "labelme": ("labelme", write_labelme),
    "labelme, from Windows": ("labelme", write_labelme_windows),
    "label studio": ("label_studio", write_label_studio),
}
"""Name -> the format that it has to be recognised as, and what writes it."""
