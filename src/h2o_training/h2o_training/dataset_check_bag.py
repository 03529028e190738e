# SPDX-License-Identifier: Apache-2.0
"""Defects of a recording: what is missing in an episode, what is no number, and clocks that part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from h2o_control.bag_reader import Episode, nearest_index
from h2o_control.contract import FloatArray, Interface
from h2o_control.topics import FAULT
from h2o_training.dataset import BoolArray
from h2o_training.dataset_build import (
    COMMAND_GAP_NS,
    DEVICE_TOLERANCE,
    SEQUENCES,
    STEP_TOLERANCE,
    has_device_time,
    known_modes,
)
from h2o_training.dataset_check_rules import Tally

#: Frames missing in a row for longer than this are a gap (the recorder stopped, the link was down), not drops.
OUTAGE_S = 0.5
#: Stamps are mapped from the device's clock with steps within 5 % of the true ones; this is beyond.
SLIP = 0.1
#: States at the beginning and the end of an episode that may be incomplete in a healthy recording.
EDGE = 2
#: The drift is told from this much device time on, us.
LEAST_DEVICE_US = 5_000_000


def check_episode(episode: Episode, interface: Interface, where: str, tally: Tally) -> None:
    """Count gaps, drops, incomplete states, what is no number, and slips of the clocks in one episode."""
    dt, stamps = interface.dt_s, episode.stamp_ns
    n = len(stamps)
    if n == 0:
        return
    step_ns = np.diff(stamps)
    time_s = (stamps - stamps[0]) * 1e-9
    missing: FloatArray = np.zeros(max(0, n - 1))
    if has_device_time(episode):
        missing = _check_frames(episode, dt, step_ns, time_s, where, tally)
        join_ns = 0
    else:
        join_ns = int(STEP_TOLERANCE * 1e9 * dt)
        far = step_ns > 1.5e9 * dt
        missing[far] = step_ns[far] * 1e-9 / dt - 1
        uneven = ~far & (np.abs(step_ns - 1e9 * dt) > STEP_TOLERANCE * 1e9 * dt)
        places = [f"step of {step_ns[k] * 1e-6:.2f} ms at {time_s[k]:.2f} s in {where}" for k in np.flatnonzero(uneven)]
        tally.add("clock", int(uneven.sum()), n - 1, *places)
    outage = missing * dt > (OUTAGE_S if has_device_time(episode) else 0.0)
    places = [f"{missing[k] * dt:.2f} s at {time_s[k]:.2f} s in {where}" for k in np.flatnonzero(outage)]
    tally.add("gaps", float(missing[outage].sum() * dt), time_s[-1] + dt, *places)
    if has_device_time(episode):
        lost = np.flatnonzero(~outage & (missing > 0))
        places = [f"{missing[k]:.0f} at {time_s[k]:.2f} s in {where}" for k in lost]
        tally.add("drops", float(missing[lost].sum()), n + float(missing[lost].sum()), *places)
    unknown = {
        "executed torque": nearest_index(episode.executed.stamp_ns, stamps, join_ns) < 0,
        "mode": (known_modes(episode) == "") & ~_near_fault(episode),
    }
    if has_device_time(episode):
        unknown["device time"] = episode.sequence < 0
    for mask in unknown.values():
        # Recording begins and ends somewhere within a frame.
        mask[:EDGE], mask[-EDGE:] = False, False
    places = [f"{name} of {mask.sum()} in {where}" for name, mask in unknown.items() if mask.any()]
    tally.add("incomplete", int(np.any(list(unknown.values()), axis=0).sum()), n, *places)
    for name, values in (("state", episode.states), ("executed torque", episode.executed.torque_nm)):
        bad = ~np.isfinite(values).all(axis=1)
        tally.add("not a number", int(bad.sum()), len(values), f"{bad.sum()} of {name} in {where}")


def _near_fault(episode: Episode) -> BoolArray:
    """Tell of each state whether it lies within COMMAND_GAP_NS of a fault, when no command may answer it."""
    faults = np.array([c.stamp_ns for c in episode.mode_changes if c.mode == FAULT], dtype=np.int64)
    heard_ns = episode.received_ns if len(episode.received_ns) else episode.stamp_ns
    near: BoolArray = (np.abs(heard_ns[:, None] - faults) <= COMMAND_GAP_NS).any(axis=1)
    return near


def _check_frames(
    episode: Episode, dt_s: float, step_ns: NDArray[np.int64], time_s: FloatArray, where: str, tally: Tally
) -> FloatArray:
    """Count restarts, slips and drift; returns how many frames are missing between neighbours [n - 1]."""
    known = (episode.sequence[1:] >= 0) & (episode.sequence[:-1] >= 0)
    ahead = np.diff(episode.sequence) % SEQUENCES
    device_us = np.diff(episode.device_us)
    back = known & ((ahead > SEQUENCES // 2) | (device_us < 0))
    tally.add("restarts", int(back.sum()), 0, *(f"at {time_s[k]:.2f} s in {where}" for k in np.flatnonzero(back)))
    forward = known & ~back & (ahead > 0)
    slipped = forward & (np.abs(step_ns - 1e3 * device_us) > SLIP * 1e9 * dt_s * np.maximum(ahead, 1))
    uneven = forward & (ahead == 1) & (np.abs(device_us - 1e6 * dt_s) > DEVICE_TOLERANCE * 1e6 * dt_s)
    bad: BoolArray = slipped | uneven
    places = [
        f"{step_ns[k] * 1e-6:.2f} ms here, {device_us[k] * 1e-3:.2f} ms there at {time_s[k]:.2f} s in {where}"
        for k in np.flatnonzero(bad)
    ]
    tally.add("clock", int(bad.sum()), int(forward.sum()), *places)
    even = forward & ~bad
    if device_us[even].sum() >= LEAST_DEVICE_US:
        drift = abs(float(step_ns[even].sum()) / (1e3 * float(device_us[even].sum())) - 1.0)
        tally.worst("drift", drift, where)
    # Where the device time of a state is lost, its stamp tells whether more is.
    by_stamp = np.maximum(0.0, np.rint(step_ns * 1e-9 / dt_s) - 1)
    return np.where(forward, np.maximum(ahead - 1.0, 0.0), np.where(known, 0.0, by_stamp))
