"""A long run needs no more memory and holds no more files at its end than at its beginning, nor do its workers."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from make_folder import TINY, make_folder

from protoseg.cli import main
from protoseg.engine.callbacks import MetricsLog

STEPS = int(os.environ.get("PROTOSEG_LONG_STEPS", "5000"))
GROWTH = 40 << 20  # bytes; 10 KB left behind in each step would be more
PROC = Path("/proc")


class Reading(NamedTuple):
    memory: int  # bytes
    files: int


def read(pid: int) -> Reading:
    """Of a process that lives."""
    pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    return Reading(pages * os.sysconf("SC_PAGE_SIZE"), len(list((PROC / str(pid) / "fd").iterdir())))


@pytest.mark.slow
@pytest.mark.skipif(not (PROC / "self/statm").exists(), reason="memory as Linux shows it")
@pytest.mark.parametrize("method", ["prototype", "u2pl"])
def test_memory_and_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Measured from a tenth of the run on: by then every buffer has its size."""
    make_folder(tmp_path / "data", train=8, labeled=4, test=1)
    log = MetricsLog.on_step
    readings = defaultdict[int, list[Reading]](list)  # of each process

    def measure(self: MetricsLog, trainer: Any, module: Any, step: int) -> None:
        log(self, trainer, module, step)
        if step >= STEPS // 10 and step % (STEPS // 50) == 0:
            for pid in (os.getpid(), *(worker.pid for worker in multiprocessing.active_children())):
                assert pid is not None
                readings[pid].append(read(pid))

    monkeypatch.setattr(MetricsLog, "on_step", measure)
    words = [*TINY, "--steps", str(STEPS), "--method", method, "--workers", "1", "--consistency.warmup_steps", "5"]
    every = ["--log-every", "20", "--checkpoint-every", "100", "--evaluate-every", str(STEPS // 5)]
    assert main(["train", str(tmp_path / "data"), *words, *every, "--out", str(tmp_path / "out")]) == 0
    assert len(readings) == 3  # one worker for each kind of images
    for pid, of_process in readings.items():
        who = "itself" if pid == os.getpid() else "a worker"
        memory, files = zip(*of_process, strict=True)
        assert len(memory) > 40
        print(f"{method}, {STEPS} steps, {who}: {memory[0] >> 20} MiB, {len(files)} readings, {max(memory) >> 20} MiB at most")
        assert max(memory) - memory[0] < GROWTH, who
        assert max(files) <= files[0] + 2, who  # a checkpoint may just be written
    assert multiprocessing.active_children() == []
