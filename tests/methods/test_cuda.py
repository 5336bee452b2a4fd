"""On a GPU: a step waits for nothing, and computes what a processor computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from make_folder import TINY, TINY_RUN, make_folder
from test_conformance import labeled_batch, make, unlabeled_batch

from protoseg.cli import main
from protoseg.config import METHODS
from protoseg.engine import module
from protoseg.engine.guard import poisoned
from protoseg.engine.module import TrainingModule
from protoseg.methods.base import Method
from protoseg.types import LabeledBatch, StepOutput, UnlabeledBatch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TERM = "+prototypes"
NAMES = sorted(METHODS)
EVERY = [name + term for name in NAMES for term in ("", TERM) if name + term != f"prototype{TERM}"]
STEPS, WATCHED = 12, range(4, 11)  # after the warm-up, before the last step, which is logged


@pytest.fixture
def float32() -> Iterator[None]:
    """Products without the shortened mantissa that a GPU uses for convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where the host has waited for the device while torch was asked to warn of it."""
    found = list[str]()

    def note(message: Warning | str, category: type, filename: str, lineno: int, *_: Any) -> None:
        if "called a synchronizing" in str(message):
            found.append(f"{filename}:{lineno}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", note)
        yield found
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", EVERY)
def test_no_step_waits_for_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[str]) -> None:
    _train_watched(tmp_path, monkeypatch, *TINY, "--method", name)
    assert waits == []


def test_the_watch_sees_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[str]) -> None:
    monkeypatch.setattr(module, "poisoned", lambda loss: poisoned(loss) if loss.item() > 0 else loss)
    _train_watched(tmp_path, monkeypatch, *TINY, "--method", "fixmatch")
    assert [Path(place.rpartition(":")[0]).name for place in waits] == ["test_cuda.py"] * len(WATCHED)


def _train_watched(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """A short run whose steps are watched from the warm-up on."""
    make_folder(folder / "data", train=8, labeled=4, test=1)
    steps, start = list[int](), TrainingModule.on_train_batch_start

    def watch(self: TrainingModule, *args: Any) -> None:
        warnings.filterwarnings("always", message=".*called a synchronizing")  # the engine keeps Lightning's warnings quiet
        torch.cuda.set_sync_debug_mode("warn" if self.global_step in WATCHED else "default")
        steps.append(self.global_step)
        start(self, *args)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", watch)
    own = ["--steps", str(STEPS), "--consistency.warmup_steps", "2", "--log-every", str(STEPS), "--workers", "2"]
    own += ["--views.rare_crops", "0.5", "--out", str(folder / "run")]
    assert main(["train", str(folder / "data"), *words, *own]) == 0
    assert set(WATCHED) < set(steps)


def test_training_runs_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = []

    def look(self: TrainingModule, *_: Any) -> None:
        kernels = [p for p in self.method.parameters() if p.ndim == 4 and p.shape[2:] != (1, 1)]
        layouts.append({p.is_contiguous(memory_format=torch.channels_last) for p in kernels})

    monkeypatch.setattr(TrainingModule, "on_train_start", look)
    make_folder(tmp_path / "data", train=8, labeled=4, test=1)
    words = ["--model.arch", "deeplabv3plus", "--model.encoder", "resnet18", *TINY_RUN, "--out", str(tmp_path / "run")]
    assert main(["train", str(tmp_path / "data"), *words]) == 0
    assert layouts == [{True}]


@pytest.mark.parametrize("prototypes", [False, True], ids=["plain", "prototypes"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("float32")
def test_the_same_step_as_on_a_processor(name: str, *, prototypes: bool) -> None:
    outs, methods = [], []
    for device in ("cpu", "cuda"):
        method = make(name, prototypes=prototypes)
        labeled, unlabeled = labeled_batch(), unlabeled_batch(method)
        method.to(device)
        outs.append(_one_step(method, labeled, unlabeled, device))
        methods.append(method)
    cpu, cuda = outs
    assert set(cuda.terms) == set(cpu.terms)
    for key, term in cpu.terms.items():
        assert cuda.terms[key].cpu() == pytest.approx(term.item(), rel=1e-3, abs=1e-5), key
    for (key, ours), theirs in zip(methods[1].state_dict().items(), methods[0].state_dict().values(), strict=True):
        assert torch.allclose(ours.cpu(), theirs, rtol=1e-3, atol=1e-4), key


def _one_step(method: Method, labeled: LabeledBatch, unlabeled: UnlabeledBatch, device: str) -> StepOutput:
    def to(batch: Any) -> Any:  # seeds stay where they are drawn from
        return type(batch)(*(part if name == "seed" else part.to(device) for name, part in batch._asdict().items()))

    torch.manual_seed(0)
    optimizer = torch.optim.SGD(method.trained_parameters(), lr=0.1)
    out: StepOutput = method(to(labeled), to(unlabeled), step=5)
    out.loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    method.after_step([out.carry], step=5)
    return out
