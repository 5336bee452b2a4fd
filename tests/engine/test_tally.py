"""Confusions of single images against loops over pixels."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_folder import make_folder
from PIL import Image
from test_evaluate import CLASSES, PLAIN, ByColor
from torch import Tensor

from protoseg.data.formats import open_dataset
from protoseg.engine.evaluate import tally
from protoseg.engine.examples import add_layer, choose, read_examples, write_examples
from protoseg.engine.metrics import count_pairs, iou
from protoseg.engine.tally import Tally, make_tally
from protoseg.types import SegOutput

C = 4


def draw(number: int = 5, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Predictions and masks; the third image has no labelled pixel, and no image has a pixel of the last class."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(number):
        shape = (6, 5 + i)
        prediction = torch.randint(0, C - 1, shape, generator=generator)
        mask = torch.randint(0, min(i + 1, C - 1), shape, generator=generator)
        mask[torch.rand(shape, generator=generator) < 0.2] = 255
        pairs.append((prediction, mask if i != 2 else torch.full(shape, 255)))
    return pairs


def made(pairs: list[tuple[Tensor, Tensor]]) -> Tally:
    return make_tally(C, ((f"image {i}", count_pairs(*pair, C)) for i, pair in enumerate(pairs)))


def slow_pixels(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[list[int]], ...]:
    hit, truth, predicted = ([[0] * C for _ in pairs] for _ in range(3))
    for i, (prediction, mask) in enumerate(pairs):
        for p, m in zip(prediction.flatten().tolist(), mask.flatten().tolist(), strict=True):
            if m != 255:
                hit[i][m] += p == m
                truth[i][m] += 1
                predicted[i][p] += 1
    return hit, truth, predicted


def test_pixels_equal_a_loop() -> None:
    pairs = draw()
    found, expected = made(pairs).pixels, slow_pixels(pairs)
    assert [part.tolist() for part in found] == list(expected)


def test_the_sum_over_images_is_the_confusion_matrix() -> None:
    pairs = draw()
    total = sum((count_pairs(*pair, C) for pair in pairs), torch.zeros(C, C, dtype=torch.int64))
    found = made(pairs)
    assert found.confusion.tolist() == total.tolist()
    assert found.iou.mean == iou(total).mean
    assert math.isnan(found.iou.per_class[C - 1])


def test_the_score_of_an_image_is_over_the_classes_of_its_truth() -> None:
    pairs = draw()
    hit, truth, predicted = slow_pixels(pairs)
    for i, score in enumerate(made(pairs).image_scores):
        there = [c for c in range(C) if truth[i][c]]
        expected = [hit[i][c] / (truth[i][c] + predicted[i][c] - hit[i][c]) for c in there]
        assert score == pytest.approx(sum(expected) / len(there)) if there else math.isnan(score)


def test_comes_back_from_its_file_whatever_the_names(tmp_path: Path) -> None:
    pairs = draw(3)
    names = ["tail\0", "<b>", "日本"]
    before = make_tally(C, zip(names, (count_pairs(*pair, C) for pair in pairs), strict=True))
    before.save(tmp_path / "evaluation.npz")
    after = Tally.load(tmp_path / "evaluation.npz")
    assert after.names == tuple(names)
    assert after.confusion.tolist() == before.confusion.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no more"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evaluation.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"evaluation\.npz is damaged .* protoseg report RUN DATA"):
        Tally.load(tmp_path / "evaluation.npz")


ARRAYS: dict[str, Any] = {"num_classes": 3, "names": b'["a", "b"]', "first": [0, 1, 3], "pair": [0, 1, 8], "count": [5, 4, 3]}


def write_arrays(path: Path, **arrays: Any) -> None:
    whole = {name: np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part for name, part in arrays.items()}
    np.savez_compressed(path, **whole)


def test_arrays_written_by_hand_are_a_tally(tmp_path: Path) -> None:
    """Without it the next test would prove nothing."""
    write_arrays(tmp_path / "evaluation.npz", **ARRAYS)
    assert Tally.load(tmp_path / "evaluation.npz").confusion.tolist() == [[5, 4, 0], [0, 0, 0], [0, 0, 3]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_classes": 10**9}, "of 1000000000 classes"),
        ({"num_classes": 0}, "of 0 classes"),
        ({"num_classes": 2}, "a pixel is of no class"),
        ({"num_classes": 3.0}, "other arrays"),
        ({"num_classes": [3]}, "other arrays"),
        ({"names": b'["a"]'}, "do not follow one another"),
        ({"names": b'["a", 2]'}, "no text"),
        ({"names": b"[" * 100_000}, "recursion"),
        ({"first": [0, 4, 3]}, "do not follow one another"),
        ({"first": [1, 1, 3]}, "do not follow one another"),
        ({"first": [0, 1, 2]}, "different lengths"),
        ({"count": [5, 4]}, "different lengths"),
        ({"count": [5, 4, -3]}, "no number of pixels"),
        ({"count": [5, 4, 1 << 62]}, "no number of pixels"),
        ({"pair": [0, 1, -1]}, "of no class"),
        ({"pair": np.array([None, 1, 2])}, "other arrays"),
        ({"pair": np.zeros(5_000_000, dtype=np.int64)}, "unpacks to far more than it holds"),
    ],
)
def test_what_is_no_tally_is_refused(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    write_arrays(tmp_path / "evaluation.npz", **{**ARRAYS, **change})
    with pytest.raises(ValueError, match=rf"evaluation\.npz is damaged \(.*{why}.*protoseg evaluate that wrote it"):
        Tally.load(tmp_path / "evaluation.npz")


def test_an_array_that_says_that_it_is_huge(tmp_path: Path) -> None:
    """NumPy would make memory for it before it reads it."""
    write_arrays(tmp_path / "whole.npz", **ARRAYS)
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "evaluation.npz", "w") as lying:
        for member in whole.namelist():
            lying.writestr(member, whole.read(member).replace(b"(3,), }" + b" " * 10, b"(30000000000,), }"))
    with zipfile.ZipFile(tmp_path / "evaluation.npz") as lying:
        assert b"(30000000000,)" in lying.read("pair.npy")
    with pytest.raises(ValueError, match="is damaged"):
        Tally.load(tmp_path / "evaluation.npz")


def test_no_images() -> None:
    empty = make_tally(C, ())
    assert empty.confusion.sum() == 0
    assert math.isnan(empty.iou.mean)


def test_two_images_of_one_name_both_count(tmp_path: Path) -> None:
    samples = open_dataset(make_folder(tmp_path, train=1, labeled=1)).of("train")
    once, twice = (tally(ByColor(), [*samples] * times, CLASSES, PLAIN) for times in (1, 2))
    assert twice.confusion.tolist() == (2 * once.confusion).tolist()


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.1, math.nan, 0.9, 0.3], [(1, "worst"), (4, "worst"), (0, "best"), (3, "best")]),
        ([0.5], [(0, "worst")]),
        ([math.nan], []),
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [(0, "worst"), (1, "worst"), (5, "best"), (6, "best")]),
    ],
)
def test_the_worst_and_the_best_are_chosen_once_each(scores: list[float], expected: list[tuple[int, str]]) -> None:
    assert choose(np.array(scores), each=2) == expected


def test_examples_show_what_is_true_and_predicted(tmp_path: Path) -> None:
    samples = open_dataset(make_folder(tmp_path / "data", train=2, labeled=2, size=(40, 48))).of("train")
    network = ByColor().eval()
    found = tally(network, samples, CLASSES, PLAIN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.png").touch()
    write_examples(tmp_path / "out", samples, {"ours": found}, {"ours": network}, CLASSES, PLAIN)
    rows = json.loads((tmp_path / "out/examples.json").read_text())
    order = np.argsort(found.image_scores)
    assert [row["name"] for row in rows] == [samples[i].name for i in order]
    assert [row["rank"] for row in rows] == ["worst", "best"]
    assert not (tmp_path / "out/old.png").exists()
    for row, i in zip(rows, order, strict=True):
        assert row["size"] == [48, 40]
        truth, ours = row["layers"]
        assert (truth["name"], truth["score"], ours["name"]) == ("truth", None, "ours")
        assert ours["score"] == pytest.approx(found.image_scores[i])
        mask = samples[i].mask.read()  # type: ignore[union-attr]
        shown = np.asarray(Image.open(tmp_path / "out" / truth["picture"]))
        assert (shown == mask).all()
        colored = np.asarray(Image.open(tmp_path / "out" / truth["picture"]).convert("RGB"))
        assert (colored == np.array(CLASSES.colors)[mask]).all()
        assert truth["shares"]["ground"] == pytest.approx((mask == 0).mean(), abs=1e-4)


class Constant(ByColor):
    """The last class everywhere."""

    def forward(self, image: Tensor) -> SegOutput:
        output = super().forward(image)
        logits = torch.eye(3)[2].reshape(1, 3, 1, 1).expand_as(output.logits)
        return output._replace(logits=logits)


def test_another_network_adds_its_picture_to_the_images_that_are_there(tmp_path: Path) -> None:
    samples = open_dataset(make_folder(tmp_path / "data", train=3, labeled=3, size=(40, 48))).of("train")
    first, second = ByColor().eval(), Constant().eval()
    found = [tally(network, samples, CLASSES, PLAIN) for network in (first, second)]
    write_examples(tmp_path / "out", samples, {"first": found[0]}, {"first": first}, CLASSES, PLAIN)
    before = read_examples(tmp_path / "out", advice="")
    turned = samples[::-1]  # another run may have its images in another order
    add_layer(tmp_path / "out", "second", turned, tally(second, turned, CLASSES, PLAIN), second, CLASSES, PLAIN)
    after = read_examples(tmp_path / "out", advice="")
    assert [{**row, "layers": row["layers"][:2]} for row in after] == before
    for row in after:
        added = row["layers"][2]
        assert (added["name"], added["shares"]) == ("second", {CLASSES.names[2]: 1})
        place = [sample.name for sample in samples].index(row["name"])
        assert added["score"] == pytest.approx(found[1].image_scores[place])
        assert (np.asarray(Image.open(tmp_path / "out" / added["picture"])) == 2).all()
    assert len({layer["picture"] for row in after for layer in row["layers"]}) == 3 * len(after)
    # Once more, and better: it takes the place of what was said before.
    add_layer(tmp_path / "out", "second", samples, found[0], first, CLASSES, PLAIN)
    for row in read_examples(tmp_path / "out", advice=""):
        one, other = row["layers"][1:]
        assert {**one, "name": "second", "picture": other["picture"]} == other
        assert np.array_equal(*(np.asarray(Image.open(tmp_path / "out" / layer["picture"])) for layer in (one, other)))


def test_what_was_not_scored_gets_no_picture(tmp_path: Path) -> None:
    samples = open_dataset(make_folder(tmp_path / "data", train=2, labeled=2)).of("train")
    network = ByColor().eval()
    found = tally(network, samples, CLASSES, PLAIN)
    write_examples(tmp_path / "out", samples, {"first": found}, {"first": network}, CLASSES, PLAIN)
    kept = read_examples(tmp_path / "out", advice="")
    with pytest.raises(ValueError, match=f"{samples[1].name}, which .*out shows, is none of the images that second"):
        add_layer(tmp_path / "out", "second", samples[:1], found, network, CLASSES, PLAIN)
    assert read_examples(tmp_path / "out", advice="") == kept


OUTSIDE = ["{}/x-image.jpg", "../x-image.jpg", "../../x-image.jpg", "sub/x-image.jpg", "..", "", "a\0-image.jpg", "x-image.py"]


@pytest.mark.parametrize("place", ["image", "picture"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_no_picture_is_read_or_written_outside_the_folder(tmp_path: Path, place: str, name: str) -> None:
    samples = open_dataset(make_folder(tmp_path / "data", train=1, labeled=1)).of("train")
    network = ByColor().eval()
    found = tally(network, samples, CLASSES, PLAIN)
    out = tmp_path / "in/out"
    write_examples(out, samples, {"first": found}, {"first": network}, CLASSES, PLAIN)
    for folder in (out / "sub", out, out.parent, tmp_path):  # what they name is there
        folder.mkdir(exist_ok=True)
        (folder / "x-image.jpg").write_bytes(b"")
    rows = json.loads((out / "examples.json").read_text())
    (rows[0] if place == "image" else rows[0]["layers"][0])[place] = name.format(tmp_path)
    (out / "examples.json").write_text(json.dumps(rows))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"examples.json is damaged .*; remove .*out"):
        add_layer(out, "second", samples, found, network, CLASSES, PLAIN)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("size", [[10**6, 10**6], [0, 4], [4, 3, 1], [4]])
def test_no_picture_of_any_size_is_made(tmp_path: Path, size: list[int]) -> None:
    row = {"name": "c", "rank": "worst", "size": size, "image": "0-image.jpg"}
    layer = {"name": "truth", "picture": "0-0.png", "score": None, "shares": {}}
    (tmp_path / "examples.json").write_text(json.dumps([row | {"layers": [layer]}]))
    with pytest.raises(ValueError, match=r"examples.json is damaged \('size' is .*; throw it away"):
        read_examples(tmp_path, advice="throw it away")


def test_ignored_pixels_are_clear_in_the_pictures(tmp_path: Path) -> None:
    samples = open_dataset(make_folder(tmp_path / "data", train=1, labeled=1)).of("train")
    path = next((tmp_path / "data/masks").glob("*.png"))
    mask = np.asarray(Image.open(path)).copy()
    mask[:7] = 255
    Image.fromarray(mask).save(path)
    network = ByColor().eval()
    found = tally(network, samples, CLASSES, PLAIN)
    write_examples(tmp_path / "out", samples, {"ours": found}, {"ours": network}, CLASSES, PLAIN)
    alpha = np.asarray(Image.open(tmp_path / "out/0-0.png").convert("RGBA"))[..., 3]
    assert (alpha == np.where(mask == 255, 0, 255)).all()
