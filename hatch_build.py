"""Writes the commit into a wheel: an installed package has no checkout to ask, and a result should name its code."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not (Path(self.root) / ".git").exists() or shutil.which("git") is None:
            return
        words = ["git", "-C", self.root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        commit = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
        if commit:
            self.file = Path(tempfile.mkdtemp()) / "commit.txt"
            self.file.write_text(commit + "\n")
            build_data["force_include"][str(self.file)] = "protoseg/commit.txt"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "file"):
            shutil.rmtree(self.file.parent)
