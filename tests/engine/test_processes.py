"""Any number of processes trains as one does with the whole batch."""

from __future__ import annotations

import csv
import math
import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.strategies import DDPStrategy
from make_folder import make_folder
from safetensors.torch import load_file
from torch import nn

from protoseg.cli import main
from protoseg.config import METHODS, method_class
from protoseg.engine import train as engine_train
from protoseg.nn import small_unet

STEPS = 10
QUICK = ("supervised", "prototype", "unimatch")
ALL = (
    *(
        *QUICK,
        "fixmatch+prototypes",
        "mean_teacher",
        "corrmatch",
        "unimatch_v2",
        "supervised --loss.balance 0.5 --model.projection 6",
    ),
    *("cutmix_mt", "augseg", "cps+prototypes", "prevmatch", "prototype --accumulate 2"),
    "prototype --prototypes.emphasis uncertain --prototypes.balance 0.5 --prototypes.points_per_cell 2 --model.projection 6",
)
NO_LOSSES = {
    *("step", "seconds", "images_per_second", "lr"),
    *("prototype_agreement", "prototype_agreement_peer", "prototype_entropy", "dead_prototypes"),
    *("confident", "teacher_agreement", "pseudo_distance", "ema_distance"),
}
"""Columns of the metrics; every other one is a loss, and compared."""
# A threshold that some pixels pass. Small images, of which crops have padding, so that processes have unlike numbers of pixels.
SETTINGS = (
    f"--steps {STEPS} --batch 8 --crop 32 --workers 0 --log-every 1 --seed 3 --optimizer.lr 1e-3 --prototypes.grid 8 "
    "--model.arch small_unet --model.width 8 --model.weights none --trainer.accelerator cpu "
    "--no-evaluate"
).split()
OWN = "--consistency.threshold 0.4 --consistency.warmup_steps 2".split()


def test_no_method_is_forgotten() -> None:
    """Self-training is refused in several processes. U2PL is another in each number of them, by design: a process ranks the
    entropy of its own pixels, draws anchors among them with numbers of its own, and contrasts them with the class means of its
    own examples. What it keeps is the same on all (test_ddp.py)."""
    assert {class_name(method) for method in ALL} == METHODS.keys() - {"u2pl", "self_training"}


def class_name(method: str) -> str:
    return method.split()[0].removesuffix("+prototypes")


def grouped(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    """As in `SmallUNet`, with GroupNorm: BatchNorm sees the share of its process alone."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(4, out_channels), nn.ReLU(inplace=True))


def train(root: Path, methods: tuple[str, ...], processes: int, *more: str, name: str = "") -> None:
    for method in methods:
        own = [] if method.startswith("supervised") else OWN
        where = ["--out", str(folder(root, method, name or str(processes))), "--trainer.devices", str(processes)]
        assert main(["train", str(root / "set"), *SETTINGS, "--method", *method.split(), *own, *where, *more]) == 0


def folder(root: Path, method: str, name: str) -> Path:
    return root / f"{method.replace(' ', '')}-{name}"


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
        one, many = (folder(tmp_path, method, str(number)) for number in (1, processes))
        assert losses_apart(one, many, method) <= 1e-5, method
        models = [load_file(run / "model.safetensors") for run in (one, many)]
        apart = {name: float((models[1][name].double() - tensor.double()).abs().max()) for name, tensor in models[0].items()}
        assert {name: distance for name, distance in apart.items() if distance > 1e-4} == {}, method


def losses_apart(one: Path, many: Path, method: str) -> float:
    """The largest difference of any loss in any step of two runs; each loss of the method is above 0 in some step."""
    expected, found = (list(csv.DictReader((run / "metrics.csv").open(newline=""))) for run in (one, many))
    assert len(expected) == len(found) == STEPS
    losses = expected[0].keys() - NO_LOSSES
    cls = method_class(class_name(method))
    assert {"loss", *cls.labeled_weights, *cls.unlabeled_weights} < losses
    assert {name for name in losses if not any(float(row[name] or 0) > 0 for row in expected)} == set()
    pairs = [(before[name], after[name]) for before, after in zip(expected, found, strict=True) for name in losses]
    assert all(bool(before) == bool(after) for before, after in pairs)  # none in the warm-up
    apart = [abs(float(before) - float(after)) for before, after in pairs if before]
    assert all(map(math.isfinite, apart))
    return max(apart)


def test_batch_norm_is_not_synchronised_on_processors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(tmp_path / "set", train=6, labeled=3)
    words = ["--trainer.devices", "2", "--trainer.sync_batchnorm", "true", "--out", str(tmp_path / "out")]
    assert main(["train", str(tmp_path / "set"), *SETTINGS, *words]) == 2
    assert "--trainer.sync_batchnorm true works on GPUs alone" in capsys.readouterr().err


def whole_products() -> None:
    """Without the shortened mantissa that a GPU uses for convolutions."""
    torch.backends.cudnn.allow_tf32 = False


def machine(rank: int, root: Path, method: str, name: str, port: int, more: tuple[str, ...]) -> None:
    """The only process of one of two machines; here they have the same processor or the same GPU."""
    torch.set_num_threads(1)
    whole_products()
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "NODE_RANK": rank}
    os.environ.update({key: str(value) for key, value in where.items()})
    engine_train.DDPStrategy = partial(DDPStrategy, process_group_backend="gloo")  # NCCL gives no GPU to two processes
    train(root, (method,), 1, "--trainer.num_nodes", "2", *more, name=name)


@pytest.mark.parametrize(
    ("device", "bound"),
    [
        pytest.param("cpu", 0.0, marks=pytest.mark.slow),
        # The sums of a GPU have no fixed order, and ten steps make more of it. BatchNorm of each process is farther off.
        pytest.param("gpu", 1e-3, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="SyncBatchNorm needs a GPU")),
    ],
)
@pytest.mark.parametrize("method", ["supervised", "prototype"])
def test_synchronised_batch_norm_sees_the_whole_batch(tmp_path: Path, method: str, device: str, bound: float) -> None:
    """On a GPU that two processes share. On a processor, where torch has none, as a check of this test: they are apart."""
    make_folder(tmp_path / "set", train=12, labeled=5, size=(28, 40))
    words = ("--trainer.accelerator", device, "--trainer.precision", "32-true")
    allowed = torch.backends.cudnn.allow_tf32
    whole_products()
    train(tmp_path, (method,), 1, *words)
    torch.backends.cudnn.allow_tf32 = allowed
    apart = {}
    for synchronised in ("true", "false")[device == "cpu" :]:
        more = (*words, "--trainer.sync_batchnorm", synchronised)
        mp.spawn(machine, args=(tmp_path, method, synchronised, free_port(), more), nprocs=2)
        apart[synchronised] = losses_apart(*(folder(tmp_path, method, name) for name in ("1", synchronised)), method)
    assert apart.get("true", 0.0) <= bound
    assert apart["false"] > 1e-3
