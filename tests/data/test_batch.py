"""Normalisation, strong views and CutMix boxes belong to an image, wherever it stands in whatever batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from protoseg.data.batch import BatchViews

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.1)


def raw(seeds: list[int], side: int = 16) -> dict[str, Any]:
    """Random pixels that depend on the seed alone."""
    image = torch.stack([torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(s)) for s in seeds])
    valid = torch.ones(len(seeds), side, side, dtype=torch.bool)
    valid[:, -2:] = False
    mask = torch.full((len(seeds), side, side), 255, dtype=torch.uint8)
    mask[:, 0] = 2
    return {"image": image.to(torch.uint8), "valid": valid, "mask": mask, "seed": seeds}


def views(**options: Any) -> BatchViews:
    return BatchViews(mean=MEAN, std=STD, **options)


def test_normalisation() -> None:
    batch = raw([1, 2])
    expected = (batch["image"].double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    labeled = views().labeled(batch)
    assert torch.allclose(labeled.image, expected.float(), atol=1e-6)
    assert labeled.mask.dtype == torch.int64
    assert torch.equal(labeled.mask, batch["mask"].long())
    assert labeled.seed.tolist() == [1, 2]
    assert torch.allclose(views().unlabeled(batch, step=0).weak, expected.float(), atol=1e-6)


def test_color_is_for_the_strong_view_alone_unless_asked_for() -> None:
    batch = raw(list(range(40)))
    unlabeled = views(color=True).unlabeled(batch, step=0)
    changed = [not torch.allclose(s, w, atol=1e-4) for s, w in zip(unlabeled.strong[0], unlabeled.weak, strict=True)]
    assert 30 < sum(changed) < 40  # four in five are jittered, half are blurred, one in five is grey
    plain = views(color=False).unlabeled(batch, step=0)
    assert torch.equal(plain.strong[0], plain.weak)
    assert torch.equal(views(color=True).labeled(batch).image, views(color=False).labeled(batch).image)
    assert not torch.equal(views(color_labeled=True).labeled(batch).image, views().labeled(batch).image)


def test_validity_is_handed_on() -> None:
    batch = raw([1, 2])
    unlabeled = views().unlabeled(batch, step=0)
    assert torch.equal(unlabeled.valid, batch["valid"])
    assert unlabeled.seed.tolist() == [1, 2]


@pytest.mark.parametrize("clamp", [True, False])
def test_random_operations_are_another_style_of_color(clamp: bool) -> None:
    batch = raw(list(range(40)))
    unlabeled = views(color_style="random", clamp=clamp).unlabeled(batch, step=0)
    changed = [not torch.allclose(s, w, atol=1e-4) for s, w in zip(unlabeled.strong[0], unlabeled.weak, strict=True)]
    assert 30 < sum(changed) < 40  # one in eleven operations is none
    assert not torch.allclose(unlabeled.strong, views(clamp=clamp).unlabeled(batch, step=0).strong, atol=1e-3)
    unit = unlabeled.strong[0] * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert bool(unit.min() >= -1e-6 and unit.max() <= 1 + 1e-6) is clamp
    alone = views(color_style="random", clamp=clamp).unlabeled(raw([7]), step=3)
    assert torch.allclose(alone.strong[0, 0], unlabeled.strong[0, 7], atol=1e-5)


@pytest.mark.parametrize("cutmix_per", ["image", "batch"])
def test_a_strong_view_does_not_depend_on_the_batch(cutmix_per: str) -> None:
    make = views(cutmix_per=cutmix_per, cutmix_probability=1.0, num_strong=2)
    together = make.unlabeled(raw([11, 12, 13, 14]), step=3)
    for i, seed in enumerate([11, 12, 13, 14]):
        alone = make.unlabeled(raw([seed]), step=3)
        # float32 convolutions may sum in another order for another batch size
        assert torch.allclose(alone.strong[:, 0], together.strong[:, i], atol=1e-5)
        assert torch.equal(alone.box[:, 0], together.box[:, i])
    again = make.unlabeled(raw([11, 12, 13, 14]), step=3)
    assert torch.equal(again.strong, together.strong)
    assert torch.equal(again.box, together.box)


def test_two_strong_views_differ() -> None:
    unlabeled = views(num_strong=2, cutmix_probability=1.0).unlabeled(raw([1, 2], side=32), step=0)
    assert unlabeled.strong.shape == (2, 2, 3, 32, 32)
    assert not torch.equal(unlabeled.strong[0], unlabeled.strong[1])
    assert not torch.equal(unlabeled.box[0], unlabeled.box[1])


def share(per: str, probability: float, *, steps: int = 60, batch: int = 4) -> tuple[float, bool]:
    """Share of images with a box, and whether all images of a batch always agree."""
    make = views(cutmix_per=per, cutmix_probability=probability, color=False)
    has = [
        make.unlabeled(raw([step * batch + i for i in range(batch)]), step=step).box[0].flatten(1).any(1)
        for step in range(steps)
    ]
    return float(torch.cat(has).float().mean()), all(len(set(h.tolist())) == 1 for h in has)


def test_one_coin_for_a_batch_or_one_for_each_image() -> None:
    rate, agree = share("batch", 0.5)
    assert agree
    assert 0.3 < rate < 0.7
    rate, agree = share("image", 0.5)
    assert not agree
    assert 0.4 < rate < 0.6


@pytest.mark.parametrize("per", ["batch", "image"])
def test_never_and_always(per: str) -> None:
    assert share(per, 0.0)[0] == 0
    assert share(per, 1.0)[0] == 1


def test_the_coin_of_a_batch_belongs_to_seed_and_step() -> None:
    def coins(seed: int) -> list[bool]:
        make = views(cutmix_per="batch", seed=seed, color=False)
        return [bool(make.unlabeled(raw([7]), step=step).box.any()) for step in range(40)]

    assert coins(0) == coins(0)
    assert coins(0) != coins(1)


def test_boxes_cover_half_of_the_crop() -> None:
    box = views(cutmix_probability=1.0).unlabeled(raw(list(range(20)), side=32), step=0).box[0]
    assert (box.float().mean(dim=(1, 2)) - 0.5).abs().max() < 0.05


def test_whether_a_box_shows_has_nothing_to_do_with_its_shape() -> None:
    box = views(cutmix_probability=0.5, cutmix_per="image", color=False).unlabeled(raw(list(range(60)), side=32), step=0).box[0]
    widths = box.any(dim=1).sum(dim=1)[box.flatten(1).any(dim=1)]
    assert widths.min() < 20
    assert widths.max() > 28


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5, 0.5), (0.5, 0.0))])
def test_what_cannot_normalise_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="std"):
        BatchViews(mean=mean, std=std)
