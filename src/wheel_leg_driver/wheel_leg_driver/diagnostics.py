# SPDX-License-Identifier: Apache-2.0
"""What the driver says about itself on /diagnostics: one status a subject, each with a level."""

from __future__ import annotations

import math

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from h2o_control import topics
from h2o_control.clock import ClockMap
from wheel_leg_driver.backend import Backend
from wheel_leg_driver.core import DriverCore, describe
from wheel_leg_driver.protocol import Telemetry
from wheel_leg_driver.timing import Timing

OK, WARN, ERROR, STALE = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE)


def status(level: bytes, name: str, message: str, hardware: str, values: dict[str, object]) -> DiagnosticStatus:
    """Build one status; values become text."""
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware, values=pairs)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items()) or "none"


class Reporter:
    """Builds the driver's statuses; rates are those since the last report."""

    def __init__(self) -> None:
        self._last = (0.0, 0, 0)

    def report(
        self,
        now_s: float,
        core: DriverCore,
        timing: Timing,
        clock: ClockMap,
        link: Backend | None,
        telemetry: Telemetry | None,
        publishers: list[str],
    ) -> DiagnosticArray:
        """Describe the driver now.

        Args:
            now_s: monotonic time.
            core: the driver's, as the next two.
            timing: ages and losses.
            clock: the device's, mapped.
            link: None while there is no connection.
            telemetry: the newest, None before the first.
            publishers: names of those who publish torque.
        """
        before_s, ticks, errors = self._last
        now_errors = link.frame_errors if link else 0
        self._last = (now_s, timing.ticks, now_errors)
        rate = (timing.ticks - ticks) / max(1e-3, now_s - before_s)
        name = core.robot.name
        level = ERROR if core.mode == topics.FAULT else WARN if core.mode == topics.HOLD else OK
        statuses = [
            status(
                STALE if link is None or not rate else level,
                "driver",
                f"{core.mode}: {core.reason}",
                name,
                {
                    "mode": core.mode,
                    "reason": core.reason,
                    "hand-backs": core.hand_backs,
                    "torques rejected": core.commands_rejected,
                    "torques refused from others": _listed(core.intruders),
                    "publishers of torque": ", ".join(publishers) or "none",
                    "pitch trim (rad)": f"{core.trim_rad:.4f}",
                    "gyro bias, pitch (rad/s)": f"{core.estimator.gyro_bias_radps[1]:.4f}",
                    "height of hips (m)": f"{core.posture.height_m:.3f}",
                },
            ),
            status(
                STALE if link is None else WARN if now_errors > errors else OK,
                "driver: link",
                "no connection" if link is None else f"{rate:.0f} frames/s",
                name,
                {
                    "telemetry rate (Hz)": f"{rate:.0f}",
                    "frame errors": now_errors,
                    "last frame error": link.last_error if link else "",
                    "frames lost": timing.lost_frames,
                    "frames skipped": timing.skipped_frames,
                    "commands dropped": link.dropped_commands if link else 0,
                    "clock drift (ppm)": f"{clock.drift_ppm:.0f}",
                },
            ),
            status(
                OK,
                "driver: timing",
                f"read to write, median {timing.loop.percentile(50) * 1e3:.2f} ms",
                name,
                {
                    "ticks": timing.ticks,
                    "deadline misses": timing.deadline_misses,
                    **{
                        f"{key}, {text} (ms)": f"{found * 1e3:.3f}"
                        for key, histogram in timing.histograms.items()
                        for text, found in (("median", histogram.percentile(50)), ("max", histogram.max_s))
                    },
                    **{f"{key} histogram (ms)": histogram.to_text() for key, histogram in timing.histograms.items()},
                },
            ),
            status(
                OK,
                "driver: limits",
                _listed(core.monitor.hits),
                name,
                {
                    **{f"{key} hit": count for key, count in core.monitor.hits.items()},
                    "switched off": ", ".join(core.limits.switched_off) or "none",
                },
            ),
        ]
        if telemetry is not None:
            statuses.append(self._power(telemetry, core))
        return DiagnosticArray(status=statuses)

    def _power(self, telemetry: Telemetry, core: DriverCore) -> DiagnosticStatus:
        volts, hot = telemetry.sensors.battery_v, telemetry.sensors.temperatures_c
        low = volts < core.limits.voltage_v or max(hot) > core.limits.temperature_c
        return status(
            ERROR if telemetry.faults else WARN if low else OK,
            "driver: power",
            f"{volts:.1f} V, {max(hot):.0f} °C" if math.isfinite(volts) else "no voltage",
            core.robot.name,
            {
                "battery (V)": f"{volts:.2f}",
                "left motor (°C)": f"{hot[0]:.1f}",
                "right motor (°C)": f"{hot[1]:.1f}",
                "board (°C)": f"{hot[2]:.1f}",
                "firmware faults": describe(telemetry.faults) or "none",
            },
        )
