# SPDX-License-Identifier: Apache-2.0
"""A policy file is used only where its contract fits; anything else is said before the robot moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from h2o_control.config import to_mapping
from h2o_control.contract import TASKS, Interface, PolicyContract
from h2o_control.errors import ContractError, UserError
from h2o_control.policy import Policy
from policy_tools import linear_policy

GAIN = (1.0, 2.0, 30.0, 4.0)
OWN = to_mapping(PolicyContract(Interface(), TASKS["stand"]))


def test_a_state_is_answered_with_the_networks_torque(tmp_path: Path) -> None:
    policy = Policy(linear_policy(tmp_path / "p.onnx", GAIN))
    state = np.array([0.1, -0.2, 0.03, -0.4])
    assert policy.torque_nm(state) == pytest.approx(-(0.1 - 0.4 + 0.9 - 1.6), abs=1e-6)
    assert policy.torque_nm(np.array([0.0, 0.0, 1.0, 0.0])) == -3.0
    assert isinstance(policy.torque_nm(state), float)


def test_the_observation_is_picked_by_the_task(tmp_path: Path) -> None:
    policy = Policy(linear_policy(tmp_path / "p.onnx", GAIN, task=TASKS["move"]))
    assert policy.torque_nm(np.array([99.0, 0.1, 0.02, 0.3])) == pytest.approx(-(0.2 + 0.6 + 1.2), abs=1e-6)


def test_contract_and_provenance_come_out_of_the_file(tmp_path: Path) -> None:
    interface = Interface(torque_limit_nm=2.0)
    policy = Policy(linear_policy(tmp_path / "p.onnx", GAIN, interface=interface))
    assert policy.contract == PolicyContract(interface, TASKS["stand"])
    assert policy.provenance == {"made": "by hand"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"contract": None}, ContractError, "carries no contract"),
        ({"contract": "nonsense"}, ContractError, "not one this project writes"),
        ({"contract": json.dumps({**OWN, "version": 7})}, ContractError, "has contract version 7"),
        ({"contract": json.dumps({**OWN, "colour": "red"})}, ContractError, "unknown key 'colour'"),
        ({"n_obs": 3}, ContractError, r"observation is tensor\(float\) \['n', 3\], task 'stand' needs float \[n, 4\]"),
        ({"output": "action"}, ContractError, "a policy has 'observation' and 'torque_nm'"),
        ({"gain": (float("nan"), 1, 1, 1)}, ContractError, "answers a zero observation with nan"),
        ({"provenance": "{"}, UserError, "is not JSON"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    file = linear_policy(tmp_path / "p.onnx", **{"gain": GAIN, **arguments})  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        Policy(file)


def test_what_cannot_be_loaded_is_told_apart_in_plain_words(tmp_path: Path) -> None:
    whole = linear_policy(tmp_path / "p.onnx", GAIN).read_bytes()
    for name, content in {"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
    said = {"absent": "No such file", "text": "is not an ONNX file", "empty": "is not an ONNX file"}
    said |= {"cut": "or a damaged one", ".": "is a folder: give the ONNX file itself"}
    for name, message in said.items():
        with pytest.raises(UserError, match=message) as caught:
            Policy(tmp_path / name)
        assert "ONNXRuntime" not in str(caught.value)


def test_another_robots_interface_is_refused_with_what_differs(tmp_path: Path) -> None:
    policy = Policy(linear_policy(tmp_path / "p.onnx", GAIN))
    policy.contract.require_interface(Interface(), "robot")
    with pytest.raises(ContractError, match=r"torque_limit_nm: policy 3.0, robot 2.0"):
        policy.contract.require_interface(Interface(torque_limit_nm=2.0), "robot")
