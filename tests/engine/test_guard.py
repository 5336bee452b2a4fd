"""A step whose loss or gradient is no number changes nothing."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from make_folder import TINY, make_folder
from torch import Tensor, nn

from protoseg.cli import main
from protoseg.config import METHODS, method_class
from protoseg.engine.callbacks import MetricsLog
from protoseg.engine.guard import Guard, poisoned, voided
from protoseg.engine.module import Meter, TrainingModule
from protoseg.engine.resumable import load_state
from protoseg.functional.schedules import ema_momentum
from protoseg.methods import base
from protoseg.methods.base import Method
from protoseg.methods.lesson import Lesson
from protoseg.methods.prototype_term import PrototypeTerm
from protoseg.types import SegOutput

QUICK = ("prototype", "u2pl", "corrmatch", "cps")
MORE = [name for name in METHODS if method_class(name).uses_unlabeled and name not in {*QUICK, "self_training"}]
"""Self-training, which is two runs, has a loss like that of `fixmatch`."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, factor: float, guard: Guard | None) -> None:
    """One step whose loss is multiplied by a factor."""
    if guard is not None:
        guard.before_forward()
    optimizer.zero_grad()
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    poisoned(factor * net(image).square().mean()).backward()
    if guard is not None:
        guard.before_update()
    optimizer.step()
    if guard is not None:
        guard.after_update()


class WithoutAsking(Guard):
    """As on a GPU, where nobody asks how a step went."""

    def _is_well(self) -> bool:
        return False


@pytest.mark.parametrize("guarding", [Guard, WithoutAsking], ids=["cpu", "without asking"])
class TestGuard:
    def test_a_good_step_is_what_it_was(self, guarding: type[Guard]) -> None:
        guarded, plain = network(), network()
        guard = guarding([guarded])
        for net, its_guard in ((guarded, guard), (plain, None)):
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
            for _ in range(3):
                step(net, optimizer, 1.0, its_guard)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*map(tensors, (guarded, plain)), strict=True))
        assert not guard.bad

    @pytest.mark.parametrize("factor", [math.nan, math.inf, 1e38])
    def test_a_bad_step_changes_nothing(self, guarding: type[Guard], factor: float) -> None:
        net = network()
        guard, optimizer = guarding([net]), torch.optim.AdamW(net.parameters(), lr=0.1)
        step(net, optimizer, 1.0, guard)
        before = copy.deepcopy(tensors(net))
        for expected in (1, 2):
            step(net, optimizer, factor, guard)
            assert guard.in_a_row == expected
        assert all(torch.equal(now, then) for now, then in zip(tensors(net), before, strict=True))
        step(net, optimizer, 1.0, guard)
        assert guard.in_a_row == 0
        assert all(torch.isfinite(tensor).all() for tensor in tensors(net))
        assert not torch.equal(next(net.parameters()), before[0])

    def test_parameters_beside_the_networks_are_taken_back_too(self, guarding: type[Guard]) -> None:
        net, beside = network(), nn.Linear(2, 1)
        guard = guarding([net], [*net.parameters(), *beside.parameters()])
        optimizer = torch.optim.AdamW(guard.parameters, lr=0.1)
        before = copy.deepcopy(tensors(beside))
        guard.before_forward()
        poisoned(math.nan * beside(net(torch.randn(2, 3, 8, 8)).mean(dim=(2, 3))).sum()).backward()
        guard.before_update()
        optimizer.step()
        guard.after_update()
        assert guard.bad
        assert all(torch.equal(now, then) for now, then in zip(tensors(beside), before, strict=True))

    def test_one_number_of_one_gradient_is_enough(self, guarding: type[Guard]) -> None:
        net = network()
        guard = guarding([net])
        guard.before_forward()
        net(torch.randn(2, 3, 8, 8)).mean().backward()
        gradient = net[3].bias.grad
        assert gradient is not None
        gradient[1] = math.inf
        guard.before_update()
        assert guard.bad
        assert all((p.grad == 0).all() for p in net.parameters())

    def test_nobody_waits_for_the_device(self, guarding: type[Guard]) -> None:
        """Tensors of torch's device "meta" have no values that could be waited for: to read one is an error."""
        net = network().to("meta")
        guard, meter = guarding([net]), Meter()
        for _ in range(2):
            guard.before_forward()
            loss = net(torch.randn(2, 3, 8, 8, device="meta")).square().mean()
            meter.add({"loss": loss.detach()}, images=1)
            poisoned(loss).backward()
            guard.before_update()
            meter.count_bad("gradient", guard.bad)
            assert not meter.knows_of_bad("gradient")
            guard.after_update()
            voided((loss.detach(),), guard.bad)
        with pytest.raises(RuntimeError, match="meta"):
            int(guard.in_a_row)


def tensors(net: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]


@pytest.mark.parametrize("value", [3.0, math.inf, math.nan])
def test_poison_is_only_for_what_is_no_number(value: float) -> None:
    x = torch.tensor(2.0, requires_grad=True)
    loss = poisoned(x + value)
    loss.backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad)) == math.isfinite(value)
    if math.isfinite(value):
        assert (loss.item(), x.grad.item()) == (2 + value, 1)


def test_what_is_voided() -> None:
    class Part(NamedTuple):
        number: Tensor
        keep: Tensor
        none: None = None

    carry = (Part(torch.tensor([math.nan, 2]), torch.tensor([True, False])), [torch.tensor(3)], None)
    good, bad = (voided(carry, torch.tensor(flag)) for flag in (False, True))
    assert good[0].number.isnan().tolist() == [True, False]
    assert isinstance(bad[0], Part)
    assert (bad[0].number.tolist(), bad[0].keep.tolist(), bad[0].none, *bad[1:]) == ([0, 0], [False, False], None, [0], None)


def test_the_meter_averages_numbers_and_counts_the_rest() -> None:
    meter = Meter()
    for value in (1.0, math.nan, 3.0, -math.inf):
        meter.add({"loss": torch.tensor(value), "labeled": torch.tensor(1.0), "other": torch.tensor(math.nan)}, images=1)
    copied = Meter()
    copied.load(meter.state())
    for each in (meter, copied):
        assert [each.knows_of_bad(name) for name in ("loss", "labeled", "gradient")] == [True, False, False]
        means, bad = each.read()
        assert (means["loss"], means["labeled"]) == (2, 1)
        assert math.isnan(means["other"])
        assert bad == {"loss": 2, "other": 4}
        assert not each.knows_of_bad("loss")


class TestRun:
    @pytest.fixture
    def words(self, tmp_path: Path) -> list[str]:
        data = make_folder(tmp_path / "data", train=4, labeled=2, test=1)
        settings = ["--steps", "8", "--log-every", "4", "--consistency.warmup_steps", "1", "--consistency.align_shares"]
        return ["train", str(data), *TINY, *settings, "--out", str(tmp_path / "out")]

    @pytest.fixture
    def seen(self, monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Tensor]]:
        """The method's state before each step."""
        states: dict[int, dict[str, Tensor]] = {}
        start = TrainingModule.on_train_batch_start

        def note(self: TrainingModule, batch: Any, batch_idx: int) -> None:
            start(self, batch, batch_idx)
            states.setdefault(self.global_step, copy.deepcopy(self.method.state_dict()))

        monkeypatch.setattr(TrainingModule, "on_train_batch_start", note)
        return states

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_leaves_nothing_behind_and_is_named(  # type: ignore[no-untyped-def]
        self, words: list[str], seen, tmp_path: Path, accumulate: int, monkeypatch, capsys
    ) -> None:
        spoil(monkeypatch, step=5)
        assert main([*words, "--accumulate", str(accumulate)]) == 0
        (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert "step 8: 1 of the steps since the last log line were dropped: the loss 'labeled' was no number" in warning
        result = json.loads((tmp_path / "out/result.json").read_text())
        assert result["dropped_steps"] == 1
        assert "'labeled'" in result["events"][0]["alarm"]
        names = [name for name in seen[5] if not name.startswith("teacher.")]
        assert any("prototypes" in name for name in names)
        assert [name for name in names if not torch.equal(seen[5][name], seen[6][name])] == []
        assert any(not torch.equal(seen[6][name], seen[7][name]) for name in names)
        state = load_state(tmp_path / "out/last.ckpt")["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values())
        assert "nan" not in (tmp_path / "out/metrics.csv").read_text()

    @pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
    def test_whichever_loss_it_is(  # type: ignore[no-untyped-def]
        self, words: list[str], seen, name: str, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        """Every loss of a method in a step of its own, each after a step that is well."""
        method = method_class(name)
        by_network = ("labeled", "prototype_labeled", "prototype_consistency")
        terms = [f"{term}{network}" for network in method.trained_names for term in by_network]
        terms += [*method.labeled_weights, *method.unlabeled_weights]
        plan = {2 * (i + 1): term for i, term in enumerate(terms)}
        told = spoil_terms(monkeypatch, plan)
        steps = 2 * len(terms) + 2
        more = ["--method", name, "--prototypes.per_class", "2", "--consistency.class_thresholds", "--no-evaluate"]
        more += [
            "--consistency.threshold",
            "0.3",
            "--consistency.ema_momentum",
            "0.9",
            "--steps",
            str(steps),
            "--log-every",
            "1",
        ]
        assert main([*words, *more]) == 0

        assert told == set(terms)
        warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert [line.partition("; ")[0] for line in warnings] == [
            f"warning: step {step + 1}: 1 of the steps since the last log line were dropped: the loss {term!r} was no number"
            for step, term in plan.items()
        ]
        for step, term in plan.items():
            before, after = seen[step], seen[step + 1]
            for key in before:
                if key.startswith("teacher."):  # it follows the student, which has stayed
                    momentum = ema_momentum(step, momentum=0.9, start=1)
                    now = before[key.replace("teacher.network.", "student.")]
                    expected = torch.lerp(before[key], now, 1 - momentum) if now.is_floating_point() else now
                    torch.testing.assert_close(after[key], expected)
                elif key.startswith("snapshots."):  # the student that has stayed may be taken too
                    now = before[f"student.{key.partition('.network.')[2]}"]
                    assert torch.equal(after[key], before[key]) or torch.equal(after[key], now), (term, key)
                else:
                    assert torch.equal(after[key], before[key]), (term, key)
        parts = {key.partition(".")[0] for key in seen[1]}
        well = [(seen[step], seen[step + 1]) for step in range(1, steps - 1) if step not in plan]
        assert {"student", "teacher", "prototypes", "alignment", "class_thresholds"} <= parts
        for part in parts:
            keys = [key for key in seen[1] if key.partition(".")[0] == part]
            assert any(not torch.equal(before[key], after[key]) for before, after in well for key in keys), part

    @pytest.mark.parametrize("calls", [1, 1000], ids=["one batch", "every batch"])
    def test_no_start_without_numbers_reaches_a_prototype(  # type: ignore[no-untyped-def]
        self, words: list[str], seen, tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pass over labelled crops that comes before a step is no part of what is taken back with it."""
        start, passes = PrototypeTerm.start, [0]

        def forget(module: nn.Module, args: Any, out: SegOutput) -> SegOutput:
            passes[0] += 1
            return out if passes[0] > calls else out._replace(features=out.features * torch.nan)

        def spoilt(self: PrototypeTerm, network: nn.Module, labeled: Any, **options: Any) -> None:
            with network.register_forward_hook(forget):
                start(self, network, labeled, **options)

        monkeypatch.setattr(PrototypeTerm, "start", spoilt)
        assert main(words) == 0
        assert passes[0] > 1
        started = seen[1]  # the step that begins with the start
        assert bool(started["prototypes.head.ready"].any()) is (calls == 1)
        assert all(tensor.isfinite().all() for state in seen.values() for tensor in state.values())
        state = load_state(tmp_path / "out/last.ckpt")["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())
        assert any(state[name].all() for name in state if name.endswith("head.ready"))
        assert json.loads((tmp_path / "out/result.json").read_text())["dropped_steps"] == 0

    def test_a_gradient_is_named_too(self, words: list[str], tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
        class NoGradient(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Tensor) -> Tensor:
                return x.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient * torch.nan

        training_step = TrainingModule.training_step

        def spoilt(self: TrainingModule, batch: dict[str, Any], batch_idx: int) -> Tensor:
            loss = training_step(self, batch, batch_idx)
            return NoGradient.apply(loss) if self.global_step in {2, 3} else loss  # type: ignore[no-any-return]

        monkeypatch.setattr(TrainingModule, "training_step", spoilt)
        assert main(words) == 0
        assert "2 of the steps since the last log line were dropped: the gradient was no number" in capsys.readouterr().out

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_stops_where_it_is_told_to(  # type: ignore[no-untyped-def]
        self, words: list[str], tmp_path: Path, accumulate: int, monkeypatch, capsys
    ) -> None:
        spoil(monkeypatch, step=1)
        assert main([*words, "--on-collapse", "stop", "--accumulate", str(accumulate)]) == 1
        message = capsys.readouterr().err
        assert "stopped at step 2: 1 of the steps since the last log line were dropped" in message
        assert "the loss 'labeled' was no number" in message
        assert "--on-collapse continue" in message
        assert not (tmp_path / "out/result.json").exists()

    def test_stops_at_the_log_line_where_asking_would_cost(self, words: list[str], monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
        spoil(monkeypatch, step=1)
        monkeypatch.setattr(Meter, "knows_of_bad", lambda self, name: False)  # as on a GPU
        assert main([*words, "--on-collapse", "stop"]) == 1
        assert "stopped at step 4: 1 of the steps since the last log line were dropped" in capsys.readouterr().err


def spoil_terms(monkeypatch: pytest.MonkeyPatch, plan: Mapping[int, str]) -> set[str]:
    """Make one loss of some steps no number, all else of them being well, and say so in every such step.

    Returns:
        What will hold the names of all losses of the run.
    """
    forward, losses_of, dropped, told = Method.forward, base.prototype_losses, MetricsLog._dropped, set[str]()

    def spoilt_forward(self: Method, labeled: Any, unlabeled: Any = None, *, step: int) -> Any:
        term, learn = plan.get(step, ""), type(self).learn

        def spoilt_learn(self: Method, *args: Any, **options: Any) -> Lesson:
            lesson = learn(self, *args, **options)
            for network, each in zip(self.trained_names, (lesson, lesson.peer), strict=False):
                assert each is not None
                if term in each.terms:
                    each.terms[term] = each.terms[term] * torch.nan
                if term == f"labeled{network}":
                    each.labeled = each.labeled._replace(logits=each.labeled.logits * torch.nan)
            return lesson

        def spoilt_losses(prototypes: PrototypeTerm, *args: Any) -> Any:
            losses = losses_of(prototypes, *args)
            network = next(part.name for part in self.trained() if part.prototypes is prototypes)
            spoilt = {key: loss * torch.nan if f"{key}{network}" == term else loss for key, loss in losses.terms.items()}
            return losses._replace(terms=spoilt)

        with monkeypatch.context() as patch:
            patch.setattr(type(self), "learn", spoilt_learn)
            patch.setattr(base, "prototype_losses", spoilt_losses)
            out = forward(self, labeled, unlabeled, step=step)
        told.update(out.terms)
        assert [name for name, loss in out.terms.items() if not loss.isfinite()] == [term] * bool(term)
        return out

    def as_the_first(self: MetricsLog, bad: dict[str, int], module: TrainingModule, step: int) -> None:
        module.dropped = 0  # later ones are only counted
        dropped(self, bad, module, step)

    monkeypatch.setattr(Method, "forward", spoilt_forward)
    monkeypatch.setattr(MetricsLog, "_dropped", as_the_first)
    return told


def spoil(monkeypatch: pytest.MonkeyPatch, *, step: int) -> None:
    """Make the labelled loss of a step, of its first batch, no number."""
    forward, seen = Method.forward, set[int]()

    def spoilt(self: Method, labeled: Any, unlabeled: Any = None, *, step: int) -> Any:
        loss = self.labeled_loss
        if step == bad and step not in seen:
            self.labeled_loss = lambda logits, mask: loss(logits * torch.nan, mask)
        seen.add(step)
        try:
            return forward(self, labeled, unlabeled, step=step)
        finally:
            self.labeled_loss = loss

    bad = step
    monkeypatch.setattr(Method, "forward", spoilt)
