# SPDX-License-Identifier: Apache-2.0
"""Motors and sensors of a batch of simulated robots, each with its own imperfections (effects.py), in torch.

What MujocoPlant does to one robot a millisecond at a time is done here to N robots a control step at a time, exactly:
delays of any length, filters solved in closed form. An effect that no robot has costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from h2o_training.effects import Effects
from wheel_leg_driver.sagittal import given

#: Values of parameters by name: a float for all robots, or a tensor [N] with one value a robot.
Values = Mapping[str, Any]
#: (v̇, θ̈) [N] of robots at (v, θ, θ̇) [N] under produced torques [N].
Acceleration = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
#: Time constants in the order of the filtered signals.
LAGS = ("pitch_lag_s", "gyro_lag_s", "velocity_lag_s")
#: Names and neutral values of the effects that are the sensors'.
SENSOR_EFFECTS = {
    name: getattr(Effects(), name)
    for name in (
        *LAGS,
        *("pitch_bias_rad", "pitch_noise_rad", "gyro_scale", "gyro_bias_radps", "gyro_noise_radps"),
        *("observation_delay_s", "encoder_step_rad", "velocity_noise_mps", "odometry_scale", "odometry_pitch"),
    )
}


class Actuators:
    """Torque motors: u becomes k_t·sign(u)·max(|u| − d, 0), delayed, then low-passed.

    Args:
        values: parameters.
        dt_s: control step.
        zeros: [N], of the dtype and on the device of everything here.
        longest_delay_s: that `values` may ever hold.
    """

    def __init__(self, values: Values, dt_s: float, zeros: Tensor, longest_delay_s: float) -> None:
        self._dt_s, self._zeros = dt_s, zeros
        # What each step wanted, newest first, down to what still acts when a step begins after the longest delay; one
        # row more because the number of steps in a delay may round up.
        self._past = zeros.repeat(math.floor(longest_delay_s / dt_s) + 3, 1)
        self._torque = zeros
        self.configure(values)

    def configure(self, values: Values) -> None:
        """Take up changed parameters."""
        self._factor, self._dead_zone_nm = values["torque_factor"], values["dead_zone_nm"]
        self._delayed, self._lagged = given(values["actuation_delay_s"]), given(values["torque_lag_s"])
        delay_s = _tensor(values["actuation_delay_s"], self._zeros)
        self._lag_s = _tensor(values["torque_lag_s"], self._zeros)
        whole = torch.floor(delay_s / self._dt_s)
        self._whole = whole.long().expand_as(self._zeros)[None]
        # A step falls into two pieces: until the delayed command arrives, and after.
        until_s = delay_s - whole * self._dt_s
        self._pieces_s = (until_s, self._dt_s - until_s)
        self._decays = tuple(_decay(piece_s, self._lag_s) for piece_s in self._pieces_s)

    def step(self, commanded_nm: Tensor) -> Tensor:
        """Hold a command [N], or [N, 2] left and right, for one control step.

        Returns:
            the torque produced, averaged over that step and the wheels [N].
        """
        wanted = self._static(commanded_nm)
        if not self._delayed and not self._lagged:
            return wanted
        targets = [wanted, wanted]
        if self._delayed:
            self._past = torch.cat((wanted[None], self._past[:-1]))
            targets = [self._past.gather(0, self._whole + 1)[0], self._past.gather(0, self._whole)[0]]
        area = self._zeros
        for target, duration_s, decay in zip(targets, self._pieces_s, self._decays, strict=True):
            # T ẏ = w − y, so that the integral of y is that of w less T times the change of y.
            area = area + target * duration_s
            if self._lagged:
                after = target + (self._torque - target) * decay
                area = area - self._lag_s * (after - self._torque)
                self._torque = after
        return area / self._dt_s

    def run(self, past_nm: Tensor) -> Tensor:
        """Start as if past_nm [N, K >= 1] or [N, K, 2], oldest first, had been commanded, its first for long before.

        Returns:
            the torque produced on average in the last of those steps [N].
        """
        if not self._delayed and not self._lagged:
            return self._static(past_nm[:, -1])
        self._torque = self._static(past_nm[:, 0])
        self._past = self._torque.repeat(len(self._past), 1)
        produced = self._torque
        for commanded in past_nm.unbind(1):
            produced = self.step(commanded)
        return produced

    def reset(self, mask: Tensor | None) -> None:
        """Cold motors where mask [N] is true, everywhere without one."""
        if self._delayed or self._lagged:
            self._past, self._torque = _filled(mask, 0.0, self._past), _filled(mask, 0.0, self._torque)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step follows from, parameters apart."""
        return {"past": self._past.clone(), "torque": self._torque.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self._past, self._torque = state["past"].to(self._zeros), state["torque"].to(self._zeros)

    def _static(self, torque_nm: Tensor) -> Tensor:
        if torque_nm.dim() == 2:
            # Each wheel has a dead zone of its own; what turns the robot does not tilt it, so that the mean acts.
            left, right = torque_nm.unbind(1)
            return 0.5 * (self._static(left) + self._static(right))
        if given(self._dead_zone_nm):
            torque_nm = torque_nm - torch.clamp(torque_nm, -self._dead_zone_nm, self._dead_zone_nm)
        return torque_nm * self._factor if given(self._factor - 1.0) else torque_nm


class Sensors:
    """IMU, encoders and the driver's arithmetic (wheel_leg_driver.estimator): from the true state to its estimate.

    Args:
        values: parameters.
        radius_m, dt_s: of the interface.
        generator: source of the noise.
        zeros: [N], of the dtype and on the device of everything here.
        longest_delay_s: of observation that `values` may ever hold.
    """

    def __init__(
        self,
        values: Values,
        radius_m: float,
        dt_s: float,
        generator: torch.Generator,
        zeros: Tensor,
        longest_delay_s: float,
    ) -> None:
        self._radius_m, self._dt_s, self._generator, self._zeros = radius_m, dt_s, generator, zeros
        # Pitch, pitch rate and the wheels' speed in their joints, as the filters have them.
        self._filtered = (zeros, zeros, zeros)
        self._history = zeros[:, None].expand(-1, 4).repeat(round(longest_delay_s / dt_s) + 2, 1, 1)
        self.configure(values)

    def configure(self, values: Values) -> None:
        """Take up changed parameters."""
        self._values = values
        self._ideal = not any(given(values[name] - neutral) for name, neutral in SENSOR_EFFECTS.items())
        self._delayed = given(values["observation_delay_s"])
        self._delay = torch.round(_tensor(values["observation_delay_s"], self._zeros) / self._dt_s).long()
        self._lags_s = [_tensor(values[name], self._zeros) for name in LAGS]
        self._lagged = [given(values[name]) for name in LAGS]
        self._decays = [_decay(self._dt_s, lag_s) for lag_s in self._lags_s]

    @property
    def delay_steps(self) -> Tensor:
        """Control steps [N] or [] by which an observation is late."""
        return self._delay

    def step(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the estimate [N, 4] at the end of a control step that led from true state [N, 4] to true state."""
        if self._ideal:
            return after
        filtered = []
        inputs = zip(self._signals(before), self._signals(after), strict=True)
        for k, (first, last) in enumerate(inputs):
            value = last
            if self._lagged[k]:
                # T ẏ = w − y for an input that runs straight from first to last: y follows T times the slope behind.
                behind = (last - first) * (self._lags_s[k] / self._dt_s)
                value = last - behind + (self._filtered[k] - first + behind) * self._decays[k]
            filtered.append(value)
        self._filtered = (filtered[0], filtered[1], filtered[2])
        return self._late(self._read(after))

    def reset(self, mask: Tensor | None, truth: Tensor) -> Tensor:
        """Settle the filters at truth [N, 4] where mask [N] is true, everywhere without one; returns the estimate."""
        if self._ideal:
            return truth
        settled = zip(self._signals(truth), self._filtered, strict=True)
        pitch, rate, wheel = (_filled(mask, signal, filtered) for signal, filtered in settled)
        self._filtered = (pitch, rate, wheel)
        return self._begin(mask, self._read(truth))

    def settle(self, mask: Tensor | None, observed: Tensor, torque_nm: Tensor, acceleration: Acceleration) -> Tensor:
        """Where mask is true, find the true state behind an estimate and set the filters to what led to it.

        Lags are taken back to second order in their time constants, for pitch, and to first order for rates, with the
        acceleration that the equations of motion give; noise and resolution cannot be taken back.

        Args:
            mask: [N], None for all.
            observed: estimates [N, 4] at the instant of the state.
            torque_nm: produced torque [N] around that time.
            acceleration: of the robots.

        Returns:
            true states [N, 4], meaningful where mask is true.
        """
        if self._ideal:
            return observed
        v, x, radius = self._values, observed[:, 0], self._radius_m
        _, speed, reported, reported_rate = observed.unbind(1)
        pitch = reported - v["pitch_bias_rad"]
        rate = (reported_rate - v["gyro_bias_radps"]) / v["gyro_scale"]
        wheel = (speed / radius - v["odometry_pitch"] * reported_rate) / v["odometry_scale"]
        pitch_lag_s, rate_lag_s, wheel_lag_s = self._lags_s
        theta, theta_dot, turn = pitch + pitch_lag_s * rate, rate, wheel
        if any(self._lagged):
            for _ in range(2):
                v_dot, theta_ddot = acceleration(radius * (turn + theta_dot), theta, theta_dot, torque_nm)
                theta_dot = rate + rate_lag_s * theta_ddot
                theta = pitch + pitch_lag_s * (theta_dot - pitch_lag_s * theta_ddot)
                turn = wheel + wheel_lag_s * (v_dot / radius - theta_ddot)
        angle = (x / radius - v["odometry_pitch"] * reported) / v["odometry_scale"]
        filtered = zip((pitch, rate, wheel), self._filtered, strict=True)
        pitch, rate, wheel = (_filled(mask, new, old) for new, old in filtered)
        self._filtered = (pitch, rate, wheel)
        self._begin(mask, observed)
        return torch.stack((radius * (angle + theta), radius * (turn + theta_dot), theta, theta_dot), 1)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step follows from, parameters apart."""
        return {"filtered": torch.stack(self._filtered), "history": self._history.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        pitch, rate, wheel = state["filtered"].to(self._zeros)
        self._filtered, self._history = (pitch, rate, wheel), state["history"].to(self._zeros)

    def _signals(self, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, v, theta, theta_dot = truth.unbind(1)
        return theta, theta_dot, v / self._radius_m - theta_dot

    def _read(self, truth: Tensor) -> Tensor:
        # As MujocoPlant.sense reports it and the driver's Estimator adds it up.
        v, radius = self._values, self._radius_m
        pitch, rate, wheel = self._filtered
        pitch = pitch + v["pitch_bias_rad"] + self._noise("pitch_noise_rad")
        rate = v["gyro_scale"] * rate + v["gyro_bias_radps"] + self._noise("gyro_noise_radps")
        angle = v["odometry_scale"] * (truth[:, 0] / radius - truth[:, 2]) + (v["odometry_pitch"] - 1.0) * pitch
        step = v["encoder_step_rad"]
        if given(step):
            # Among robots whose encoders count there may be some whose encoders are exact.
            step = _tensor(step, self._zeros)
            angle = torch.where(step > 0, torch.floor(angle / step) * step, angle)
        speed = v["odometry_scale"] * wheel + v["odometry_pitch"] * rate
        x, speed = radius * (angle + pitch), radius * speed + self._noise("velocity_noise_mps")
        return torch.stack((x, speed, pitch, rate), 1)

    def _noise(self, name: str) -> Tensor | float:
        deviation: Any = self._values[name]
        if not given(deviation):
            return 0.0
        like = self._zeros
        noise = torch.randn(like.shape, generator=self._generator, dtype=like.dtype, device=like.device)
        scaled: Tensor = deviation * noise
        return scaled

    def _late(self, reading: Tensor) -> Tensor:
        if not self._delayed:
            return reading
        self._history = torch.cat((reading[None], self._history[:-1]))
        index = self._delay.expand_as(self._zeros)[None, :, None].expand(1, -1, 4)
        return self._history.gather(0, index)[0]

    def _begin(self, mask: Tensor | None, reading: Tensor) -> Tensor:
        # The first reading is all that there is to be late.
        if self._delayed:
            self._history = _filled(None if mask is None else mask[:, None], reading, self._history)
        return reading


def _tensor(value: Any, like: Tensor) -> Tensor:
    # A number becomes a tensor []; in one go, because by itself it would be rounded to float32 first.
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _decay(duration_s: Any, lag_s: Tensor) -> Tensor:
    # What is left after some time of a first-order filter's distance from its input; nothing where it does not lag.
    decay: Tensor = torch.exp(-duration_s / lag_s.clamp(min=1e-9))
    return decay


def _filled(mask: Tensor | None, new: Tensor | float, old: Tensor) -> Tensor:
    # The new value where mask [N] is true, everywhere without one.
    if mask is None:
        return torch.zeros_like(old) + new
    return torch.where(mask, new, old)
