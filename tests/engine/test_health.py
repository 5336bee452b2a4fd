"""Running shares and the alarms that they raise: each one provoked, and none on a run that is well."""

from __future__ import annotations

import math

import pytest
import torch

from protoseg.engine.health import HORIZON, LASTING, LOST, Health, HealthMonitor
from protoseg.types import Vitals

NAMES = ("road", "sign", "sky")
LABELED = (600, 50, 350)


def batch(*pseudo: int, use: list[list[int]] | None = None, agreeing: int = 0, compared: int = 0) -> Vitals:
    counts = torch.tensor(pseudo) if pseudo else None
    scalars = (torch.tensor(agreeing), torch.tensor(compared)) if compared else (None, None)
    return Vitals(counts, *scalars, None if use is None else torch.tensor(use))


def monitor_after(images: int, *pseudo: int) -> HealthMonitor:
    monitor = HealthMonitor(NAMES, LABELED)
    go_on(monitor, images, *pseudo)
    return monitor


def go_on(monitor: HealthMonitor, images: int, *pseudo: int) -> list[str]:
    """Kinds of the alarms that so many more images raise, judged at every eighth."""
    kinds: list[str] = []
    for _ in range(images // 8):
        monitor.add(batch(*pseudo), images=8)
        kinds += [alarm.kind for alarm in monitor.judge(monitor.read(lost=0, ema_distance=0.0))]
    return kinds


def test_shares() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    shares = []
    for i in range(5):
        pseudo = torch.tensor([60 + i, 5, 30 - i])
        shares.append(pseudo / pseudo.sum())
        monitor.add(Vitals(pseudo), images=8)
    expected = shares[0]
    for share in shares[1:]:
        expected = expected + 8 / HORIZON * (share - expected)
    health = monitor.read(lost=0, ema_distance=0.25)
    assert health.pseudo == pytest.approx(expected.tolist())
    assert health.labeled == pytest.approx((0.6, 0.05, 0.35))
    assert (health.images, health.ema_distance, health.lost) == (40, 0.25, 0)
    assert health.distance == pytest.approx(sum(abs(a - b) for a, b in zip(health.labeled, expected.tolist(), strict=True)) / 2)


def test_agreement_is_of_the_steps_since_the_last_reading() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    monitor.add(batch(1, 1, 1, agreeing=3, compared=4), images=8)
    monitor.add(batch(1, 1, 1, agreeing=1, compared=4), images=8)
    assert monitor.read(lost=0, ema_distance=0.0).agreement == 0.5
    monitor.add(batch(1, 1, 1, agreeing=4, compared=4), images=8)
    assert monitor.read(lost=0, ema_distance=0.0).agreement == 1
    assert math.isnan(monitor.read(lost=0, ema_distance=0.0).agreement)


def test_use_of_prototypes() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    monitor.add(batch(1, 1, 1, use=[[5, 5], [10, 0], [0, 0]]), images=8)  # the third class has not been seen
    health = monitor.read(lost=0, ema_distance=0.0)
    assert health.prototype_use[:2] == ((0.5, 0.5), (1.0, 0.0))
    assert health.prototype_entropy == pytest.approx(0.5)
    assert health.dead_prototypes == pytest.approx(0.25)


def test_prototypes_are_used_without_pseudo_labels_too() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    monitor.add(batch(use=[[1, 3], [2, 2], [4, 0]]), images=4)
    health = monitor.read(lost=0, ema_distance=0.0)
    assert health.prototype_use == ((0.25, 0.75), (0.5, 0.5), (1.0, 0.0))
    assert health.images == 0


def test_without_pseudo_labels_there_is_little_to_say() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    monitor.add(batch(), images=0)
    health = monitor.read(lost=0, ema_distance=0.1)
    assert health.scalars() == {"ema_distance": 0.1}
    assert monitor.judge(health) == []


def test_a_run_that_is_well_raises_nothing() -> None:
    torch.manual_seed(0)
    monitor = HealthMonitor(NAMES, LABELED)
    for step in range(2000):
        noise = torch.rand(3) * 0.6 + 0.7
        rare = 0.1 + 0.9 * min(1.0, step / 500)  # a rare class that a young teacher seldom dares to name
        pseudo = (torch.tensor(LABELED) * torch.tensor([1.0, rare, 1.0]) * noise * 10).long()
        if step % 3:
            pseudo[1] = 0  # not in every batch
        monitor.add(Vitals(pseudo), images=4)
        assert monitor.judge(monitor.read(lost=0, ema_distance=0.01)) == []


def test_one_class_swallows_the_rest() -> None:
    monitor = monitor_after(HORIZON, *LABELED)
    assert go_on(monitor, 12 * HORIZON, 1000, 0, 0) == ["swallowed"]  # once
    alarm = monitor_alarm(monitor)
    assert "'road' makes up" in alarm.text
    assert "60.0 % of the labels" in alarm.text
    assert alarm.remedy == "threshold"


def monitor_alarm(monitor: HealthMonitor):  # type: ignore[no-untyped-def]
    monitor.raised.clear()
    return monitor.judge(monitor.read(lost=0, ema_distance=0.0))[0]


def test_a_young_teacher_has_time() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    assert go_on(monitor, LASTING, 1000, 0, 0) == []
    assert go_on(monitor, 4 * HORIZON, *LABELED) == []  # it has learned: nothing is counted any more
    assert monitor.since == {}


def test_a_class_disappears() -> None:
    monitor = monitor_after(2 * HORIZON, *LABELED)
    assert go_on(monitor, 12 * HORIZON, 640, 0, 360) == ["disappeared: sign"]
    alarm = monitor_alarm(monitor)
    assert "'sign' has disappeared" in alarm.text
    assert "5.00 % of the labels" in alarm.text


def test_a_class_that_never_was_there_has_not_disappeared() -> None:
    assert go_on(HealthMonitor(NAMES, LABELED), 16 * HORIZON, 640, 0, 360) == []


def test_many_steps_without_numbers() -> None:
    monitor = monitor_after(8, *LABELED)
    assert monitor.judge(monitor.read(lost=LOST - 1, ema_distance=0.0)) == []
    health: Health = monitor.read(lost=LOST, ema_distance=0.0)
    (alarm,) = monitor.judge(health)
    assert (alarm.kind, alarm.remedy) == ("loss", "learning rate")
    assert "too high a learning rate" in alarm.text


def test_a_reading_vouches_for_what_it_looks_back_past() -> None:
    """Whatever goes wrong at once is seen within LASTING images."""
    for sick in ((1000, 0, 0), (640, 0, 360)):
        monitor = monitor_after(4 * HORIZON, *LABELED)
        written = monitor.written_now()
        assert not monitor.vouches_for(written)
        while monitor.since == {}:
            go_on(monitor, 8, *sick)
        assert monitor.images - written <= LASTING
        assert not monitor.vouches_for(written + 8)
        assert math.isnan(monitor.written_now())
    go_on(monitor, LASTING + HORIZON, *LABELED)
    assert monitor.vouches_for(written)


def test_before_there_are_pseudo_labels_every_checkpoint_is_healthy() -> None:
    monitor = HealthMonitor(NAMES, LABELED)
    assert monitor.vouches_for(monitor.written_now())


def test_state_round_trip() -> None:
    monitor = monitor_after(2 * HORIZON, *LABELED)
    go_on(monitor, 2 * HORIZON, 1000, 0, 0)
    copied = HealthMonitor(NAMES, LABELED)
    copied.load(monitor.state())
    assert copied.clear == monitor.clear > 0
    assert go_on(copied, 8 * HORIZON, 1000, 0, 0) == go_on(monitor, 8 * HORIZON, 1000, 0, 0) == ["swallowed"]
    assert copied.read(lost=0, ema_distance=0.0).pseudo == monitor.read(lost=0, ema_distance=0.0).pseudo
