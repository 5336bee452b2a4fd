"""Pseudo-labels and the loss that learns from them.

B_u unlabelled images · C classes · H W crop
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoseg.functional.losses import global_mean, masked_mean
from protoseg.functional.processes import mean_over_processes
from protoseg.types import IGNORE_INDEX, PseudoLabel


@torch.no_grad()
def pseudo_label(logits: Tensor, valid: Tensor) -> PseudoLabel:
    """Turn a teacher's logits into a label and a confidence for each pixel.

    Args:
        logits: (B_u, C, H, W) of the teacher on the weak view.
        valid: (B_u, H, W) bool, False on padding.

    Returns:
        PseudoLabel with the arg-max class and its softmax probability.
    """
    confidence, label = logits.float().softmax(dim=1).max(dim=1)
    return PseudoLabel(label, confidence, valid)


def mean_of_predictors(first: Tensor, second: Tensor) -> Tensor:
    """Logits of the mean of two predictors' probabilities, (B, C, H, W) each."""
    both = (first.float().softmax(dim=1) + second.float().softmax(dim=1)) / 2
    return both.clamp(min=torch.finfo(torch.float32).tiny).log()


@torch.no_grad()
def entropy_drop(pseudo: PseudoLabel, logits: Tensor, *, percent: float) -> PseudoLabel:
    """Ignore the `percent` % of valid pixels on which the teacher's prediction has the highest entropy.

    The rule of U2PL (Wang et al., CVPR 2022, arXiv 2203.03884), an alternative to a confidence threshold. Each process drops
    among its own pixels.

    Args:
        pseudo: pseudo-labels of the weak view, before CutMix.
        logits: (B_u, C, H, W), the logits they came from.
        percent: share to drop, in [0, 100].

    Returns:
        PseudoLabel whose `label` is IGNORE_INDEX where a pixel was dropped.

    Raises:
        ValueError: `percent` is outside [0, 100].
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is a share of pixels in [0, 100], got {percent}")
    log_probability = logits.float().log_softmax(dim=1)
    entropy = -(log_probability.exp() * log_probability).sum(dim=1)  # (B_u, H, W)
    entropy = torch.where(pseudo.valid, entropy, -1.0)  # sorts padding first
    # The cut is the k-th smallest of all pixels, where k counts the padding in front: a gather at a device-side index,
    # so the host never waits for a count.
    ordered = entropy.flatten().sort().values
    num_valid = pseudo.valid.sum()
    num_kept = (num_valid.double() * (1 - percent / 100)).ceil().long().clamp(max=num_valid)  # float32 miscounts millions
    last_kept = ordered.numel() - num_valid + num_kept - 1
    kept = (entropy <= ordered.gather(0, last_kept.clamp(min=0)[None])) & (last_kept >= ordered.numel() - num_valid)
    return pseudo._replace(label=torch.where(kept & pseudo.valid, pseudo.label, IGNORE_INDEX))


def selected(pseudo: PseudoLabel, threshold: float | Tensor) -> Tensor:
    """The pixels that may teach: real (not padding), not dropped, and confident.

    Args:
        pseudo: pseudo-labels.
        threshold: lowest confidence that counts, or (C,) one for each class.

    Returns:
        (B_u, H, W) bool.
    """
    known = pseudo.label != IGNORE_INDEX
    lowest = threshold[torch.where(known, pseudo.label, 0)] if isinstance(threshold, Tensor) else threshold
    return pseudo.valid & known & (pseudo.confidence >= lowest)


def consistency_loss(
    logits: Tensor,
    target: PseudoLabel,
    *,
    threshold: float | Tensor,
    normalizer: Literal["valid", "selected"] = "valid",
) -> Tensor:
    """Cross-entropy of the student's strong view against the teacher's label, on confident pixels.

    `sum over selected pixels of CE / number of valid pixels`, as in FixMatch: dividing by all real pixels, not by the
    selected ones, keeps the loss small while the teacher is sure of little.

    Args:
        logits: (B_u, C, H, W) of the student on the mixed strong view.
        target: pseudo-labels, mixed in the same way.
        threshold: lowest confidence that counts, in [0, 1], or (C,) one for each class.
        normalizer: "valid" divides by all pixels that are not padding, "selected" by those that count.

    Returns:
        Scalar; 0 when no pixel is selected.
    """
    loss = F.cross_entropy(logits.float(), target.label, ignore_index=IGNORE_INDEX, reduction="none")
    weight = selected(target, threshold)
    return global_mean(loss, weight, target.valid.sum() if normalizer == "valid" else None)


def kept_consistency_loss(logits: Tensor, target: PseudoLabel, *, threshold: float | Tensor = 0.0) -> Tensor:
    """Cross-entropy on the pixels that `entropy_drop` kept: their mean, times valid / kept, as in U2PL.

    Args:
        logits: (B_u, C, H, W) of the student on the mixed strong view.
        target: pseudo-labels after `entropy_drop`, mixed in the same way.
        threshold: lowest confidence that counts besides; a kept pixel below it counts as one without loss.

    Returns:
        Scalar; 0 when no pixel is kept.
    """
    loss = F.cross_entropy(logits.float(), target.label, ignore_index=IGNORE_INDEX, reduction="none")
    kept, valid = mean_over_processes(torch.stack([selected(target, 0.0).sum(), target.valid.sum()]))
    scale: Tensor = valid / torch.where(kept > 0, kept, 1)
    return scale * masked_mean(loss, selected(target, threshold), kept)


def squared_consistency_loss(logits: Tensor, probability: Tensor, target: PseudoLabel, *, threshold: float | Tensor) -> Tensor:
    """Squared error of the student's probabilities against the teacher's, as in CutMix-Seg (arXiv 1906.01916).

    `mean over valid pixels of sum_c (p_c - q_c)^2`, times the share of valid pixels on which the teacher is sure.

    Args:
        logits: (B_u, C, H, W) of the student.
        probability: (B_u, C, H, W) of the teacher, mixed as the student's view is.
        target: confidence and valid pixels, mixed in the same way.
        threshold: confidence from which the teacher is sure, in [0, 1], or (C,) one for each class.

    Returns:
        Scalar; 0 when no pixel is valid or sure.
    """
    error = (logits.float().softmax(dim=1) - probability.float()).square().sum(dim=1)  # (B_u, H, W)
    sure, valid = mean_over_processes(torch.stack([selected(target, threshold).sum(), target.valid.sum()]))
    share: Tensor = sure / torch.where(valid > 0, valid, 1)
    return share * masked_mean(error, target.valid, valid)


def soft_consistency_loss(logits: Tensor, teacher_logits: Tensor, target: PseudoLabel, *, threshold: float | Tensor) -> Tensor:
    """KL(q || p) of the student's probabilities p from the teacher's q, on confident pixels.

    `sum over selected pixels of sum_c q_c log(q_c / p_c) / number of valid pixels`, as `consistency_loss` with soft labels.

    Args:
        logits: (B_u, C, H, W) of the student.
        teacher_logits: (B_u, C, H, W), mixed as the student's view is. They get no gradient.
        target: label, confidence and valid pixels, mixed in the same way.
        threshold: lowest confidence that counts, in [0, 1], or (C,) one for each class.

    Returns:
        Scalar; 0 when no pixel is selected.
    """
    wanted = teacher_logits.detach().float().log_softmax(dim=1)
    apart = (wanted.exp() * (wanted - logits.float().log_softmax(dim=1))).sum(dim=1)  # (B_u, H, W)
    return global_mean(apart, selected(target, threshold), target.valid.sum())
