"""Learning-rate and EMA schedules at their ends and in between."""

from __future__ import annotations

import math

import pytest

from protoseg.functional.schedules import ema_momentum, poly, sigmoid_rampup, triangle


@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_poly_endpoints(power: float) -> None:
    assert poly(0, 100, power=power) == 1.0
    assert poly(100, 100, power=power) == 0.0
    assert poly(150, 100, power=power) == 0.0


@pytest.mark.parametrize("step", [1, 17, 99])
def test_poly_is_the_formula(step: int) -> None:
    assert poly(step, 100) == pytest.approx((1 - step / 100) ** 0.9)


def test_poly_falls() -> None:
    factors = [poly(step, 50) for step in range(51)]
    assert factors == sorted(factors, reverse=True)
    assert len(set(factors)) == 51


def test_warmup_rises_to_the_curve() -> None:
    ramp = [poly(step, 1000, warmup=10) / poly(step, 1000) for step in range(12)]
    assert ramp == pytest.approx([(step + 1) / 11 for step in range(11)] + [1.0])


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (4, 0.0), (5, 0.0), (6, 1 / 2), (7, 2 / 3), (14, 0.9), (103, 0.98989899)]
)
def test_momentum_is_a_running_mean_first(step: int, expected: float) -> None:
    assert ema_momentum(step, momentum=0.99, start=5) == pytest.approx(expected)


def test_momentum_stops_at_its_limit() -> None:
    assert ema_momentum(104, momentum=0.99, start=5) == pytest.approx(0.99)
    assert ema_momentum(100_000, momentum=0.99) == 0.99
    assert ema_momentum(3, momentum=0.5) == 0.5
    assert ema_momentum(7, momentum=0.0) == 0.0


def test_ramp_averages_all_students() -> None:
    teacher, students = 100.0, [3.0, 5.0, -2.0, 8.0]
    for step, student in enumerate(students):
        m = ema_momentum(step)
        teacher = m * teacher + (1 - m) * student
    assert teacher == pytest.approx(sum(students) / len(students))


def test_sigmoid_rampup_is_the_formula() -> None:
    assert [sigmoid_rampup(step, 4) for step in range(6)] == pytest.approx(
        [math.exp(-5), math.exp(-5 * 0.75**2), math.exp(-5 * 0.5**2), math.exp(-5 * 0.25**2), 1.0, 1.0]
    )
    assert sigmoid_rampup(0, 0) == 1.0


@pytest.mark.parametrize("length", [1, 2, 10, 11])
def test_triangle(length: int) -> None:
    """As large as the way from the middle of the step to the nearer end, which is 1 at the middle."""
    for step in range(length):
        middle = step + 0.5
        assert triangle(step, length) == pytest.approx(min(middle, length - middle) / (length / 2))
    assert triangle(length, length) == triangle(length + 5, length) == triangle(0, 0) == 0
