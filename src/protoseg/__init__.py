"""Semi-supervised semantic segmentation by prototype-based consistency regularization (arXiv 2210.04388)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protoseg.methods.prototype import PrototypeConsistency
    from protoseg.methods.prototype_term import PrototypeTerm
    from protoseg.methods.supervised import Supervised
    from protoseg.nn.deeplabv3plus import DeepLabV3Plus
    from protoseg.nn.dpt import DinoDPT
    from protoseg.nn.prototype_head import PrototypeHead
    from protoseg.nn.segmenter import Segmenter, create_segmenter
    from protoseg.nn.teacher import Teacher
    from protoseg.nn.vit import create_dino_dpt
    from protoseg.run import train
    from protoseg.settings import TrainConfig
    from protoseg.trained import load_model

_HOME = {
    "TrainConfig": "settings",
    "PrototypeConsistency": "methods.prototype",
    "PrototypeTerm": "methods.prototype_term",
    "Supervised": "methods.supervised",
    "DeepLabV3Plus": "nn.deeplabv3plus",
    "DinoDPT": "nn.dpt",
    "PrototypeHead": "nn.prototype_head",
    "Segmenter": "nn.segmenter",
    "create_dino_dpt": "nn.vit",
    "create_segmenter": "nn.segmenter",
    "Teacher": "nn.teacher",
    "load_model": "trained",
    "train": "run",
}
__all__ = [
    "DeepLabV3Plus",
    "DinoDPT",
    "PrototypeConsistency",
    "PrototypeHead",
    "PrototypeTerm",
    "Segmenter",
    "Supervised",
    "Teacher",
    "TrainConfig",
    "create_dino_dpt",
    "create_segmenter",
    "load_model",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: `import protoseg` itself does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'protoseg' has no attribute {name!r}")
    return getattr(importlib.import_module(f"protoseg.{_HOME[name]}"), name)
