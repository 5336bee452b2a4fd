"""The README's code runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = Path(__file__).parents[1] / "README.md"


def test_head_example_runs() -> None:
    match = re.search(r"<!-- example: head -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert match
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(match.group(1), names)
    head, loss = names["head"], names["loss"]
    assert torch.isfinite(loss)  # type: ignore[arg-type]
    assert head.ready.all()  # type: ignore[attr-defined]
    assert names["prototype_logits"].shape == (4, 21, 32, 32)  # type: ignore[attr-defined]
    at_points, features, label = names["at_points"], names["features"], names["label"]
    # The update moved the prototypes: towards the pixels that chose them, so these now fit better.
    moved = head.compare(features).logits.gather(1, label[:, None])  # type: ignore[attr-defined, index]
    assert moved.mean() > at_points.logits.gather(1, label[:, None]).mean()  # type: ignore[attr-defined, index]
