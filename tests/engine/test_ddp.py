"""Two gloo processes: prototypes, teacher and BatchNorm statistics stay equal, and it is the run of one process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from make_folder import make_folder

SETTINGS = (
    "--steps 6 --batch 4 --crop 32 --workers 0 --checkpoint-every 2 --log-every 1 --seed 3 --consistency.warmup_steps 2 "
    "--consistency.threshold 0.1 --prototypes.grid 8 --model.arch small_unet --model.weights none --optimizer.lr 1e-3"
).split()

LAUNCH = """
import sys, torch, torch.distributed as dist
from protoseg.cli import main
from protoseg.engine.module import TrainingModule

def save(self):
    torch.save(self.method.state_dict(), f"{sys.argv[1]}/rank{self.global_rank}.pt")

TrainingModule.on_train_end = save
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """The method's state on each of two processes, after the last step."""
    root = tmp_path_factory.mktemp("ddp")
    make_folder(root / "set")
    (root / "launch.py").write_text(LAUNCH)
    words = ["train", str(root / "set"), *SETTINGS, "--out", str(root / "run")]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    done = subprocess.run(
        [sys.executable, str(root / "launch.py"), str(root), *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (root / "run" / "model.safetensors").is_file()
    return [torch.load(root / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("part", ["prototypes.head.prototype", "prototypes.head.ready", "teacher.", "student."])
def test_processes_agree(states: list[dict[str, torch.Tensor]], part: str) -> None:
    names = [name for name in states[0] if name.startswith(part)]
    assert names
    for name in names:
        assert torch.equal(states[0][name], states[1][name]), name


def test_prototypes_moved(states: list[dict[str, torch.Tensor]]) -> None:
    assert states[0]["prototypes.head.ready"].all()
    assert states[0]["prototypes.head.prototype"].abs().sum() > 0
