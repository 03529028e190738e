# SPDX-License-Identifier: Apache-2.0
"""What may answer a robot: checked here and, for a running node, in a process of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from bad_policies import misbehaving_policy
from h2o_control.contract import Interface
from h2o_control.errors import ContractError, UserError
from h2o_control.policy import MAX_BYTES, AnswerError, Policy
from h2o_control.policy_check import check, load_beside
from h2o_control.policy_swap import PolicyLoader
from policy_tools import linear_policy

GAIN = (1.0, 2.0, 30.0, 4.0)
FAR = np.array([2.0, 0.0, 0.25, 0.0])


def test_a_sound_policy_passes_in_a_process_of_its_own_and_is_the_same_here(tmp_path: Path) -> None:
    file = linear_policy(tmp_path / "p.onnx", GAIN)
    policy = load_beside(file)
    assert policy.torque_nm(np.array([0.1, -0.2, 0.03, -0.4])) == pytest.approx(1.0, abs=1e-6)
    assert policy.sha256 == Policy(file).sha256
    assert 0 < check(policy) < 0.5 * Interface().dt_s


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "answers a zero observation with nan"),
        ("inf", "answers a zero observation with inf"),
        ("shape", r"the answer has shape \(2, 1\), expected \(1, 1\)"),
        ("error", "does not answer a zero observation: .*out of data bounds"),
        ("slow", r"takes \d+\.\d ms for an answer, at best; a control step is 5.0 ms"),
        ("memory", "does not answer a zero observation"),
    ],
)
def test_a_policy_that_misbehaves_at_once_is_refused_with_the_reason(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_beside(misbehaving_policy(tmp_path / "p.onnx", kind, beyond_m=-1.0, seconds=0.05))


def test_a_policy_that_is_bad_near_balance_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"answers .* with nan"):
        check(Policy(misbehaving_policy(tmp_path / "p.onnx", "nan", beyond_m=0.05)))


def test_a_file_that_is_missing_huge_or_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read policy"):
        load_beside(tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="is not an ONNX file"):
        load_beside(tmp_path / "text.onnx")
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match="is 8 MiB, at most 8 MiB are loaded"):
        load_beside(tmp_path / "huge.onnx")


def test_a_session_that_fails_or_answers_in_another_shape_raises(tmp_path: Path) -> None:
    for kind in ("error", "shape"):
        policy = Policy(misbehaving_policy(tmp_path / f"{kind}.onnx", kind))
        assert policy.torque_nm(np.array([0.0, 0.0, 0.25, 0.0])) == pytest.approx(-0.25)
        with pytest.raises(AnswerError):
            policy.torque_nm(FAR)


def test_one_candidate_is_loaded_at_a_time(tmp_path: Path) -> None:
    loader, done, said = PolicyLoader(), threading.Event(), list[Policy | UserError]()

    def loaded(result: Policy | UserError) -> None:
        said.append(result)
        done.set()

    with pytest.raises(UserError, match="no candidate"):
        loader.load("", Interface(), loaded)
    loader.load(str(linear_policy(tmp_path / "p.onnx", GAIN)), Interface(torque_limit_nm=2.0), loaded)
    with pytest.raises(UserError, match="another policy is being loaded"):
        loader.load("other.onnx", Interface(), loaded)
    assert done.wait(30.0)
    assert "torque_limit_nm: policy 3.0, the running policy 2.0" in str(said[0])


def test_a_load_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    loader, said = PolicyLoader(), list[Policy | UserError]()
    slow = misbehaving_policy(tmp_path / "p.onnx", "slow", beyond_m=-1.0, seconds=5.0)
    loader.load(str(slow), Interface(), said.append)
    while loader._child is None:
        assert loader.busy
    loader.stop()
    assert not loader.busy
    assert "ended the process that checked it" in str(said[0])
