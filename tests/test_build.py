"""What a wheel knows that its sources do not say, and what has to be installed with it."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
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
    if shutil.which("git") is None:
        pytest.skip("there is no git")
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


def test_what_is_imported_is_a_dependency() -> None:
    """`pip install .` alone has to bring all that the package imports; what an extra brings is imported where it is used."""
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    core, extras = ({_name(text) for text in texts} for texts in (project["dependencies"], _of_extras(project)))
    homes = metadata.packages_distributions()
    ours: dict[str, set[str]] = {}
    for path in (root / "src/protoseg").rglob("*.py"):
        for module in _imported(ast.parse(path.read_text())):
            if module not in sys.stdlib_module_names and module != "protoseg":
                ours.setdefault(module, set()).add(path.name)
    assert {"torch", "yaml", "PIL"} < set(ours), "the scan sees imports"
    missing = {}
    for module, files in ours.items():
        brought = {_name(home) for home in homes.get(module, [module])}
        if not brought & (core | extras | {"markupsafe"}):  # which Jinja cannot do without
            missing[module] = files
    assert missing == {}
    optional = {
        module for module in ours if not {_name(home) for home in homes.get(module, [module])} & (core | {"markupsafe"})
    }
    assert optional <= {"pycocotools", "rasterio", "tensorboard", "wandb", "mlflow"}


def _of_extras(project: dict[str, Any]) -> list[str]:
    return [text for name, texts in project["optional-dependencies"].items() if name != "dev" for text in texts]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-")


def _imported(tree: ast.AST) -> set[str]:
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in found}
