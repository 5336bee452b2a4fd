"""Processes that torchrun or SLURM has started know which of them they are."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from make_folder import TINY, TINY_RUN, make_folder
from safetensors.torch import load_file

from protoseg.arguments import parse_train
from protoseg.engine.resumable import load_state
from protoseg.launch import is_first, join_slurm, num_processes, started_by_torchrun
from protoseg.run import _note_on_pairs
from second_process import second_process

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


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


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
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes as Linux shows them")
def test_torchrun_ends_with_a_process_that_dies(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", train=6, labeled=3)
    out = tmp_path / "out"
    words = ["train", str(tmp_path / "set"), *TINY, "--steps", "5000", "--batch", "4", "--log-every", "1"]
    words += ["--trainer.accelerator", "cpu", "--no-evaluate", "--out", str(out)]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port(), "-m", "protoseg.cli"]
    with subprocess.Popen([sys.executable, *torchrun, *words], stderr=subprocess.PIPE, text=True) as run:
        try:
            deadline = time.monotonic() + 600  # of a machine that is busy
            while not (out / "metrics.csv").is_file() or (out / "metrics.csv").read_text().count("\n") < 5:
                assert run.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(second_process(run.pid), signal.SIGKILL)
            run.communicate(timeout=60)  # torchrun looks after its processes every few seconds
        finally:
            run.kill()
    assert run.returncode == 1
    assert not (out / "result.json").exists()


@pytest.mark.slow
def test_both_train_the_same(tmp_path: Path) -> None:
    """With what the documentation says to type; SLURM itself stands in by its variables."""
    make_folder(tmp_path / "set", train=6, labeled=3)
    words = ["-m", "protoseg.cli", "train", str(tmp_path / "set"), *TINY, "--steps", "4", "--batch", "4"]
    words += ["--trainer.accelerator", "cpu", "--no-evaluate"]
    port = free_port()
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


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", [False, True], ids=["by the address of the first", "by a rendezvous"])
def test_two_machines_train_as_one_process(tmp_path: Path, rendezvous: bool) -> None:
    """Two of torchrun's agents on this one machine, with what the documentation says to type; a network without BatchNorm."""
    make_folder(tmp_path / "set", train=6, labeled=3)
    words = [*TINY_RUN, "--model.arch", "dino_dpt", "--model.encoder", "tu-test_vit", "--crop", "40", "--steps", "4"]
    words += ["--batch", "4", "--log-every", "1", "--trainer.accelerator", "cpu", "--no-evaluate"]
    words += ["--consistency.threshold", "0.3", "--consistency.warmup_steps", "1"]
    train = ["-m", "protoseg.cli", "train", str(tmp_path / "set"), *words, "--out"]
    port = free_port()
    agents = []
    for rank in range(2):
        how = ["--node-rank", str(rank), "--master-addr", "127.0.0.1", "--master-port", port]
        if rendezvous:
            how = [
                "--rdzv-backend",
                "c10d",
                "--rdzv-endpoint",
                f"127.0.0.1:{port}",
                "--rdzv-id",
                "x",
                "--local-addr",
                "127.0.0.1",
            ]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", *how, "--nproc-per-node", "1"]
        agents.append(subprocess.Popen([*torchrun, *train, str(tmp_path / "two")], stderr=subprocess.PIPE, text=True))
    said = [agent.communicate(timeout=900)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    subprocess.run([sys.executable, *train, str(tmp_path / "one")], check=True)
    tables = [list(csv.DictReader((tmp_path / name / "metrics.csv").open(newline=""))) for name in ("one", "two")]
    for one, two in zip(*tables, strict=True):
        for name in ("loss", "labeled", "prototype_labeled", "consistency"):
            assert bool(two[name]) == bool(one[name])
            assert float(two[name] or 0) == pytest.approx(float(one[name] or 0), abs=1e-5), (name, one["step"])
    assert float(tables[1][-1]["consistency"]) > 0
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert max(float((models[1][name].double() - tensor.double()).abs().max()) for name, tensor in models[0].items()) < 1e-4


SRUN_HERE = """#!/bin/bash
# One task a node, as the variables of the job say; what becomes of one becomes of the job.
[ "$1" = --kill-on-bad-exit=1 ] && shift
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" &
done
status=0
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do wait -n || status=$?; done
exit $status
"""


def job_script() -> str:
    text = (Path(__file__).parents[1] / "docs/distributed.md").read_text(encoding="utf-8")
    return text.partition("## SLURM")[2].partition("```bash\n")[2].partition("```")[0]


def test_the_numbers_of_the_job_script_fit_together() -> None:
    script = job_script()
    asked = dict(re.findall(r"#SBATCH --([a-z-]+)=(\S+)", script))
    (train,) = (line for line in script.splitlines() if "train /shared" in line)
    given = dict(zip(train.split(), train.split()[1:], strict=False))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"] == given["--trainer.devices"]
    assert asked["nodes"] == given["--trainer.num_nodes"]
    assert int(given["--batch"]) % (2 * int(asked["nodes"]) * int(asked["ntasks-per-node"])) == 0
    started = [line.split() for line in script.splitlines() if "srun" in line]
    assert [words[:3] for words in started] == [["srun", "--kill-on-bad-exit=1", "protoseg"]] * 2, "a dead task ends the others"


@pytest.mark.slow
def test_the_job_script_runs_and_goes_on(tmp_path: Path) -> None:
    """With two tasks of a CPU, and a stand-in for srun. The first job's time ends in training."""
    make_folder(tmp_path / "set", train=6, labeled=3)
    words = [*TINY, "--steps", "100", "--log-every", "1", "--trainer.accelerator", "cpu", "--no-evaluate"]
    script, out, port = job_script(), tmp_path / "out", free_port()
    for before, after in (
        ("/shared/runs/eight", str(out)),
        ("/shared/data", str(tmp_path / "set")),
        ("--batch 32 --trainer.devices 4", " ".join([*words, "--batch 4 --trainer.devices 1"])),
    ):
        assert before in script
        script = script.replace(before, after)
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN_HERE), ("protoseg", f'#!/bin/bash\nexec "{sys.executable}" -m protoseg.cli "$@"\n')):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    tasks = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_JOB_ID": "1"}
    tasks |= {"SLURM_JOB_NAME": "protoseg", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    env = os.environ | tasks | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    job = ["bash", str(tmp_path / "job.sh")]

    with subprocess.Popen(job, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True) as first:
        deadline = time.monotonic() + 600
        while not (out / "metrics.csv").is_file() or (out / "metrics.csv").read_text().count("\n") < 4:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGTERM)  # to each task and the script, as at the end of the time
        said = first.communicate(timeout=300)[1]
    assert f"go on with protoseg train --resume {out}" in said
    stopped = load_state(out / "last.ckpt")["global_step"]
    assert 3 <= stopped < 100
    second = subprocess.run(job, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert second.returncode == 0, second.stderr[-2000:]
    steps = [int(row["step"]) for row in csv.DictReader((out / "metrics.csv").open(newline=""))]
    assert steps == list(range(1, 101))
    assert (out / "model.safetensors").is_file()


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
