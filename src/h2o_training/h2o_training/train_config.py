# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run: frozen, strict, and the place where every hyperparameter is explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from h2o_control.config import apply_overrides, find_config, from_mapping, load_yaml
from h2o_control.contract import Reward, Task
from h2o_control.errors import ConfigError
from h2o_training.twin import TwinConfig


@dataclass(frozen=True)
class RatioConfig:
    """The two classifiers behind the dynamics ratio P/P̂ (H2O+ paper Eq. 9).

    Attributes:
        layers: hidden layers of each classifier.
        batch: real and simulated samples each in one classifier step.
        every: policy updates per classifier step.
        noise_std: Gaussian noise on the classifiers' inputs while they learn, in the units they see.
        relative: True shows the classifiers s, a and s' − s divided by their standard deviations in the real data, so
            that noise_std is relative; False shows s, a, s' as they are (the authors' code).
        logit_bound: logits pass bound·tanh(·/bound), which bounds the ratio to exp(±bound).
        clip_min, clip_max: the ratio is clipped to this range.
    """

    layers: tuple[int, ...] = (64, 64)
    batch: int = 128
    every: int = 2
    noise_std: float = 0.1
    relative: bool = True
    logit_bound: float = 4.0
    clip_min: float = 1e-5
    clip_max: float = 1.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.every < 1:
            raise ValueError("ratio.batch and ratio.every must be at least 1")
        if not 0.0 < self.clip_min < self.clip_max:
            raise ValueError(f"ratio.clip_min {self.clip_min} must lie between 0 and ratio.clip_max {self.clip_max}")


@dataclass(frozen=True)
class H2oPlusConfig:
    """What H2O+ adds to SAC.

    Attributes:
        lambda_v: weight of V in the target (Eq. 7): 0 trusts the simulator's Q alone, 1 the real data's V alone.
        backbone: the offline value loss; "iql" is expectile regression.
        expectile: τ of "iql".
        value_layers: hidden layers of V.
        ratio: the dynamics-ratio classifiers.
    """

    lambda_v: float = 0.1
    backbone: Literal["iql"] = "iql"
    expectile: float = 0.9
    value_layers: tuple[int, ...] = (64, 64)
    ratio: RatioConfig = field(default_factory=RatioConfig)

    def __post_init__(self) -> None:
        if not 0.0 <= self.lambda_v <= 1.0:
            raise ValueError(f"h2o.lambda_v must lie in [0, 1], got {self.lambda_v}")
        if not 0.0 < self.expectile < 1.0:
            raise ValueError(f"h2o.expectile must lie in (0, 1), got {self.expectile}")


@dataclass(frozen=True)
class CollectConfig:
    """How updates and simulation alternate: `steps` control steps of every simulated robot, then `updates` updates.

    Attributes:
        steps, updates: of one round.
        episode_s: a simulated episode that has not failed is cut after this long (a timeout, not a terminal).
        replay_capacity: simulated transitions kept.
    """

    steps: int = 10
    updates: int = 100
    episode_s: float = 5.0
    replay_capacity: int = 100_000

    def __post_init__(self) -> None:
        if min(self.steps, self.updates, self.replay_capacity) < 1 or self.episode_s <= 0:
            raise ValueError("collect.steps, updates, replay_capacity and episode_s must be positive")


@dataclass(frozen=True)
class LogConfig:
    """How often what is written, in updates.

    Attributes:
        every: scalars for TensorBoard.
        evaluate_every: evaluation of the deterministic policy on the twin, of this many seconds simulated (evaluate_s).
        checkpoint_every: checkpoint to resume from; one more is written at the end and on Ctrl-C.
    """

    every: int = 500
    evaluate_every: int = 10_000
    evaluate_s: float = 10.0
    checkpoint_every: int = 10_000


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        algorithm: "h2o_plus" (real data and twin) or "sac" (twin only).
        robot: name or path of the robot whose body the twin has and whose interface the policy is for.
        dataset: HDF5 file of real transitions (h2o_plus).
        task: for sac, which has no dataset to tell it.
        run: folder for checkpoints, logs and provenance; made from algorithm, task and seed where not given.
        seed: of everything random.
        device: torch device.
        updates: gradient updates in total.
        time_limit_s: stop earlier after this wall time; a run that hits it depends on the machine's speed.
        batch_real, batch_simulated: transitions in one update.
        policy_layers, critic_layers: hidden ReLU layers.
        learning_rate: of Adam, for all networks.
        discount: γ a control step.
        polyak: step of the target critics.
        target_entropy: of the policy, nats; None is −1 an action dimension as in SAC.
        policy_average: decay of the average of the policy's weights that is evaluated and exported; 0 takes the last.
        normalise: show the networks observations less mean over standard deviation of the real data (of the
            twin's initial states where there is none).
        reward: training-only replacement of the task's reward (a deviation from the papers); None keeps it.
        reward_scale: factor on the reward inside the learner.
        smoothness: weight of the squared change of the normalised action from one state to the next in the policy's
            loss (CAPS, arXiv 2012.06644; a deviation from the papers); 0 is without.
        x_limit_m, v_limit_mps: training only: beyond these the robot counts as failed (None: the task's own limits).
        optimistic: let Q and V begin at bonus / (1 − γ) instead of about 0, and let no target exceed it: it is what
            standing for ever is worth and the most that any return can be. So the constant need not be learnt by
            bootstrapping, which takes longer than the rest, and values of actions that no data tells of stay bounded.
    """

    algorithm: Literal["h2o_plus", "sac"]
    robot: str = "ideal"
    dataset: str | None = None
    task: str | None = None
    run: str | None = None
    seed: int = 0
    device: str = "cpu"
    updates: int = 50_000
    time_limit_s: float | None = None
    batch_real: int = 128
    batch_simulated: int = 128
    policy_layers: tuple[int, ...] = (64, 64)
    critic_layers: tuple[int, ...] = (64, 64)
    learning_rate: float = 3e-4
    discount: float = 0.99
    polyak: float = 0.005
    target_entropy: float | None = None
    policy_average: float = 0.0
    normalise: bool = True
    reward: Reward | None = None
    reward_scale: float = 1.0
    smoothness: float = 0.0
    x_limit_m: float | None = None
    v_limit_mps: float | None = None
    optimistic: bool = True
    h2o: H2oPlusConfig | None = None
    twin: TwinConfig = field(default_factory=TwinConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.algorithm == "h2o_plus" and (self.h2o is None or self.batch_real < 1):
            raise ValueError("algorithm h2o_plus needs the group h2o and batch_real of at least 1")
        if self.algorithm == "sac" and (self.h2o is not None or self.batch_real != 0):
            raise ValueError("algorithm sac learns in the twin alone: leave out the group h2o and set batch_real to 0")
        if self.algorithm == "sac" and self.dataset is not None:
            raise ValueError("algorithm sac takes no dataset; give task=stand or task=move")
        if self.optimistic and not self.discount < 1.0:
            raise ValueError("optimistic values need a discount below 1")
        for name in ("updates", "batch_simulated", "learning_rate", "reward_scale"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("discount", "polyak", "policy_average"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


def learned_task(config: TrainConfig, task: Task) -> Task:
    """Return the task as the learner sees it: with the training-only reward and limits of `config`."""
    return dataclasses.replace(
        task,
        reward=config.reward or task.reward,
        x_limit_m=config.x_limit_m or task.x_limit_m,
        v_limit_mps=config.v_limit_mps or task.v_limit_mps,
    )


def load_train_config(name_or_path: str, overrides: Sequence[str]) -> TrainConfig:
    """Load `config/training/<name>.yaml` (or a path) with `key=value` overrides on top.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (names the nearest) or a value that cannot be.
    """
    path = find_config("training", name_or_path)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {data!r}")
    return from_mapping(TrainConfig, apply_overrides(data, overrides), str(path))
