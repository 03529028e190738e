# SPDX-License-Identifier: Apache-2.0
"""Node that lets the trainer take its place in the graph: start on request, progress, a new policy ready.

Services      ~/start, ~/stop (std_srvs/Trigger)
Publishes     training/progress (diagnostic_msgs/DiagnosticArray, 1 Hz)
              policy_ready (std_msgs/String, latched): path of the new ONNX file
"""

from __future__ import annotations

import sys
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from h2o_control.errors import ConfigError, UserError
from h2o_control.node_tools import LATCHED_QOS, STREAM_QOS, Parameter, declare, run, steady_timer, value
from h2o_training.training_job import TrainingJob

PARAMETERS = (
    Parameter("config", "h2o_plus", "training configuration, a name in config/training or a YAML file"),
    Parameter("overrides", "", "changes to it as key=value, separated by spaces"),
    Parameter("output", "runs/train", "folder of the run; policy.onnx is written into it; a run in it is gone on with"),
    Parameter("auto_start", False, "train at once instead of waiting for the service ~/start"),
)


class TrainerNode(Node):
    """Starts and watches a TrainingJob."""

    def __init__(self) -> None:
        super().__init__("trainer")
        declare(self, PARAMETERS)
        if not value(self, "output"):
            raise ConfigError("parameter 'output' is empty: give the folder of the run, e.g. -p output:=runs/train")
        self._job: TrainingJob | None = None
        self._announced = ""
        self._progress = self.create_publisher(DiagnosticArray, "training/progress", STREAM_QOS)
        self._ready = self.create_publisher(String, "policy_ready", LATCHED_QOS)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/stop", self._on_stop)
        steady_timer(self, 1.0, self._tick)
        if value(self, "auto_start"):
            self._start()

    def make_safe(self) -> None:
        """Stop a running training; it writes a checkpoint first."""
        if self._job is not None:
            self._job.stop()

    def _start(self) -> None:
        # One string and not a list: launch files pass lists differently on every distro. Values hold no spaces.
        overrides = value(self, "overrides").split()
        self._announced = ""
        self._job = TrainingJob(value(self, "config"), overrides, Path(value(self, "output")))

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._job is not None and self._job.poll() in ("training", "exporting"):
            response.success, response.message = False, f"already {self._job.state}"
            return response
        try:
            self._start()
            response.success, response.message = True, f"training into {value(self, 'output')}"
        except UserError as error:
            response.success, response.message = False, str(error)
        return response

    def _on_stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._job is None or self._job.poll() not in ("training", "exporting"):
            response.success, response.message = False, "no training is running"
            return response
        self._job.stop()
        response.success, response.message = True, "stopped; start goes on from its checkpoint"
        return response

    def _tick(self) -> None:
        job = self._job
        if job is None:
            return
        state = job.poll()
        self._publish(job, state)
        if state != self._announced and state in ("ready", "failed"):
            if state == "ready":
                self._ready.publish(String(data=str(job.policy.resolve())))
                self.get_logger().info(f"policy ready: {job.policy}")
            else:
                self.get_logger().error("training failed; its own message is above")
                self.exit_code = 1
        self._announced = state

    def _publish(self, job: TrainingJob, state: str) -> None:
        level = DiagnosticStatus.ERROR if state == "failed" else DiagnosticStatus.OK
        status = DiagnosticStatus(level=level, name="trainer", message=state, hardware_id=value(self, "config"))
        progress = job.progress()
        if progress is not None:
            numbers: dict[str, float | None] = {
                "update": progress.update,
                "of": progress.updates,
                "return": progress.episode_return,
                "updates_per_s": progress.updates_per_s,
                "remaining_s": progress.remaining_s,
                **progress.metrics,
            }
            status.values = [KeyValue(key=k, value=f"{v:.6g}") for k, v in numbers.items() if v is not None]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._progress.publish(message)


def main() -> None:
    """Console script `trainer_node`."""
    sys.exit(run(TrainerNode))
