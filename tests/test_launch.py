"""Processes that torchrun or SLURM has started know which of them they are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_folder import TINY, make_folder
from safetensors.torch import load_file

from protoseg.arguments import parse_train
from protoseg.launch import is_first, join_slurm, num_processes, started_by_torchrun
from protoseg.run import _note_on_pairs

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
SRUN = {
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NAME": "train",
}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No process of a distributed run; what is set in a test is gone after it."""
    for name in (*NAMES, *SRUN):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it, whoever sets it
        monkeypatch.delenv(name)
    return monkeypatch


def test_alone(env: pytest.MonkeyPatch) -> None:
    join_slurm({})
    assert is_first()
    assert num_processes({}) == 1
    assert num_processes({"devices": 2, "num_nodes": 3}) == 6
    assert num_processes({"devices": "auto"}) == 1
    assert started_by_torchrun() == {}


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0", "RANK": "0"}, True),  # torchrun numbers machines by itself
        ({"LOCAL_RANK": "0", "RANK": "2"}, False),
    ],
)
def test_which_is_first(env: pytest.MonkeyPatch, given: dict[str, str], first: bool) -> None:
    for name, value in given.items():
        env.setenv(name, value)
    assert is_first() is first


def test_torchrun(env: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        env.setenv(name, value)
    assert started_by_torchrun() == {"devices": 2, "num_nodes": 2}
    assert num_processes({}) == 4


def test_srun(env: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        env.setenv(name, value)
    join_slurm({"devices": 2, "num_nodes": 2})
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["2", "0", "4"]
    assert not is_first()
    assert num_processes({"devices": 2, "num_nodes": 2}) == 4


def test_srun_over_runs_of_one_process(env: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        env.setenv(name, value)
    join_slurm({})
    assert is_first()
    assert num_processes({}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_NTASKS": "3"}, "srun has started 3 processes, .* ask for 4"),
        ({"SLURM_NTASKS_PER_NODE": None}, "by --ntasks-per-node"),
        ({"SLURM_JOB_NAME": "bash"}, "another name with --job-name"),
    ],
)
def test_srun_that_lightning_would_misread(env: pytest.MonkeyPatch, change: dict[str, str | None], message: str) -> None:
    for name, value in (SRUN | change).items():
        if value is not None:
            env.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        join_slurm({"devices": 2, "num_nodes": 2})


@pytest.mark.slow
def test_both_train_the_same(tmp_path: Path) -> None:
    """With what the documentation says to type; SLURM itself stands in by its variables."""
    make_folder(tmp_path / "set", train=6, labeled=3)
    words = ["-m", "protoseg.cli", "train", str(tmp_path / "set"), *TINY, "--steps", "4", "--batch", "4"]
    words += ["--trainer.accelerator", "cpu", "--no-evaluate"]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    done = subprocess.run([*torchrun, *words, "--out", str(tmp_path / "torchrun")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    tasks = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, *words, "--trainer.devices", "2", "--out", str(tmp_path / "srun")],
            env=os.environ | tasks | address | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("torchrun", "srun")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


@pytest.mark.parametrize(
    ("batch", "note"),
    [
        (8, ""),
        (6, "each of 2 processes gets 3 of 6 images, and one of them has no partner of its own for CutMix; better --batch 4"),
        (2, "each of 2 processes gets 1 of 2 images, and no image has a partner for CutMix; better --batch 4"),
    ],
)
def test_a_run_says_where_pairs_depend_on_the_number_of_processes(batch: int, note: str) -> None:
    assert _note_on_pairs(parse_train(["data", "--batch", str(batch), "--trainer.devices", "2"])) == note
    assert _note_on_pairs(parse_train(["data", "--batch", str(batch)])) == ""
