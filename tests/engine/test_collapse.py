"""Runs that collapse: a warning, a stop, or the way back to where all was well."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from make_folder import TINY, make_folder

from protoseg.cli import main
from protoseg.engine import health
from protoseg.engine.checkpoint import load_model_file
from protoseg.engine.collapse import Collapse, WayBack, roll_back
from protoseg.engine.health import LASTING, Alarm, Health, HealthMonitor
from protoseg.engine.module import TrainingModule
from protoseg.engine.resumable import load_state, save_state
from protoseg.methods.prototype import PrototypeConsistency
from protoseg.types import PseudoLabel

STEPS = [*TINY, "--steps", "10", "--consistency.warmup_steps", "1", "--log-every", "1", "--checkpoint-every", "2"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data", train=6, labeled=3, test=1)


@pytest.fixture
def swallow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a teacher name all classes alike, and where the given rule holds only the first, or what is given; a few images are
    enough to be judged."""
    monkeypatch.setattr(health, "HORIZON", 4)
    monkeypatch.setattr(health, "LASTING", 4)
    teach = PrototypeConsistency._teach

    def apply(
        where: Callable[[PrototypeConsistency, int], bool],
        become: Callable[[torch.Tensor], torch.Tensor] = torch.zeros_like,
    ) -> None:
        def swallowed(self: PrototypeConsistency, unlabeled: Any, step: int) -> PseudoLabel:
            pseudo = teach(self, unlabeled, step)
            spread = torch.arange(pseudo.label.numel()).view_as(pseudo.label) % 3
            return pseudo._replace(label=become(spread) if where(self, step) else spread)

        monkeypatch.setattr(PrototypeConsistency, "_teach", swallowed)

    return apply


def run_away(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Make the loss no number from a step on, until the run goes back."""

    def where(module: TrainingModule) -> bool:
        return module.global_step >= after and not any("back_to" in event for event in module.events)

    monkeypatch.setattr(health, "LOST", 3)
    training_step = TrainingModule.training_step

    def step(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        loss = training_step(self, batch, batch_idx)
        return loss * torch.nan if where(self) else loss

    monkeypatch.setattr(TrainingModule, "training_step", step)


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())  # type: ignore[no-any-return]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_loss_that_runs_away_stops(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["train", str(data), *STEPS, "--steps", "20", "--optimizer.lr", "1e30", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "warning: step" in captured.out
    assert "too high a learning rate" in captured.out
    assert "protoseg train: stopped at step" in captured.err
    assert "--on-collapse rollback" in captured.err
    assert not (out / "result.json").exists()


def test_stops_at_the_third_time(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "20", "--optimizer.lr", "1e30", "--on-collapse", "rollback", "--out", str(tmp_path / "out")]
    assert main(["train", str(data), *STEPS, *words]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("back to step 0 with 0.5 times the learning rate") == 2
    assert "training has collapsed 3 times" in captured.err
    for name in ("last.ckpt", "previous.ckpt"):
        events = load_state(tmp_path / "out" / name)["protoseg"]["events"]
        assert [event["lr_factor"] for event in events] == [0.5, 0.5, 0.5]


def test_goes_back_and_halves_the_learning_rate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(data), *STEPS, "--out", str(tmp_path / "plain")]) == 0
    run_away(monkeypatch, after=4)
    out = tmp_path / "out"
    assert main(["train", str(data), *STEPS, "--on-collapse", "rollback", "--out", str(out)]) == 0, capsys.readouterr().err
    assert "back to step 4 with 0.5 times the learning rate" in capsys.readouterr().out
    (event,) = result(out)["events"]
    assert (event["step"], event["back_to"], event["lr_factor"]) == (7, 4, 0.5)
    assert "was no number in 3 steps in a row" in event["alarm"]
    plain, again = rows(tmp_path / "plain"), rows(out)
    assert [int(row["step"]) for row in again] == list(range(1, 11))
    rates = [(float(a["lr"]), float(b["lr"])) for a, b in zip(plain, again, strict=True)]
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in rates[:4])
    assert all(a == pytest.approx(2 * b, rel=1e-4) for a, b in rates[4:-1])
    assert plain[3]["labeled"] == again[3]["labeled"]
    assert plain[5]["labeled"] != again[5]["labeled"]
    assert not (out / "previous.ckpt").exists()
    state = torch.load(out / "last.ckpt", weights_only=True)
    assert state["protoseg"]["events"] == [event]


def test_a_run_killed_after_it_went_back_goes_on_alike(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        run_away(patch, after=4)
        words = [*STEPS, "--on-collapse", "rollback"]
        assert main(["train", str(data), *words, "--out", str(tmp_path / "whole")]) == 0

        class KilledError(Exception):
            pass

        step = TrainingModule.training_step

        def die(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
            if self.global_step == 7:
                raise KilledError
            return step(self, batch, batch_idx)

        patch.setattr(TrainingModule, "training_step", die)
        with pytest.raises(KilledError):
            main(["train", str(data), *words, "--out", str(tmp_path / "killed")])
    monkeypatch.delenv("PROTOSEG_RUN_FOLDER", raising=False)
    assert main(["train", "--resume", str(tmp_path / "killed")]) == 0, capsys.readouterr().err
    whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / "killed")
    for name in whole[0].keys() - {"seconds", "images_per_second"}:
        assert [row[name] for row in whole] == [row[name] for row in resumed], name
    assert result(tmp_path / "whole")["events"] == result(tmp_path / "killed")["events"]


def test_a_class_that_swallows_the_rest_is_called_out(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, capsys: pytest.CaptureFixture[str]
) -> None:
    swallow(lambda method, step: True)
    assert main(["train", str(data), *STEPS, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the teacher's mistakes confirm themselves") == 1
    (event,) = result(tmp_path / "out")["events"]
    assert "'class 0' makes up 100.0 % of the pseudo-labels" in event["alarm"]
    assert "back_to" not in event
    last = rows(tmp_path / "out")[-1]
    shares = json.loads((tmp_path / "out/health.jsonl").read_text().splitlines()[-1])
    assert shares["pseudo"] == [1, 0, 0]
    assert sum(shares["labeled"]) == pytest.approx(1)
    assert float(last["pseudo_distance"]) == pytest.approx(1 - shares["labeled"][0])
    assert len(shares["prototype_use"]) == 3


def test_a_class_that_disappears_is_called_out(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, capsys: pytest.CaptureFixture[str]
) -> None:
    swallow(lambda method, step: step >= 4, lambda label: label.where(label < 2, 0))
    assert main(["train", str(data), *STEPS, "--steps", "20", "--out", str(tmp_path / "out")]) == 0
    (event,) = result(tmp_path / "out")["events"]
    assert "'class 2' has disappeared from the pseudo-labels" in event["alarm"]
    assert event["step"] > 4
    assert capsys.readouterr().out.count("warning: step") == 1


def test_a_run_that_is_well_is_left_alone(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, capsys: pytest.CaptureFixture[str]
) -> None:
    """As long as the two above, and as soon judged."""
    swallow(lambda method, step: False)
    assert main(["train", str(data), *STEPS, "--steps", "20", "--on-collapse", "stop", "--out", str(tmp_path / "out")]) == 0
    assert result(tmp_path / "out")["events"] == []
    assert "warning: step" not in capsys.readouterr().out


def test_what_the_labels_hold_is_known_whatever_crops_are_drawn(data: Path, tmp_path: Path) -> None:
    """Rare classes are shown more often than they are; pseudo-labels are of crops as they come."""
    expected = None
    for words in ([], ["--views.rare_crops", "1", "--loss.balance", "0.5"]):
        out = tmp_path / f"out{len(words)}"
        short = ["--steps", "4", "--log-every", "4", "--consistency.align_shares", "true", "--prototypes.class_prior", "true"]
        assert main(["train", str(data), *STEPS, *short, *words, "--out", str(out)]) == 0
        (shares,) = (json.loads(line)["labeled"] for line in (out / "health.jsonl").read_text().splitlines())
        prior = load_model_file(out).tensors["prototypes.log_prior"].exp()
        assert prior.tolist() == pytest.approx(shares, rel=1e-5)
        expected = shares if expected is None else expected
        assert shares == expected


def test_rare_classes_of_a_binary_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All options for rare classes at once, on two classes, by a run that is well; and what it prints of its numbers."""
    data = make_folder(tmp_path / "data", train=6, labeled=3, test=1)
    words = ["--classes.merge", "{ground: [class 0], defect: [class 1, class 2]}", "--views.rare_crops", "0.5"]
    words += ["--loss.balance", "0.5", "--consistency.class_thresholds", "true", "--optimizer.warmup_steps", "3"]
    assert main(["train", str(data), *STEPS, *words, "--prototypes.delay", "2", "--out", str(tmp_path / "out")]) == 0
    assert result(tmp_path / "out")["iou"].keys() == {"ground", "defect"}
    assert result(tmp_path / "out")["events"] == []
    printed = " ".join(capsys.readouterr().out.split())
    assert "learning rate adamw, 5e-05 in the encoder and 10 times that elsewhere, rising over 3 steps" in printed
    assert "weights EMA of momentum 0.99874, which is scored; 1 step on labels before unlabelled images teach" in printed
    assert "prototypes start after 3 steps" in printed


def test_goes_back_with_a_higher_threshold(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, capsys: pytest.CaptureFixture[str]
) -> None:
    swallow(lambda method, step: method.threshold < 0.9)
    words = ["--consistency.threshold", "0.8", "--on-collapse", "rollback", "--out", str(tmp_path / "out")]
    assert main(["train", str(data), *STEPS, *words]) == 0, capsys.readouterr().err
    assert "with a threshold of 0.9" in capsys.readouterr().out
    (event,) = result(tmp_path / "out")["events"]
    assert event["threshold"] == pytest.approx(0.9)


@pytest.mark.parametrize(("every", "sick_from", "healthy"), [(2, 12, range(2, 13)), (10, 23, range(20, 21))])
def test_goes_back_to_the_last_healthy_checkpoint(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, monkeypatch: pytest.MonkeyPatch, every: int, sick_from: int, healthy: range
) -> None:
    """The first doubt comes five or six steps after the first sick one: at every second step, two checkpoints too late."""
    swallow(lambda method, step: step >= sick_from and method.threshold < 0.9)
    monkeypatch.setattr(health, "LASTING", 12)
    words = ["--steps", "36", "--checkpoint-every", str(every), "--consistency.threshold", "0.8", "--on-collapse", "rollback"]
    assert main(["train", str(data), *STEPS, *words, "--out", str(tmp_path / "out")]) == 0
    (event,) = result(tmp_path / "out")["events"]
    assert event["step"] > sick_from + 4 + 6
    assert event["back_to"] in healthy
    assert [path.name for path in (tmp_path / "out").glob("*.ckpt")] == ["last.ckpt"]


def write(folder: Path, way_back: WayBack, step: int) -> None:
    state = {"state_dict": {}, "global_step": step, "protoseg": {"health": way_back.health.state()}}
    save_state(state, way_back.last, keep=way_back.make_room())
    way_back.wrote()


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("every", [200, 128, 20])
def test_the_way_back_leads_to_the_newest_checkpoint_that_is_vouched_for(tmp_path: Path, every: int, resumed: bool) -> None:
    """Against a list of all checkpoints. Eight images a step, read at every tenth; a warm-up and two times of doubt."""
    monitor, written, found = HealthMonitor(["a", "b"], [1, 1]), [(-math.inf, 0)], set[int]()
    save_state({"state_dict": {}, "global_step": 0}, tmp_path / "previous.ckpt")
    way_back = WayBack(tmp_path, monitor)

    def back_to(kind: str) -> int:
        step: int = load_state(way_back.last_healthy(Alarm(kind, "", "threshold")))["global_step"]
        return step

    for step in range(1, 1400):
        monitor.images += 8 if step > 100 else 0
        if step % 10 == 0:
            shares = (1.0, 0.0) if 400 < step <= 600 or step > 1200 else (0.5, 0.5)
            monitor.judge(Health((0.5, 0.5), shares, monitor.images, math.nan, (), 0.0, 0))
        if step % every == 0:
            write(tmp_path, way_back, step)
            if monitor.since:  # whatever is not vouched for by now is lost
                written = [(images, at) for images, at in written if images <= monitor.clear - LASTING]
            written.append((math.nan if monitor.since else monitor.images or -math.inf, step))
            if resumed:
                monitor = HealthMonitor(["a", "b"], [1, 1])
                monitor.load(load_state(way_back.last)["protoseg"]["health"])
                way_back = WayBack(tmp_path, monitor)
        if step % 10 == 0:
            vouched = [at for images, at in written if images <= monitor.clear - LASTING]
            found.add(back_to("swallowed"))
            assert back_to("swallowed") in vouched
            assert vouched[-1] - back_to("swallowed") <= (0 if 8 * every >= LASTING else LASTING // 8 + 2 * every)
            if not math.isnan(written[-1][0]):
                assert back_to("loss") == written[-1][1]
    assert len(found) > 3
    assert {path.name for path in tmp_path.iterdir()} <= {"last.ckpt", "previous.ckpt", "waiting.ckpt"}


@pytest.mark.parametrize(
    ("remedy", "threshold", "changed"),
    [
        ("threshold", 0.8, {"threshold": pytest.approx(0.9)}),
        ("threshold", 0.98, {"lr_factor": 0.5}),  # nothing would be left to teach
        ("threshold", None, {"lr_factor": 0.5}),  # CorrMatch moves its own
        ("learning rate", 0.8, {"lr_factor": 0.5}),
    ],
)
def test_what_is_changed_for_the_next_try(
    tmp_path: Path, remedy: Literal["learning rate", "threshold"], threshold: float | None, changed: dict[str, float]
) -> None:
    optimizer = {"param_groups": [{"lr": 0.2}, {"lr": 2.0}]}
    own = {"events": [{"step": 1, "alarm": "dropped"}]}
    save_state(
        {"state_dict": {}, "global_step": 4, "optimizer_states": [optimizer], "protoseg": own}, tmp_path / "previous.ckpt"
    )
    way_back = WayBack(tmp_path, HealthMonitor(["a", "b"], [1, 1]))
    event = roll_back(way_back, Collapse(Alarm("swallowed", "told", remedy), 9), threshold=threshold)
    assert event == {"step": 9, "alarm": "told", "back_to": 4, **changed}
    for path in (way_back.previous, way_back.last):
        state = load_state(path)
        assert state["protoseg"]["events"] == [*own["events"], event]
        factor = changed.get("lr_factor", 1.0)
        assert [group["lr"] for group in state["optimizer_states"][0]["param_groups"]] == [factor * 0.2, factor * 2.0]


def test_stops_where_it_is_told_to(  # type: ignore[no-untyped-def]
    data: Path, tmp_path: Path, swallow, capsys: pytest.CaptureFixture[str]
) -> None:
    swallow(lambda method, step: True)
    assert main(["train", str(data), *STEPS, "--on-collapse", "stop", "--out", str(tmp_path / "out")]) == 1
    assert "stopped at step" in capsys.readouterr().err
    assert (tmp_path / "out/last.ckpt").is_file()
