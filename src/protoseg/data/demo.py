"""The embedded data set: real handwritten digits on real photographs, both from scikit-learn, no download.

A class looks very different from image to image (handwriting, size, rotation, colour, background), which is what several
prototypes per class are for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from protoseg.data.io import UInt8Array

CLASS_NAMES = ("background", *(f"digit {d}" for d in range(10)))


def write_demo(
    root: Path, *, labeled: int = 100, unlabeled: int = 1500, test: int = 300, size: int = 48, seed: int = 0
) -> None:
    """Write the demo data set as a folder that `protoseg train` reads.

    Labelled, unlabelled and test images use different handwritten digits; test images take their backgrounds from the right
    part of each photograph, which no training image shows.

    Args:
        root: folder to write; `images/{train,test}`, `masks/{train,test}` and `classes.txt` appear in it.
        labeled, unlabeled, test: number of images of each kind.
        size: side of the images in pixels.
        seed: of everything random.
    """
    digits = load_digits()
    order = np.random.default_rng(2022).permutation(len(digits.target))  # the parts are the same for every seed
    # 1797 digits: a labelled image shows about two, so 200 are enough there.
    pools = {"labeled": order[:200], "unlabeled": order[200:1397], "test": order[1397:]}
    photographs = [np.asarray(photograph) for photograph in load_sample_images().images]
    for part, count in (("labeled", labeled), ("unlabeled", unlabeled), ("test", test)):
        rng = np.random.default_rng([seed, len(part)])
        split = "test" if part == "test" else "train"
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "masks" / split).mkdir(parents=True, exist_ok=True)
        backgrounds = [_part(photograph, test=part == "test") for photograph in photographs]
        for i in range(count):
            background = backgrounds[rng.integers(len(backgrounds))]
            image, mask = _compose(background, digits.images, digits.target, pools[part], size, rng)
            name = f"{part}_{i:04d}.png"
            Image.fromarray(image).save(root / "images" / split / name)
            if part != "unlabeled":
                Image.fromarray(mask).save(root / "masks" / split / name)
    (root / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")


def _part(photograph: UInt8Array, *, test: bool) -> UInt8Array:
    cut = round(0.7 * photograph.shape[1])
    return photograph[:, cut:] if test else photograph[:, :cut]


def _compose(
    photograph: UInt8Array,
    digits: NDArray[np.float64],
    target: NDArray[np.int64],
    pool: NDArray[np.int64],
    size: int,
    rng: np.random.Generator,
) -> tuple[UInt8Array, UInt8Array]:
    """One image of `size` x `size` pixels with one to three digits, and its mask."""
    y = rng.integers(photograph.shape[0] - size + 1)
    x = rng.integers(photograph.shape[1] - size + 1)
    crop = photograph[y : y + size, x : x + size].astype(np.float64)
    image = 0.5 * crop + 20  # darker and of low contrast: the digits are light
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(rng.integers(1, 4)):
        which = pool[rng.integers(len(pool))]
        side = int(rng.integers(round(0.375 * size), round(0.625 * size) + 1))
        ink = _ink(digits[which], side, rng)  # (side, side) in [0, 1]
        # Of a few places the emptiest: digits touch, but seldom hide each other.
        places = [np.s_[top : top + side, left : left + side] for top, left in rng.integers(size - side + 1, size=(8, 2))]
        window = min(places, key=lambda place: np.count_nonzero(mask[place]))
        color = rng.uniform(140, 255, size=3)
        image[window] = (1 - ink[:, :, None]) * image[window] + ink[:, :, None] * color
        mask[window][ink > 0.5] = target[which] + 1
    return image.clip(0, 255).round().astype(np.uint8), mask


def _ink(digit: NDArray[np.float64], side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """An 8 x 8 digit, enlarged smoothly and rotated by up to 20 degrees, as opacity."""
    picture = Image.fromarray((digit / 16 * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    picture = picture.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC)
    return np.clip((np.asarray(picture) / 255 - 0.25) * 2.5, 0, 1)  # a firm stroke with a soft edge
