"""The memory that a training took."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from protoseg.engine.machine import peak_bytes

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="nothing tells it there")
def test_the_most_that_was_needed_stays() -> None:
    before = peak_bytes(CPU)
    torch.ones(50_000_000)
    after = peak_bytes(CPU)
    assert before is not None
    assert after is not None
    assert after > max(before, 200_000_000)
    assert peak_bytes(CPU) == after


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell it")
def test_the_memory_of_the_process_that_started_it_does_not_count() -> None:
    held = torch.ones(750_000_000)
    code = "import torch; from protoseg.engine.machine import peak_bytes; print(peak_bytes(torch.device('cpu')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(ran.stdout) < held.nbytes
