# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from h2o_control.clock import ClockMap


def mapped(device_s: np.ndarray, host_s: np.ndarray) -> np.ndarray:
    clock = ClockMap()
    return np.array([clock.to_host(round(d * 1e6), h) for d, h in zip(device_s, host_s, strict=True)])


def test_jitter_of_the_link_does_not_reach_the_stamps() -> None:
    rng = np.random.default_rng(0)
    device = np.arange(2000) * 0.005
    stamps = mapped(device, 100.0 + device + rng.exponential(0.002, 2000))
    assert np.abs(np.diff(stamps) - 0.005).max() <= 0.005 * 0.0501
    assert np.abs(stamps[400:] - (100.0 + device[400:])).max() < 0.001


def test_drift_is_followed() -> None:
    device = np.arange(12000) * 0.005
    host = 50.0 + device * (1 + 100e-6)
    assert np.abs(mapped(device, host) - host).max() < 0.001


def test_a_host_that_stalled_gets_even_stamps_and_is_caught_up_with() -> None:
    device = np.arange(2000) * 0.005
    host = 10.0 + device + np.where(device > 4.0, 0.03, 0.0)
    stamps = mapped(device, host)
    assert np.diff(stamps).max() <= 0.005 * 1.0501
    later = device > 5.2
    assert np.abs(stamps[later] - host[later]).max() < 0.001


def test_a_restarted_device_starts_anew() -> None:
    clock = ClockMap()
    clock.to_host(90_000_000, 200.0)
    assert clock.to_host(0, 201.0) == 201.0
