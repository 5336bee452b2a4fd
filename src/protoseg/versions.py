"""What made a number: the versions that a result and a model file name."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path


def package_versions() -> dict[str, str | None]:
    """Python, the packages that decide a number, and the commit of this one."""
    packages = ("protoseg", "torch", "torchvision", "lightning", "segmentation-models-pytorch", "timm")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of the code, with `-dirty` where files differ from it: asked of a checkout, written into a wheel when it is
    built (hatch_build.py). None where neither knows."""
    root, built = Path(__file__).parents[2], Path(__file__).with_name("commit.txt")
    if not (root / ".git").exists() or shutil.which("git") is None:
        return built.read_text().strip() if built.is_file() else None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or None
