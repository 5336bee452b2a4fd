"""Tensors that are the same in every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar, cast

import torch

Made = TypeVar("Made", bound=Callable[..., object])


def constant(make: Made) -> Made:
    """Keep what a function makes of hashable arguments, its device among them: on a GPU it is a dozen small kernels that every
    step would start anew. Nobody may write to it.
    """
    # Not an inference tensor, whoever asks first: what is kept has to do for training too.
    return cast(Made, lru_cache(maxsize=64)(torch.inference_mode(mode=False)(make)))
