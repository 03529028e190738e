# SPDX-License-Identifier: Apache-2.0
"""What the driver's limits would have cut, had a policy been in command all along: by the driver's own limits.

Torque and its rate depend on the policy: each answer goes through Limits.cut after what was sent before it. Tilt,
speed and distance depend on the recorded states alone, and so are the same for every policy: Monitor.violations says
at which of them a commander would have lost the robot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from h2o_control.contract import FloatArray, Interface
from h2o_control.topics import ARMED, TORQUE
from h2o_training.figures import MODE_STYLE
from h2o_training.replay_answers import Answers, Place, Recorded
from h2o_training.replay_compare import at, style
from h2o_training.report import TableData
from wheel_leg_driver.estimator import Estimate
from wheel_leg_driver.limits import OFF, Limits, Monitor
from wheel_leg_driver.plant import SensorReadings
from wheel_leg_driver.protocol import Fault, Status, Telemetry

TORQUE_CAP, TORQUE_RATE = "torque", "torque rate"
#: Limits on the state: column of the state, and the field of Limits that holds the bound.
STATES = {"tilt": (2, "tilt_rad", "rad"), "speed": (1, "speed_mps", "m/s"), "distance": (0, "distance_m", "m")}
#: What a limit on the state is counted for.
ANYBODY = "anybody"
#: A frame of a robot in good health, with a battery that is full: only the state is judged here.
_SENSORS = SensorReadings(
    accel_mps2=(0.0, 0.0, 9.81),
    gyro_radps=(0.0, 0.0, 0.0),
    quaternion_wxyz=(1.0, 0.0, 0.0, 0.0),
    wheel_pos_rad=(0.0, 0.0),
    wheel_vel_radps=(0.0, 0.0),
    leg_pos_rad=(0.0, 0.0, 0.0, 0.0),
    leg_vel_radps=(0.0, 0.0, 0.0, 0.0),
    battery_v=math.inf,
    temperatures_c=(0.0, 0.0, 0.0),
)
_HEALTHY = Telemetry(0, 0, 0, _SENSORS, (0.0, 0.0), Status.ARMED, Fault(0))


@dataclass(frozen=True)
class Cut:
    """One limit over all steps of an armed robot.

    Attributes:
        policy: whose answers, or ANYBODY for limits on the state.
        limit: name; bounds: its values in the episodes, in `unit`; off: in none of them it does anything.
        steps: at which it cuts or ends the command; of: steps looked at.
        rms_nm: of the torque that is cut away at these steps; NaN for limits on the state.
        first, worst: where first and most, None where nowhere; worst_value: in `unit`, what it was there.
        rows: of the bag's states, where.
    """

    policy: str
    limit: str
    bounds: tuple[float, ...]
    unit: str
    off: bool
    steps: int
    of: int
    rms_nm: float
    first: Place | None
    worst: Place | None
    worst_value: float
    rows: Any

    @property
    def share(self) -> float:
        """Of the steps looked at."""
        return self.steps / self.of if self.of else 0.0


def find_cuts(
    recorded: Recorded, answers: Sequence[Answers], limits: Sequence[Limits], interface: Interface
) -> list[Cut]:
    """Look at every step of an armed robot; `limits` are those of each episode."""
    cuts = [cut for answer in answers for cut in _torque_cuts(recorded, answer, limits, interface)]
    return cuts + _state_cuts(recorded, limits)


def sent_nm(recorded: Recorded, answer: Answers, limits: Sequence[Limits], interface: Interface) -> FloatArray:
    """Return the common torque [n] that the driver would send for each answer, steering left out; NaN where none.

    Where another commanded before, its torque is what the rate counts from, as far as it is known.
    """
    sent = np.full(len(recorded), np.nan)
    wanted = np.where(np.isin(recorded.modes, ARMED), answer.torque_nm, np.nan)
    for number, of_episode in enumerate(limits):
        last = math.nan
        rows = recorded.rows(number)
        for row in range(rows.start, rows.stop):
            torque = float(wanted[row])
            if math.isfinite(torque):
                before = torque if math.isnan(last) else last
                sent[row], _ = of_episode.cut((torque, torque), (before, before), interface)
                last = float(sent[row])
            else:
                last = float(recorded.executed_nm[row])
    return sent


def cut_table(cuts: Sequence[Cut], source: str) -> TableData:
    """One row a limit; `source` says whose limits these are."""
    rows = []
    for c in cuts:
        bound = ", ".join(f"{value:g}" for value in c.bounds) + f" {c.unit}"
        first = f"{c.first.time_s:.2f}" if c.first else "–"
        worst = [f"{c.worst_value:.2f}", f"{c.worst.time_s:.2f}"] if c.worst else ["–", "–"]
        rows.append([_row(c), bound, "off" if c.off else str(c.steps), f"{100 * c.share:.2f} %", first, *worst])
    steps = ", ".join(dict.fromkeys(str(c.of) for c in cuts))
    places = [
        f"{_row(c)} at {at(c.worst)} ({MODE_STYLE[c.worst.mode][1]}; x, v, θ, θ̇ "
        f"{', '.join(f'{value:+.2f}' for value in c.worst.state)})"
        for c in cuts
        if c.worst
    ]
    note = (
        f"{source} Torque and torque rate: answers that the driver would have cut; worst: the torque asked for, and "
        "what the rate cuts away. Tilt, speed, distance: recorded states at which a policy in command would have lost "
        f"the robot, whoever commanded then. Of {steps} steps while the robot was armed; steering is left out. "
    )
    if places:
        note += f"Worst: {'; '.join(places)}."
    columns = ["limit", "bound", "steps", "share", "first at (s)", "worst", "at (s)"]
    return TableData("What the driver's limits would have cut", columns, rows, note)


def cut_figure(recorded: Recorded, cuts: Sequence[Cut]) -> Any | None:
    """Draw when each limit cuts, one row a limit and policy; None where none does."""
    hit = [c for c in cuts if c.steps]
    if not hit:
        return None
    figure = go.Figure()
    time_s = (recorded.stamp_ns - recorded.stamp_ns[0]) * 1e-9
    for c in hit:
        figure.add_trace(
            go.Scatter(
                x=time_s[c.rows].astype(np.float32),
                y=[_row(c)] * len(c.rows),
                mode="markers",
                showlegend=False,
                marker={"symbol": "line-ns", "size": 14, "line": {"width": 1, "color": "#b8323a"}},
                customdata=[
                    f"{recorded.place(int(r)).time_s:.3f} s of {recorded.place(int(r)).episode}" for r in c.rows
                ],
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(
        title_text="time since the bag's first state (s)",
        range=[0, float(time_s[-1]) or 1.0],
        gridcolor="rgba(0,0,0,0.09)",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return style(figure, 140 + 40 * len(hit))


def to_json(cuts: Sequence[Cut]) -> list[dict[str, Any]]:
    """Return all numbers, JSON-ready."""
    return [
        {
            **{k: v for k, v in vars(c).items() if k not in ("rows", "first", "worst", "bounds")},
            "bounds": list(c.bounds),
            "share": c.share,
            "first": vars(c.first) if c.first else None,
            "worst": vars(c.worst) if c.worst else None,
        }
        for c in cuts
    ]


def _torque_cuts(recorded: Recorded, answer: Answers, limits: Sequence[Limits], interface: Interface) -> list[Cut]:
    sent = sent_nm(recorded, answer, limits, interface)
    looked = np.isfinite(sent)
    caps = np.array([of_episode.largest_nm(interface) for of_episode in limits])[recorded.episode]
    wanted = answer.torque_nm
    capped = np.clip(wanted, -caps, caps)
    return [
        _cut(
            recorded,
            *(answer.name, TORQUE_CAP, _bounds(caps), "Nm", False, looked),
            away=np.where(looked, np.abs(wanted - capped), 0.0),
            value=np.abs(wanted),
        ),
        _cut(
            recorded,
            *(answer.name, TORQUE_RATE, _bounds([li.torque_rate_nmps for li in limits]), "Nm/s", False, looked),
            away=np.where(looked, np.abs(capped - sent), 0.0),
            value=np.abs(capped - sent),
        ),
    ]


def _state_cuts(recorded: Recorded, limits: Sequence[Limits]) -> list[Cut]:
    armed = np.isin(recorded.modes, ARMED)
    hit = {name: np.zeros(len(recorded), dtype=np.bool_) for name in STATES}
    for number, of_episode in enumerate(limits):
        monitor, rows = Monitor(of_episode), recorded.rows(number)
        for row in rows.start + np.flatnonzero(armed[rows]):
            x, v, theta, theta_dot = map(float, recorded.states[row])
            for violation in monitor.violations(_HEALTHY, Estimate(x, v, theta, theta_dot, 0.0, 0.0), TORQUE, 0.0):
                if violation.limit in hit:
                    hit[violation.limit][row] = True
    found = []
    for name, (column, bound, unit) in STATES.items():
        size = np.abs(recorded.states[:, column])
        off = all(getattr(li, f"{name}_action") == OFF for li in limits)
        bounds = _bounds([getattr(li, bound) for li in limits])
        found.append(_cut(recorded, ANYBODY, name, bounds, unit, off, armed, np.where(hit[name], size, 0.0), size))
    return found


def _cut(
    recorded: Recorded,
    policy: str,
    limit: str,
    bounds: tuple[float, ...],
    unit: str,
    off: bool,
    looked: Any,
    away: FloatArray,
    value: FloatArray,
) -> Cut:
    """Sum up; `away` [n] is how much is cut, `value` [n] what is listed of the worst."""
    rows = np.flatnonzero(away > 1e-9)
    worst = int(away.argmax()) if len(rows) else -1
    return Cut(
        policy=policy,
        limit=limit,
        bounds=bounds,
        unit=unit,
        off=off,
        steps=len(rows),
        of=int(looked.sum()),
        rms_nm=float(np.sqrt(np.mean(away[rows] ** 2))) if len(rows) and policy != ANYBODY else math.nan,
        first=recorded.place(int(rows[0])) if len(rows) else None,
        worst=recorded.place(worst) if len(rows) else None,
        worst_value=float(value[worst]) if len(rows) else math.nan,
        rows=rows,
    )


def _bounds(values: Any) -> tuple[float, ...]:
    return tuple(sorted({float(value) for value in values}))


def _row(c: Cut) -> str:
    return c.limit if c.policy == ANYBODY else f"{c.policy}: {c.limit}"
