"""A long run needs no more memory and holds no more files at its end than at its beginning."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from make_folder import TINY, make_folder

from protoseg.cli import main
from protoseg.engine.callbacks import MetricsLog

STEPS = int(os.environ.get("PROTOSEG_LONG_STEPS", "5000"))
GROWTH = 40 << 20  # bytes; 10 KB left behind in each step would be more
PROC = Path("/proc/self")


@pytest.mark.slow
@pytest.mark.skipif(not (PROC / "statm").exists(), reason="memory as Linux shows it")
@pytest.mark.parametrize("method", ["prototype", "u2pl"])
def test_memory_and_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Measured from a tenth of the run on: by then every buffer has its size."""
    make_folder(tmp_path / "data", train=8, labeled=4, test=1)
    memory, files, log = list[int](), list[int](), MetricsLog.on_step

    def measure(self: MetricsLog, trainer: Any, module: Any, step: int) -> None:
        log(self, trainer, module, step)
        if step >= STEPS // 10 and step % (STEPS // 50) == 0:
            memory.append(int((PROC / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            files.append(len(list((PROC / "fd").iterdir())))

    monkeypatch.setattr(MetricsLog, "on_step", measure)
    words = [*TINY, "--steps", str(STEPS), "--method", method, "--workers", "1", "--consistency.warmup_steps", "5"]
    every = ["--log-every", "20", "--checkpoint-every", "100", "--evaluate-every", str(STEPS // 5)]
    assert main(["train", str(tmp_path / "data"), *words, *every, "--out", str(tmp_path / "out")]) == 0
    assert len(memory) > 40
    print(f"{method}, {STEPS} steps: {memory[0] >> 20} MiB, {len(files)} readings, {max(memory) >> 20} MiB at most")
    assert max(memory) - memory[0] < GROWTH
    assert max(files) <= files[0] + 2  # a checkpoint may just be written
    assert multiprocessing.active_children() == []
