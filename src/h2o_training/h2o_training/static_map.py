# SPDX-License-Identifier: Apache-2.0
"""The simplest policy that can stand on a motor with a dead zone: a static map of the state to a torque.

    u₀ = k_θ θ + k_θ̇ θ̇ + k_x x + k_v (v − v_ref) + b,     u = clip(u₀ + c tanh(u₀ / w), ±limit)

State feedback, a trim b, and c tanh(·/w) that jumps the dead zone. It is a yardstick: where no such map stands, do not
ask a learner to; where one does, what falls has no excuse.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from h2o_control.atomic_file import write_atomically
from h2o_control.contract import STATE, FloatArray, PolicyContract, canonical_json
from h2o_control.errors import ConfigError, UserError
from h2o_control.policy import CONTRACT_KEY, INPUT, OUTPUT, PROVENANCE_KEY
from h2o_training.export import IR_VERSION, OPSET


@dataclass(frozen=True)
class StaticMap:
    """Parameters of the map; a Commander (lockstep.py) as it is, a policy like any other once written as ONNX.

    Attributes:
        x, v, theta, theta_dot: gains k in Nm a wheel per m, m/s, rad, rad/s.
        bias_nm: b.
        compensation_nm: c, about the motor's dead zone. width_nm: w, how gradually it is jumped.
        v_ref_mps: speed at which the gain on v gives nothing.
        limit_nm: largest torque of one wheel.
    """

    x: float
    v: float
    theta: float
    theta_dot: float
    bias_nm: float
    compensation_nm: float
    width_nm: float
    v_ref_mps: float
    limit_nm: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        if not (self.width_nm > 0 and self.limit_nm > 0):
            raise ValueError(f"width_nm and limit_nm must be positive, got {self.width_nm} and {self.limit_nm}")

    @property
    def gain(self) -> FloatArray:
        """k [4] in the order of contract.STATE."""
        return np.array([getattr(self, name) for name in STATE])

    def torque_nm(self, state: FloatArray) -> float:
        """Answer one estimated state [4] with the torque of one wheel in Nm."""
        u = float(self.gain @ state) - self.v * self.v_ref_mps + self.bias_nm
        u += self.compensation_nm * math.tanh(u / self.width_nm)
        return max(-self.limit_nm, min(self.limit_nm, u))

    def to_onnx(self, contract: PolicyContract, source: dict[str, Any]) -> onnx.ModelProto:
        """Build the ONNX policy (see h2o_control.policy): Gemm, Div, Tanh, Mul, Add and Clip, in double precision.

        Args:
            contract: what it is for; its observations must hold every quantity that the map uses.
            source: provenance, JSON-ready.

        Raises:
            ConfigError: the task does not observe a quantity that has a gain.
        """
        task = contract.task
        blind = [name for name in STATE if getattr(self, name) != 0.0 and name not in task.observation]
        if blind:
            raise ConfigError(f"task {task.name!r} does not observe {', '.join(blind)}, but the map has a gain on it")
        constants = {
            "gain": self.gain[task.indices][:, None],
            "offset": np.array([self.bias_nm - self.v * self.v_ref_mps]),
            "width_nm": np.array(self.width_nm),
            "compensation_nm": np.array(self.compensation_nm),
            "lowest_nm": np.array(-self.limit_nm),
            "highest_nm": np.array(self.limit_nm),
        }
        nodes = [
            helper.make_node("Cast", [INPUT], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Gemm", ["wide", "gain", "offset"], ["linear_nm"]),
            helper.make_node("Div", ["linear_nm", "width_nm"], ["relative"]),
            helper.make_node("Tanh", ["relative"], ["sign"]),
            helper.make_node("Mul", ["sign", "compensation_nm"], ["jump_nm"]),
            helper.make_node("Add", ["linear_nm", "jump_nm"], ["wanted_nm"]),
            helper.make_node("Clip", ["wanted_nm", "lowest_nm", "highest_nm"], ["limited_nm"]),
            helper.make_node("Cast", ["limited_nm"], [OUTPUT], to=TensorProto.FLOAT),
        ]
        graph = helper.make_graph(
            nodes,
            "static_map",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", len(task.observation)])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
            [numpy_helper.from_array(value.astype(np.float64), name) for name, value in constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="h2o_training"
        )
        metadata = {
            CONTRACT_KEY: canonical_json(contract),
            PROVENANCE_KEY: json.dumps({**source, "static map": dataclasses.asdict(self)}, sort_keys=True),
        }
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        return model

    def write_onnx(self, path: Path, contract: PolicyContract, source: dict[str, Any]) -> None:
        """Write `to_onnx` to a file, whole or not at all; raises UserError where it cannot be written."""
        try:
            write_atomically(path, self.to_onnx(contract, source).SerializeToString())
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
