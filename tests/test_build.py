"""What a wheel knows that its sources do not say."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest

HOOK = Path(__file__).parents[1] / "hatch_build.py"


def built(root: Path, version: str) -> dict[str, str]:
    """The further files of a wheel: place in the package -> content."""
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.CommitHook(str(root), {}, None, None, "", "wheel")
    data: dict[str, Any] = {"force_include": {}}
    hook.initialize(version, data)
    files = {place: Path(file).read_text() for file, place in data["force_include"].items()}
    hook.finalize(version, data, "")
    assert not any(Path(file).exists() for file in data["force_include"])
    return files


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*who, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_a_wheel_names_its_commit(repository: Path) -> None:
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert built(repository, "standard") == {"protoseg/commit.txt": head.stdout}


def test_an_editable_install_asks_its_checkout(repository: Path) -> None:
    assert built(repository, "editable") == {}


def test_sources_without_a_repository_name_none(tmp_path: Path) -> None:
    assert built(tmp_path, "standard") == {}
