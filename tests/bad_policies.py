# SPDX-License-Identifier: Apache-2.0
"""Real ONNX policies that misbehave where the displacement is beyond a bound: sound when checked, bad under way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from h2o_control.config import to_mapping
from h2o_control.contract import TASKS, Interface, PolicyContract
from h2o_control.policy import CONTRACT_KEY, INPUT, OUTPUT

#: More rounds of the loop below than a machine does in a second; one of 2 GHz does 1.7 million.
ROUNDS_PER_S = 4_000_000


def misbehaving_policy(path: Path, kind: str, beyond_m: float = 1.0, seconds: float = 0.1) -> Path:
    """Write a policy that answers minus the pitch while x <= beyond_m, and beyond that misbehaves.

    Args:
        path: file to write.
        kind: "nan", "inf", "shape" (two rows), "error" (the session raises), "slow" or "memory" (wants 16 GB).
        beyond_m: displacement from which it does; a negative one makes it misbehave at once.
        seconds: least time of a slow answer.
    """
    task = TASKS["stand"]
    gain = np.array([[-1.0 if name == "theta" else 0.0] for name in task.observation], np.float32)
    good = [helper.make_node("MatMul", [INPUT, "gain"], ["good"])]
    condition = [
        helper.make_node("Gather", [INPUT, "x_column"], ["x"], axis=1),
        helper.make_node("ReduceMax", ["x"], ["x_scalar"], keepdims=0),
        helper.make_node("Greater", ["x_scalar", "bound"], ["bad"]),
    ]
    constants = [
        numpy_helper.from_array(gain, "gain"),
        numpy_helper.from_array(np.array([task.observation.index("x")], np.int64), "x_column"),
        numpy_helper.from_array(np.float32(beyond_m), "bound"),
    ]
    branches = {
        "nan": lambda: _constant("nan", np.full((1, 1), np.nan, np.float32)),
        "inf": lambda: _constant("inf", np.full((1, 1), np.inf, np.float32)),
        "shape": lambda: _constant("shape", np.zeros((2, 1), np.float32)),
        "error": _error,
        "slow": lambda: _slow(seconds),
        "memory": _memory,
    }
    branch = branches[kind]()
    keep = helper.make_graph(
        [helper.make_node("Identity", ["good"], ["kept"])],
        "keep",
        [],
        [helper.make_tensor_value_info("kept", TensorProto.FLOAT, None)],
    )
    choose = helper.make_node("If", ["bad"], [OUTPUT], then_branch=branch, else_branch=keep)
    graph = helper.make_graph(
        [*good, *condition, choose],
        "misbehaving",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = PolicyContract(Interface(), task)
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(to_mapping(contract))})
    onnx.save(model, str(path))
    return path


def _constant(name: str, value: np.ndarray) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], [f"{name}_out"], value=numpy_helper.from_array(value))
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)])


def _error() -> onnx.GraphProto:
    # A row that is not there: ONNX Runtime raises when it runs, not before.
    nodes = [
        helper.make_node("Cast", ["x_scalar"], ["row_"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["far"], value=numpy_helper.from_array(np.array(1000, np.int64))),
        helper.make_node("Add", ["row_", "far"], ["row"]),
        helper.make_node("Gather", ["good", "row"], ["error_out"], axis=0),
    ]
    return helper.make_graph(nodes, "error", [], [helper.make_tensor_value_info("error_out", TensorProto.FLOAT, None)])


def _memory() -> onnx.GraphProto:
    nodes = [
        # Computed, so that ONNX Runtime cannot refuse it when it loads the file.
        helper.make_node("Shape", ["good"], ["small"]),
        helper.make_node(
            "Constant", [], ["factor"], value=numpy_helper.from_array(np.array([4_000_000, 1000], np.int64))
        ),
        helper.make_node("Mul", ["small", "factor"], ["large"]),
        helper.make_node("ConstantOfShape", ["large"], ["memory_out"]),
    ]
    return helper.make_graph(
        nodes, "memory", [], [helper.make_tensor_value_info("memory_out", TensorProto.FLOAT, None)]
    )


def _slow(seconds: float) -> onnx.GraphProto:
    # A loop whose rounds depend on one another; ONNX Runtime takes some microseconds for each.
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_out"]),
            helper.make_node("Sin", ["carried"], ["carried_out"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, None),
        ],
    )
    rounds = np.array(int(seconds * ROUNDS_PER_S), np.int64)
    nodes = [
        helper.make_node("Constant", [], ["rounds"], value=numpy_helper.from_array(rounds)),
        helper.make_node("Loop", ["rounds", "bad", "good"], ["slow_out"], body=body),
    ]
    return helper.make_graph(nodes, "slow", [], [helper.make_tensor_value_info("slow_out", TensorProto.FLOAT, None)])
