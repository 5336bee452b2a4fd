"""The embedded data set keeps its parts apart."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from protoseg.data import demo
from protoseg.data.check import check_labels
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.masks import read_mask
from protoseg.data.splits import make_partition


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.write_demo(folder, labeled=30, unlabeled=10, test=10)
    return folder


def test_the_same_seed_writes_the_same_files(root: Path, tmp_path: Path) -> None:
    demo.write_demo(tmp_path / "again", labeled=30, unlabeled=10, test=10)
    assert contents(tmp_path / "again") == contents(root)
    demo.write_demo(tmp_path / "other", labeled=30, unlabeled=10, test=10, seed=1)
    pictures = [name for name in contents(root) if name.startswith("images")]
    other = contents(tmp_path / "other")
    assert all(other[name] != contents(root)[name] for name in pictures)


def test_masks_are_for_labeled_and_test_images_only(root: Path) -> None:
    index = open_dataset(root)
    partition = make_partition(index)
    assert [s.name for s in partition.labeled] == [f"train/labeled_{i:04d}" for i in range(30)]
    assert [s.name for s in partition.unlabeled] == [f"train/unlabeled_{i:04d}" for i in range(10)]
    assert [s.name for s in partition.evaluation] == [f"test/test_{i:04d}" for i in range(10)]
    assert not list((root / "masks").rglob("unlabeled*"))
    assert check_labels(index, partition).sizes == {(48, 48): 30}


def test_eleven_classes_of_which_each_occurs(root: Path) -> None:
    index = open_dataset(root)
    assert index.classes is not None
    assert index.classes.names == ("background", *(f"digit {d}" for d in range(10)))
    pixels = check_labels(index, make_partition(index)).pixels
    assert (pixels > 0).all()
    assert 0.05 < 1 - pixels[0] / pixels.sum() < 0.4


def test_a_mask_lies_on_its_digit(root: Path) -> None:
    """Digits are light on a darkened background."""
    ink, rest = [], []
    for mask in sorted((root / "masks/train").iterdir()):
        image, label = read_image(root / "images/train" / mask.name), read_mask(mask)
        ink.append(image[label > 0].mean())
        rest.append(image[label == 0].mean())
    assert all(a > b + 20 for a, b in zip(ink, rest, strict=True))


def test_parts_share_neither_digits_nor_backgrounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: dict[str, set[int]] = {}
    backgrounds: dict[str, list[np.ndarray]] = {}

    def note(photograph, digits, target, pool, size, rng):  # type: ignore[no-untyped-def]
        part = ("labeled", "unlabeled", "test")[len(pools) - (pool[0] in set().union(*pools.values()))]
        pools.setdefault(part, set()).update(pool.tolist())
        backgrounds.setdefault(part, []).append(photograph)
        return np.zeros((size, size, 3), dtype=np.uint8), np.zeros((size, size), dtype=np.uint8)

    monkeypatch.setattr(demo, "_compose", note)
    demo.write_demo(tmp_path, labeled=8, unlabeled=8, test=8)
    assert sum(len(pool) for pool in pools.values()) == len(set().union(*pools.values())) == len(load_digits().target)
    target = load_digits().target
    assert all(set(target[sorted(pool)]) == set(range(10)) for pool in pools.values())
    assert {part: len(pool) >= 200 for part, pool in pools.items()} == {"labeled": True, "unlabeled": True, "test": True}
    photographs = [np.asarray(photograph) for photograph in load_sample_images().images]
    widths = {part: {b.shape[1] for b in found} for part, found in backgrounds.items()}
    assert widths == {"labeled": {448}, "unlabeled": {448}, "test": {192}}  # of 640
    for part, found in backgrounds.items():
        for background in found:
            side = np.s_[:, 448:] if part == "test" else np.s_[:, :448]
            assert any(np.array_equal(background, photograph[side]) for photograph in photographs)


def test_a_digit_is_drawn_with_its_own_label() -> None:
    """One image of one known digit: every labelled pixel says that digit + 1, and ink covers all of them."""
    digits = load_digits()
    photograph = np.zeros((64, 64, 3), dtype=np.uint8)
    for which in range(20):
        pool = np.array([which])
        image, mask = demo._compose(photograph, digits.images, digits.target, pool, 64, np.random.default_rng(which))
        assert set(np.unique(mask)) == {0, digits.target[which] + 1}
        assert image[mask > 0].min() > 20  # the darkened background of a black photograph is 20
        assert (image[mask == 0] == 20).mean() > 0.5


def test_a_digit_is_turned_by_up_to_20_degrees_in_many_sizes_and_colors() -> None:
    """A bar in the place of a handwritten digit shows its direction, its length and its colour."""
    bar = np.zeros((1, 8, 8))
    bar[0, :, 3:5] = 16
    turns = []
    for seed in range(40):
        y, x = np.nonzero(demo._ink(bar[0], 40, np.random.default_rng(seed)) > 0.5)
        down, right = np.linalg.eigh(np.cov(np.stack([y, x])))[1][:, 1]
        turns.append(np.degrees(np.arctan(right / down)))
    assert min(turns) < -10
    assert max(turns) > 10
    assert max(np.abs(turns)) < 21
    found = [
        demo._compose(np.zeros((64, 64, 3), np.uint8), bar, np.array([1]), np.array([0]), 64, np.random.default_rng(seed))
        for seed in range(40)
    ]
    colors = {tuple(image[mask > 0].max(axis=0).tolist()) for image, mask in found}
    assert len(colors) == 40
    assert all(min(color) >= 135 for color in colors), "light on dark"
    covered = [np.count_nonzero(mask) for _, mask in found]
    assert max(covered) > 3 * min(covered)
