"""What all tests share: where real data lies, and how many threads a test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

DATA = Path(os.environ.get("PROTOSEG_DATA", Path(__file__).parents[2] / "shared"))
"""Real images and weights, for the tests marked `data`: `data/camvid` and `weights/` below this folder."""


LONGEST = ("test_resume", "test_ddp", "test_command", "test_lost", "test_processes", "test_stop", "test_cli", "test_benchmarks")
"""Files that start processes of their own. They come first: the last one would keep a single core busy at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_configure() -> None:
    # Tiny tensors gain nothing from a pool of threads, and pytest-xdist runs several tests at once.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def camvid() -> Path:
    """The folder of the real CamVid images; skips where it is missing."""
    folder = DATA / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}; set PROTOSEG_DATA")
    return folder


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """ImageNet weights of MobileNetV2; skips where they are missing."""
    file = DATA / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not file.is_file():
        pytest.skip(f"no weights in {file}; set PROTOSEG_DATA")
    return file


@pytest.fixture(scope="module")
def started() -> Iterator[Any]:
    """A browser; skips where there is none."""
    from chromium import started_browser

    with started_browser() as browser:
        yield browser


@pytest.fixture
def browser(started: Any, page: Path) -> Any:
    """It, with the page of the test file open and nothing in its logs from before."""
    from chromium import opened

    return opened(started, page)
