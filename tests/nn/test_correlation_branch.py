"""The correlation branch: whose positions, which size, and where gradients go."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoseg.functional.correlation import correlation_map
from protoseg.nn.correlation_branch import CorrelationBranch
from protoseg.types import SegOutput

B, C, D = 2, 3, 5


def some_output(rows: int, columns: int, *, align_corners: bool = True) -> tuple[SegOutput, torch.Tensor]:
    """A network that up-samples its logits from (rows, columns) to padded images, every fourth pixel a position; and these."""
    gen = torch.Generator().manual_seed(1)
    covers = (4 * rows - 3, 4 * columns - 3)
    small = torch.randn(B, C, rows, columns, generator=gen)
    logits = F.interpolate(small, covers, mode="bilinear", align_corners=align_corners)
    features = torch.randn(B, D, rows, columns, generator=gen)
    return SegOutput(logits.requires_grad_(), features.requires_grad_(), covers, align_corners), small


def test_the_logits_of_each_position_travel() -> None:
    """Position j receives sum_i M_ij z_i, with the logits that the network has there."""
    torch.manual_seed(0)
    branch, (out, small) = CorrelationBranch(D, C), some_output(3, 4)
    found = branch(out)
    query, key = branch.query(out.features).flatten(2), branch.key(out.features).flatten(2)
    torch.testing.assert_close(found.map, correlation_map(query, key))
    received = torch.einsum("bci,bij->bcj", small.flatten(2), found.map).view(B, C, 3, 4)
    expected = F.interpolate(received, out.covers, mode="bilinear", align_corners=True)
    torch.testing.assert_close(found.logits, expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_size_of_image_and_map(align_corners: bool) -> None:
    """Where the network has padded the image, what comes back is as large as the image; large maps are thinned out."""
    out, _ = some_output(7, 6, align_corners=align_corners)
    out = out._replace(logits=out.logits[..., :23, :19])
    found = CorrelationBranch(D, C, side=5)(out)
    assert found.logits.shape == (B, C, 23, 19)
    assert found.map.shape == (B, 25, 25)
    torch.testing.assert_close(found.map.sum(dim=2), torch.ones(B, 25))
    assert found.cell.shape == (23, 19)
    assert int(found.cell.min()) == 0
    assert 20 <= int(found.cell.max()) <= 24


def test_gradient_reaches_projections_features_and_logits() -> None:
    branch, (out, _) = CorrelationBranch(D, C), some_output(3, 4)
    branch(out).logits.square().sum().backward()
    for tensor in (out.logits, out.features, branch.query.weight, branch.key.weight):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_half_precision_changes_nothing() -> None:
    branch, (out, _) = CorrelationBranch(D, C), some_output(3, 4)
    whole = branch(out)
    with torch.autocast("cpu", torch.bfloat16):
        half = branch(out)
    assert half.logits.dtype == torch.float32
    assert torch.equal(half.logits, whole.logits)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="side must be at least 1"):
        CorrelationBranch(D, C, side=0)
