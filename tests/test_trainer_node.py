# SPDX-License-Identifier: Apache-2.0
"""The trainer's place in the graph: the job it runs, and the node with real topics and services."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from h2o_control.errors import ConfigError
from h2o_control.policy import Policy
from h2o_training.run_dir import RunDirectory
from h2o_training.training_job import TrainingJob

QUICK = ["policy_layers=[8]", "critic_layers=[8]", "batch_simulated=8", "twin.num_envs=2"]
QUICK += ["collect.updates=20", "collect.steps=5", "log.evaluate_s=0.1"]


def wait(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def test_job_trains_and_exports(tmp_path):
    job = TrainingJob("sac", [*QUICK, "updates=40"], tmp_path / "run")
    try:
        assert wait(lambda: (s := job.poll()) in ("ready", "failed") and s) == "ready"
    finally:
        job.stop()
    assert job.progress().update == 40
    assert Policy(job.policy).contract.task.name == "stand"


def test_stopped_job_is_gone_on_with_and_another_configuration_refused(tmp_path):
    overrides = [*QUICK, "updates=1000000"]
    job = TrainingJob("sac", overrides, tmp_path / "run")
    try:
        wait(lambda: (p := job.progress()) is not None and p.update > 0)
    finally:
        job.stop()
    assert job.poll() == "stopped"
    done = RunDirectory(tmp_path / "run").load_checkpoint()["updates"]
    assert done > 0
    with pytest.raises(ConfigError, match="another configuration"):
        TrainingJob("sac", [*QUICK, "updates=50"], tmp_path / "run")
    again = TrainingJob("sac", overrides, tmp_path / "run")
    try:
        wait(lambda: (p := again.progress()) is not None and p.update > done)
    finally:
        again.stop()


def test_failed_training_fails_the_job(tmp_path):
    job = TrainingJob("sac", ["device=abacus"], tmp_path / "run")
    try:
        assert wait(lambda: (s := job.poll()) != "training" and s) == "failed"
    finally:
        job.stop()


@pytest.mark.ros
def test_node_starts_on_request_reports_progress_and_announces_the_policy(tmp_path):
    rclpy = pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    from h2o_control.node_tools import LATCHED_QOS

    overrides = " ".join([*QUICK, "updates=1500"])
    arguments = ["-p", "config:=sac", "-p", f"overrides:='{overrides}'", "-p", f"output:={tmp_path / 'run'}"]
    program = Path(sys.executable).parent / "trainer_node"
    child = subprocess.Popen([str(program), "--ros-args", *arguments])
    rclpy.init()
    node = rclpy.create_node("watcher")
    try:
        progress, ready = [], []
        node.create_subscription(DiagnosticArray, "training/progress", progress.append, 10)
        node.create_subscription(String, "policy_ready", ready.append, LATCHED_QOS)
        start = node.create_client(Trigger, "trainer/start")
        assert start.wait_for_service(20.0)
        future = start.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
        assert future.result().success, future.result().message
        deadline = time.monotonic() + 60
        while not ready and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.2)
        assert ready
        assert Policy(ready[0].data).contract.task.name == "stand"
        values = {v.key: v.value for message in progress for v in message.status[0].values}
        assert {"update", "of", "return", "updates_per_s"} <= set(values)
        assert values["of"] == "1500"
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(20) == 0
        finally:
            child.kill()
            child.wait()
