"""The correlation map and what travels along it, against slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from protoseg.functional.correlation import correlation_map, nearest_cell, propagate, relabel_regions, sample_regions
from protoseg.types import IGNORE_INDEX, PseudoLabel

B, C, K, N, R = 2, 3, 5, 12, 9
SIDE, ROWS = 8, 3  # pixels of a side, cells of a column
CELL = (torch.arange(SIDE)[:, None] * ROWS // SIDE) * 4 + torch.arange(SIDE) * 4 // SIDE  # 3 x 4 cells


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_map_and_propagation() -> None:
    """M_ij = e^(q_i k_j / sqrt K) / sum_l e^(q_i k_l / sqrt K), and j receives sum_i z_i M_ij."""
    query, key, logits = draw(B, K, N, seed=1), draw(B, K, N, seed=2), draw(B, C, N, seed=3)
    correlation = correlation_map(query, key)
    received = propagate(logits, correlation)
    for b in range(B):
        shares = []
        for i in range(N):
            scores = [sum(float(query[b, k, i] * key[b, k, j]) for k in range(K)) / math.sqrt(K) for j in range(N)]
            shares.append([math.exp(score) / sum(math.exp(other) for other in scores) for score in scores])
        assert correlation[b].tolist() == [pytest.approx(row, abs=1e-6) for row in shares]
        for c in range(C):
            expected = [sum(float(logits[b, c, i]) * shares[i][j] for i in range(N)) for j in range(N)]
            assert received[b, c].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("extent", "covers", "cells"), [(13, 16, 5), (7, 7, 7), (4, 9, 1), (48, 50, 12)])
def test_a_pixel_belongs_to_the_nearest_cell(extent: int, covers: int, cells: int, align_corners: bool) -> None:
    found = nearest_cell(extent, covers, cells, align_corners=align_corners, device=torch.device("cpu"))
    for pixel in range(extent):
        at = [
            cell * (covers - 1) / max(cells - 1, 1) if align_corners else (cell + 0.5) * covers / cells - 0.5
            for cell in range(cells)
        ]
        nearest = min(abs(place - pixel) for place in at)
        assert abs(at[int(found[pixel])] - pixel) == pytest.approx(nearest, abs=1e-9)


def test_regions_are_rows_above_their_middle() -> None:
    correlation = draw(B, N, N, seed=4).softmax(dim=2)
    correlation[1, 0] = 1 / N  # no differences
    uniform = torch.rand(B, R, generator=torch.Generator().manual_seed(5))
    uniform[1, 0], uniform[0, 0] = 0.0, 1.0 - 1e-8  # the latter rounds to 1
    region, empty = sample_regions(correlation, uniform), 0
    for b in range(B):
        for r in range(R):
            row = correlation[b, min(int(uniform[b, r] * N), N - 1)].tolist()
            spread = max(row) - min(row)
            empty += spread == 0
            assert region[b, r].tolist() == [spread > 0 and (value - min(row)) / spread > 0.5 for value in row]
    assert not region[1, 0].any()
    assert region.any(dim=2).sum() == B * R - empty


def by_loops(pseudo: PseudoLabel, confident: Tensor, region: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    label, confidence = pseudo.label.clone(), pseudo.confidence.clone()
    for b in range(B):
        best = torch.zeros(SIDE, SIDE)
        for r in range(R):
            inside = [
                (y, x)
                for y in range(SIDE)
                for x in range(SIDE)
                if region[b, r, CELL[y, x]] and pseudo.valid[b, y, x] and pseudo.label[b, y, x] != IGNORE_INDEX
            ]
            if not inside:
                continue
            votes = [sum(int(pseudo.label[b, y, x] == c) for y, x in inside) for c in range(C)]
            sure = sum(int(confident[b, y, x]) for y, x in inside) / len(inside)
            agreeing = max(votes) / len(inside)
            if sure > share and agreeing > share:
                for y, x in inside:
                    if agreeing > best[y, x] + 1e-6:
                        best[y, x], label[b, y, x] = agreeing, votes.index(max(votes))
                        confidence[b, y, x] = max(float(pseudo.confidence[b, y, x]), share)
    return label, confidence


def some_labels(seed: int) -> PseudoLabel:
    """Two halves, with a fifth of the pixels wrong."""
    gen = torch.Generator().manual_seed(seed)
    label = torch.zeros(B, SIDE, SIDE, dtype=torch.int64)
    label[:, :, SIDE // 2 :] = 2
    wrong = torch.rand(label.shape, generator=gen) < 0.2
    label[wrong] = torch.randint(0, C, (int(wrong.sum()),), generator=gen)
    label[0, 0, :3] = IGNORE_INDEX
    valid = torch.ones(label.shape, dtype=torch.bool)
    valid[1, 6:] = False
    return PseudoLabel(label, torch.rand(label.shape, generator=gen), valid)


@pytest.mark.parametrize("share", [0.3, 0.6, torch.tensor(0.6), 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_sure_regions_get_the_label_of_their_majority(share: float | Tensor, seed: int) -> None:
    pseudo = some_labels(seed)
    confident = pseudo.confidence > 0.2
    region = torch.rand(B, R, N, generator=torch.Generator().manual_seed(seed)) < 0.25
    found = relabel_regions(pseudo, confident, region, CELL, num_classes=C, share=share)
    label, confidence = by_loops(pseudo, confident, region, share=float(share))
    assert torch.equal(found.label, label)
    torch.testing.assert_close(found.confidence, confidence)
    assert torch.equal(found.valid, pseudo.valid)
    if share == 0.3:
        assert (found.label != pseudo.label).any()


def test_nothing_is_sure_enough_for_a_share_of_one() -> None:
    pseudo = some_labels(0)
    everywhere = torch.ones(B, R, N, dtype=torch.bool)
    found = relabel_regions(pseudo, pseudo.valid, everywhere, CELL, num_classes=C, share=1.0)
    assert all(torch.equal(a, b) for a, b in zip(found, pseudo, strict=True))
    none = pseudo._replace(valid=torch.zeros_like(pseudo.valid))
    found = relabel_regions(none, none.valid, everywhere, CELL, num_classes=C, share=0.0)
    assert all(torch.equal(a, b) for a, b in zip(found, none, strict=True))
