"""Any number of processes trains as one does with the whole batch."""

from __future__ import annotations

import csv
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from make_folder import make_folder
from safetensors.torch import load_file
from torch import nn

from protoseg.cli import main
from protoseg.nn import small_unet

STEPS = 10
QUICK = ("supervised", "prototype", "unimatch")
ALL = (
    *(*QUICK, "fixmatch+prototypes", "mean_teacher", "corrmatch", "unimatch_v2", "supervised --loss.balance 0.5"),
    *("cutmix_mt", "augseg", "cps+prototypes", "prevmatch", "prototype --accumulate 2"),
)
LOSSES = ("loss", "labeled", "prototype_labeled", "prototype_consistency", "consistency", "strong", "feature", "correlation")
# A threshold that some pixels pass. Small images, of which crops have padding, so that processes have unlike numbers of pixels.
SETTINGS = (
    f"--steps {STEPS} --batch 8 --crop 32 --workers 0 --log-every 1 --seed 3 --optimizer.lr 1e-3 --prototypes.grid 8 "
    "--model.arch small_unet --model.width 8 --model.weights none --trainer.accelerator cpu "
    "--no-evaluate"
).split()
OWN = "--consistency.threshold 0.4 --consistency.warmup_steps 2".split()


def grouped(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """As in `SmallUNet`, with GroupNorm: BatchNorm sees the share of its process alone."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(4, out_channels), nn.ReLU(inplace=True))


def train(root: Path, methods: tuple[str, ...], processes: int) -> None:
    for method in methods:
        own = [] if method.startswith("supervised") else OWN
        where = ["--out", str(folder(root, method, processes)), "--trainer.devices", str(processes)]
        assert main(["train", str(root / "set"), *SETTINGS, "--method", *method.split(), *own, *where]) == 0


def folder(root: Path, method: str, processes: int) -> Path:
    return root / f"{method.replace(' ', '')}-{processes}"


def work(rank: int, root: Path, methods: tuple[str, ...], processes: int, port: int) -> None:
    torch.set_num_threads(1)
    small_unet._conv = grouped
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in where.items()})
    train(root, methods, processes)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("processes", "methods"),
    [(2, QUICK), pytest.param(2, ALL, marks=pytest.mark.slow), pytest.param(4, ALL, marks=pytest.mark.slow)],
    ids=["2", "2, all methods", "4, all methods"],
)
def test_processes_train_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, methods: tuple[str, ...]
) -> None:
    make_folder(tmp_path / "set", train=12, labeled=5, size=(28, 40))
    monkeypatch.setattr(small_unet, "_conv", grouped)
    train(tmp_path, methods, 1)
    mp.spawn(work, args=(tmp_path, methods, processes, free_port()), nprocs=processes)
    for method in methods:
        one, many = (folder(tmp_path, method, number) for number in (1, processes))
        expected, found = (list(csv.DictReader((run / "metrics.csv").open(newline=""))) for run in (one, many))
        assert len(expected) == len(found) == STEPS
        terms = [name for name in expected[-1] if name.startswith(LOSSES) and expected[-1][name]]
        assert len(terms) >= 2
        for before, after in zip(expected, found, strict=True):
            for name in terms:
                if before[name]:
                    assert float(after[name]) == pytest.approx(float(before[name]), abs=1e-5), (method, name, before["step"])
        models = [load_file(run / "model.safetensors") for run in (one, many)]
        apart = {name: float((models[1][name].double() - tensor.double()).abs().max()) for name, tensor in models[0].items()}
        assert {name: distance for name, distance in apart.items() if distance > 1e-4} == {}, method
