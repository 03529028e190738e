# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot export`: a training run's policy as an ONNX file with normalisation, contract and provenance inside."""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from h2o_control.atomic_file import write_atomically
from h2o_control.config import to_mapping
from h2o_control.contract import FloatArray, PolicyContract, canonical_json
from h2o_control.errors import DataError, UserError
from h2o_control.policy import CONTRACT_KEY, INPUT, OUTPUT, PROVENANCE_KEY
from h2o_control.provenance import now_utc
from h2o_training.collector import Scaling
from h2o_training.nets import Policy
from h2o_training.run_dir import RunDirectory, RunInfo

#: Old enough for the ONNX Runtime that robots carry (1.15 knows opset 19 and IR 9).
OPSET, IR_VERSION = 13, 8
#: Largest difference from the torch policy over the torque limit.
TOLERANCE = 1e-6
CHECKED_STATES = 10_000


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot export`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot export",
        description="Write a training run's policy as ONNX: observation in SI units in, wheel torque in Nm out.",
        epilog="example: h2o-robot export runs/stand -o policy.onnx",
    )
    parser.add_argument("run", help="folder of the training run")
    parser.add_argument("-o", "--output", required=True, help="ONNX file to write")
    args = parser.parse_args(argv)
    difference = export_run(RunDirectory(args.run), Path(args.output))
    print(
        f"{args.output}: equals the trained policy to {difference:.1e} of the torque limit on {CHECKED_STATES:,} states"
    )
    return 0


def export_run(directory: RunDirectory, output: Path) -> float:
    """Write the run's policy to `output`, checked against torch; returns the largest difference over the limit.

    Raises:
        DataError: the folder is no run, its weights are not finite, or the ONNX file answers otherwise than torch.
        UserError: `output` cannot be written.
    """
    info = directory.read_info()
    state = directory.load_checkpoint()
    policy, scaling = restore_policy(info, state)
    model = build_onnx(policy, scaling, info.contract, provenance(info, int(state["updates"])))
    difference = largest_difference(model, policy, scaling, info.contract)
    if not difference <= TOLERANCE:
        raise DataError(
            f"{directory.path}: the ONNX policy differs from the trained one by {difference:.2e} of the torque limit, "
            f"more than {TOLERANCE:g}; nothing was written. Are the weights finite?"
        )
    try:
        write_atomically(output, model.SerializeToString())
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from error
    return difference


def restore_policy(info: RunInfo, state: dict[str, Any]) -> tuple[Policy, Scaling]:
    """Build the averaged policy and the observation scaling of a checkpoint, on the CPU."""
    n_obs = len(info.contract.task.observation)
    policy, scaling = Policy(n_obs, 1, info.config.policy_layers), Scaling(n_obs)
    prefix = "averaged_policy."
    weights = {k.removeprefix(prefix): v for k, v in state["agent"].items() if k.startswith(prefix)}
    policy.load_state_dict(weights)
    scaling.load_state_dict(state["scaling"])
    return policy.eval(), scaling.eval()


def provenance(info: RunInfo, updates: int) -> dict[str, Any]:
    """Everything the policy's numbers follow from, JSON-ready; includes the dataset's own provenance (bag hashes)."""
    return {
        "seed": info.config.seed,
        "updates": updates,
        "config": to_mapping(info.config),
        **info.provenance,
        "exported": now_utc(),
    }


def build_onnx(policy: Policy, scaling: Scaling, contract: PolicyContract, source: dict[str, Any]) -> onnx.ModelProto:
    """Compose limit · tanh(mean((observation − mean) / std)) of Sub, Div, Gemm, Relu, Tanh and Mul.

    Inside it computes in double precision: sums in another order would cost single precision up to 1e-6 of the limit,
    and on networks of this size it takes no measurable time.
    """
    n_obs = len(contract.task.observation)
    initializers, nodes = [], []

    def constant(name: str, value: FloatArray) -> str:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=np.float64), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    x = node("Cast", [INPUT], "wide", to=TensorProto.DOUBLE)
    x = node("Sub", [x, constant("mean", scaling.mean.numpy())], "centred")
    x = node("Div", [x, constant("std", scaling.std.numpy())], "scaled")
    for index, layer in enumerate(policy.hidden):
        assert isinstance(layer, torch.nn.Linear)
        weight = constant(f"weight_{index}", layer.weight.detach().numpy())
        bias = constant(f"bias_{index}", layer.bias.detach().numpy())
        x = node("Gemm", [x, weight, bias], f"linear_{index}", transB=1)
        x = node("Relu", [x], f"hidden_{index}")
    # The second row of the head is the log standard deviation, which the robot does not need.
    weight = constant("weight_mean", policy.head.weight.detach().numpy()[:1])
    bias = constant("bias_mean", policy.head.bias.detach().numpy()[:1])
    x = node("Gemm", [x, weight, bias], "mean_action", transB=1)
    x = node("Tanh", [x], "action")
    x = node("Mul", [x, constant("torque_limit_nm", np.array(contract.interface.torque_limit_nm))], "torque")
    node("Cast", [x], OUTPUT, to=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", n_obs])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="h2o_training"
    )
    helper.set_model_props(
        model,
        {CONTRACT_KEY: canonical_json(contract), PROVENANCE_KEY: json.dumps(source, sort_keys=True)},
    )
    onnx.checker.check_model(model)
    return model


@torch.no_grad()
def largest_difference(model: onnx.ModelProto, policy: Policy, scaling: Scaling, contract: PolicyContract) -> float:
    """Compare with torch (in double) on random observations, from well inside the data to a hundred deviations outside.

    Returns:
        largest |ONNX − torch| over the torque limit; nan where either is not finite.
    """
    n_obs = len(contract.task.observation)
    rng = np.random.default_rng(0)
    spread = 10.0 ** rng.uniform(-2.0, 2.0, (CHECKED_STATES, 1))
    unit = spread * rng.standard_normal((CHECKED_STATES, n_obs))
    observation = (scaling.mean.numpy() + scaling.std.numpy() * unit).astype(np.float32)
    limit = contract.interface.torque_limit_nm
    policy, scaling = copy.deepcopy(policy).double(), copy.deepcopy(scaling).double()
    wanted = limit * policy.act(scaling(torch.from_numpy(observation).double())).numpy()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answered = session.run([OUTPUT], {INPUT: observation})[0]
    return float(np.abs(answered - wanted).max() / limit)
