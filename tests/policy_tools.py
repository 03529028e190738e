# SPDX-License-Identifier: Apache-2.0
"""Small real ONNX policies for tests: a linear law with the torque limit, and a contract like an exported one's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from h2o_control.config import to_mapping
from h2o_control.contract import STATE, TASKS, Interface, PolicyContract, Task
from h2o_control.policy import CONTRACT_KEY, INPUT, OUTPUT, PROVENANCE_KEY


def linear_policy(
    path: Path,
    gain: Sequence[float],
    task: Task = TASKS["stand"],
    interface: Interface | None = None,
    contract: Any = "own",
    n_obs: int | None = None,
    output: str = OUTPUT,
    provenance: str = '{"made": "by hand"}',
    limited: bool = True,
) -> Path:
    """Write torque = clip(-gain · state, ± limit), gain in the order of STATE; `contract` replaces the file's own.

    Without `limited` the torque is what it is, infinity included.
    """
    interface = interface or Interface()
    weights = np.array([[-gain[STATE.index(name)]] for name in task.observation], dtype=np.float32)
    if n_obs is not None:
        weights = np.zeros((n_obs, 1), dtype=np.float32)
    limit = interface.torque_limit_nm
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [INPUT, "w"], ["raw"]),
            helper.make_node("Clip", ["raw", "low", "high"], [output])
            if limited
            else helper.make_node("Identity", ["raw"], [output]),
        ],
        "linear",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.float32(-limit), "low"),
            numpy_helper.from_array(np.float32(limit), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {PROVENANCE_KEY: provenance}
    if contract == "own":
        contract = json.dumps(to_mapping(PolicyContract(interface, task)))
    if contract is not None:
        metadata[CONTRACT_KEY] = contract
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
