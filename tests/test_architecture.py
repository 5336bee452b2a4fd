"""Imports go downwards only: the table of docs/architecture.md, read off the source."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import protoseg

ROOT = Path(protoseg.__file__).parent
MODULES = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.rglob("*.py"))

MAY_IMPORT = {
    "types": (),
    "files": (),
    "words": (),
    "safe_yaml": (),
    "torch_file": ("torch_pickle",),
    "torch_pickle": (),
    "stored": ("words",),
    "console": (),
    "functional": ("types", "functional"),
    "nn": ("types", "torch_file", "functional", "nn"),
    "methods": ("types", "functional", "nn", "methods"),
    "data": ("types", "words", "files", "functional", "data"),
    "engine": ("types", "words", "files", "stored", "torch_file", "functional", "data", "engine", "methods.base"),
    "report": ("words", "safe_yaml", "files", "stored", "data", "engine", "report"),
    "settings": (),
    "launch": (),
    "orphan": ("settings",),
    "versions": (),
    "config": ("settings", "words", "safe_yaml", "types", "functional", "nn", "methods", "data", "engine"),
    "summary": ("settings", "types", "words", "console", "data", "engine", "config"),
    "trained": ("settings", "types", "files", "words", "console", "nn", "data", "engine", "report", "config", "summary"),
    "atlas": ("types", "files", "functional", "nn", "data", "engine", "report", "trained", "atlas"),
    "app": ("types", "words", "nn", "data", "engine", "report", "trained", "atlas", "app"),
    "rescore": ("words", "files", "data", "engine", "report", "trained"),
    "stage": (
        "settings",
        "launch",
        "types",
        "words",
        "files",
        "stored",
        "versions",
        "methods",
        "data",
        "engine",
        "report",
        "config",
        "trained",
    ),
    "self_training": ("settings", "files", "stored", "methods", "data", "engine", "config", "trained", "stage"),
    "run": (
        "settings",
        "launch",
        "orphan",
        "files",
        "stored",
        "methods",
        "data",
        "engine",
        "report",
        "config",
        "summary",
        "trained",
        "stage",
        "self_training",
    ),
    "dry_run": ("settings", "data", "engine", "config", "summary", "stage", "run"),
    "doctor": ("settings", "types", "words", "console", "functional", "data", "config"),
    "split": ("settings", "types", "words", "data", "trained"),
    "bench": (
        "settings",
        "words",
        "files",
        "stored",
        "data",
        "engine.tally",
        "engine.examples",
        "report",
        "config",
        "arguments",
        "stage",
        "trained",
        "rescore",
        "bench",
    ),
    "arguments": ("settings", "words", "safe_yaml", "config"),
    "cli": (
        "arguments",
        "console",
        "settings",
        "files",
        "stored",
        "config",
        "run",
        "dry_run",
        "trained",
        "rescore",
        "report",
        "atlas",
        "app",
        "split",
        "doctor",
        "bench",
        "data",
        "engine.collapse",
        "engine.lost",
        "launch",
    ),
    "__init__": ("settings", "run", "trained", "nn", "methods"),
}
"""Layer -> the parts of protoseg that it may import, itself included."""

ONLY_IN = {
    "lightning": ("engine",),
    "torchmetrics": ("engine",),
    "segmentation_models_pytorch": ("nn.segmenter",),
    "timm": ("nn.segmenter", "nn.vit"),
    "sklearn": ("data.demo",),
    "jsonargparse": ("arguments",),
    "scipy": ("bench.tables",),
    "jinja2": ("report",),
}
"""Library -> the only places that may import it."""

TORCH_ALONE = ("types", "functional", "nn", "methods")
NOT_ALONE = ("nn.segmenter", "nn.vit", "nn.weights")
"""Where networks and weights of others come in."""
CONCRETE_METHODS = ("config", "__init__")
"""Who may name a method, `methods` itself aside."""


def imports(module: str) -> set[str]:
    """Everything a module imports, wherever in it, as full names: `protoseg.data.io` and so on."""
    return _imports(ROOT.joinpath(*module.split(".")).with_suffix(".py"))


@functools.cache
def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            name = node.module or ""
            # `from package import module` imports the module
            found |= {f"{name}.{alias.name}" if _is_module(f"{name}.{alias.name}") else name for alias in node.names}
    return found


def _is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_below(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def own(module: str) -> set[str]:
    """The modules of protoseg that a module imports, without the package's name.

    A public name taken from the package itself counts as the module it comes from.
    """
    found = {name.removeprefix("protoseg.") for name in imports(module) if name.startswith("protoseg.")}
    tree = ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text())
    lazy = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "protoseg"]
    return found | {protoseg._HOME[alias.name] for node in lazy for alias in node.names if alias.name in protoseg._HOME}


def test_every_module_has_a_layer() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    allowed = MAY_IMPORT[module.split(".")[0]]
    assert {name for name in own(module) if not is_below(name, allowed)} == set()


@pytest.mark.parametrize("module", MODULES)
def test_libraries_stay_where_they_belong(module: str) -> None:
    libraries = {name.split(".")[0] for name in imports(module)}
    assert {library for library in libraries if library in ONLY_IN and not is_below(module, ONLY_IN[library])} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if is_below(m, TORCH_ALONE) and m not in NOT_ALONE])
def test_the_ideas_need_torch_alone(module: str) -> None:
    libraries = {name.split(".")[0] for name in imports(module)} - set(sys.stdlib_module_names)
    assert libraries <= {"torch", "protoseg"}


@pytest.mark.parametrize("module", [m for m in MODULES if not is_below(m, ("methods", *CONCRETE_METHODS))])
def test_nobody_else_names_a_method(module: str) -> None:
    assert {name for name in own(module) if is_below(name, ("methods",))} <= {"methods.base"}


def test_the_test_sees_an_import_that_goes_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "functional").mkdir()
    (tmp_path / "functional/bad.py").write_text(
        "def f():\n    from protoseg.engine import train\n    import lightning.pytorch\n"
    )
    (tmp_path / "functional/lazy.py").write_text("from protoseg import PrototypeConsistency\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    with pytest.raises(AssertionError):
        test_imports_go_downwards("functional.bad")
    with pytest.raises(AssertionError):
        test_imports_go_downwards("functional.lazy")
    with pytest.raises(AssertionError):
        test_libraries_stay_where_they_belong("functional.bad")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_can_be_imported(module: str) -> None:
    importlib.import_module(f"protoseg.{module}".removesuffix(".__init__"))


@pytest.mark.parametrize("name", protoseg.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(protoseg, name).__name__ == name


def test_a_name_that_is_not_public() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        protoseg.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["protoseg", "protoseg.config", "protoseg.cli"])
def test_importing_the_package_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
