# SPDX-License-Identifier: Apache-2.0
"""A trained policy as the robot runs it: an ONNX file with its contract inside, answered by ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from h2o_control.config import from_mapping
from h2o_control.contract import FloatArray, Interface, PolicyContract
from h2o_control.errors import ConfigError, ContractError, UserError

#: Keys of the ONNX file's metadata_props.
CONTRACT_KEY = "h2o.contract"
PROVENANCE_KEY = "h2o.provenance"
INPUT = "observation"
OUTPUT = "torque_nm"
#: A network that answers within a control step is far smaller. ONNX Runtime holds Python's lock while it parses a file,
#: 3 ms for one of this size, and for so long a node that swaps policies answers nothing.
MAX_BYTES = 8 * 1024 * 1024


_MARKS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
#: What ONNX Runtime says of a file that is something else, and of an empty one.
_NO_ONNX = ("INVALID_PROTOBUF", "No graph was found in the protobuf")


class AnswerError(Exception):
    """The policy gave no torque: its session failed, or what came out has another shape."""


class Policy:
    """State in, common wheel torque out; normalisation and limit are inside the graph.

    Args:
        path: ONNX file written by `h2o-robot export`, input `observation` [n, n_obs], output `torque_nm` [n, 1].
        model: its content, where that has been read before.

    Attributes:
        sha256: of the file, hexadecimal.
        contract: interface and task it was made for.
        provenance: how it was made; empty where the file does not say.

    Raises:
        UserError: no such file, one that is too large, or not an ONNX model that runs here.
        ContractError: no contract in it, one of another version, or inputs and outputs that do not fit it.
    """

    def __init__(self, path: str | Path, model: bytes | None = None) -> None:
        self.path = Path(path)
        model = read_model(self.path) if model is None else model
        self.sha256 = hashlib.sha256(model).hexdigest()
        # One thread that sleeps between calls: spinning workers cost 70 % of a core and gain nothing on such a network.
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 4  # its exceptions say the same
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's exceptions have no common base class but Exception.
        except Exception as error:
            raise UserError(unfit(path, str(error))) from error
        metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.contract = parse_contract(metadata.get(CONTRACT_KEY), str(path))
        try:
            self.provenance: dict[str, Any] = json.loads(metadata.get(PROVENANCE_KEY, "{}"))
        except ValueError as error:
            raise UserError(f"{path}: its {PROVENANCE_KEY} is not JSON: {error}") from error
        self._indices = self.contract.task.indices
        self._check_shapes()
        self._input = np.zeros((1, len(self._indices)), dtype=np.float32)
        try:
            torque = self.torque_nm(np.zeros(4))
        except AnswerError as error:
            raise ContractError(f"{path} does not answer a zero observation: {error}") from error
        if not np.isfinite(torque):
            raise ContractError(f"{path} answers a zero observation with {torque}: its weights are not finite")

    def torque_nm(self, state: FloatArray) -> float:
        """Answer one state [4] (x m, v m/s, theta rad, theta_dot rad/s) with the torque of one wheel in Nm.

        Raises:
            AnswerError: ONNX Runtime fails, or the answer is not [1, 1].
        """
        self._input[0] = state[self._indices]
        try:
            answer = self._session.run([OUTPUT], {INPUT: self._input})[0]
        # ONNX Runtime's exceptions have no common base class but Exception.
        except Exception as error:
            raise AnswerError(plain(str(error))) from error
        if answer.shape != (1, 1):
            raise AnswerError(f"the answer has shape {answer.shape}, expected (1, 1)")
        return float(answer[0, 0])

    def _check_shapes(self) -> None:
        expected = {INPUT: len(self._indices), OUTPUT: 1}
        nodes = {n.name: n for n in (*self._session.get_inputs(), *self._session.get_outputs())}
        if set(nodes) != set(expected):
            raise ContractError(
                f"{self.path} has inputs and outputs {sorted(nodes)}; a policy has {INPUT!r} and {OUTPUT!r}"
            )
        for name, width in expected.items():
            shape, kind = list(nodes[name].shape), nodes[name].type
            rows_fit = len(shape) == 2 and (shape[0] in (1, None) or isinstance(shape[0], str))
            if kind != "tensor(float)" or not rows_fit or shape[1] != width:
                task = self.contract.task.name
                raise ContractError(f"{self.path}: {name} is {kind} {shape}, task {task!r} needs float [n, {width}]")


def plain(said: str) -> str:
    """Return the first line of an exception of ONNX Runtime without its marks, "[ONNXRuntimeError] : 7 : NAME : "."""
    return _MARKS.sub("", said.strip().partition("\n")[0])


def unfit(path: str | Path, said: str) -> str:
    """Return what to tell whoever gave a file that ONNX Runtime does not load, for these reasons."""
    if any(mark in said for mark in _NO_ONNX):
        return f"{path} is not an ONNX file, or a damaged one: give a file that h2o-robot export wrote"
    return f"{path} is an ONNX file that does not run here: {plain(said)}"


def read_model(path: Path) -> bytes:
    """Read an ONNX file; raises UserError where that fails or the file is larger than MAX_BYTES."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the ONNX file itself")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(
                f"policy {path} is {size / 2**20:.0f} MiB, at most {MAX_BYTES / 2**20:.0f} MiB are loaded: "
                "train a smaller network"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read policy {path}: {error.strerror}") from error


def parse_contract(text: str | None, where: str) -> PolicyContract:
    """Parse the contract of a policy file; raises ContractError that says what is wrong with it."""
    if text is None:
        raise ContractError(
            f"{where} carries no contract (metadata {CONTRACT_KEY!r}): it was not written by h2o-robot export, and "
            "nothing says which observations and units it wants"
        )
    try:
        data = json.loads(text)
        found = (data["version"], data["interface"]["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{where}: its contract is not one this project writes: {error}") from error
    known = (PolicyContract.version, Interface.version)
    if found != known:
        raise ContractError(
            f"{where} has contract version {found[0]} (interface {found[1]}), this program knows {known[0]} "
            f"(interface {known[1]}); export the policy again with this version"
        )
    try:
        return from_mapping(PolicyContract, data, where)
    except ConfigError as error:
        raise ContractError(f"{where}: {error}") from error
