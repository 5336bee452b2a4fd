"""The memory that a training took."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

MEASURE = """
import torch
from protoseg.engine.machine import peak_bytes
CPU = torch.device("cpu")
print(peak_bytes(CPU))
torch.ones(125_000_000)
print(peak_bytes(CPU))
print(peak_bytes(CPU))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing tells it there")
def test_the_most_that_was_needed_stays() -> None:
    """In a process of its own: this one may have needed more before, for another test."""
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    before, after, still = map(int, ran.stdout.split())
    assert after >= before + 400_000_000  # of a process that holds libraries alone
    assert still == after


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell it")
def test_the_memory_of_the_process_that_started_it_does_not_count() -> None:
    held = torch.ones(750_000_000)
    code = "import torch; from protoseg.engine.machine import peak_bytes; print(peak_bytes(torch.device('cpu')))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 50_000_000 < int(ran.stdout) < held.nbytes
