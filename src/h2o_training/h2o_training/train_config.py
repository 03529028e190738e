# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run: frozen, strict, and the place where every hyperparameter is explained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from h2o_control.config import apply_overrides, find_config, from_mapping, load_yaml
from h2o_control.contract import Reward, Task
from h2o_control.errors import ConfigError
from h2o_training.twin import TwinConfig

#: Beyond these a value is a slip of the finger, found out here rather than by an allocation that fails.
LARGEST_BATCH, WIDEST_LAYER, LONGEST_EPISODE_S = 100_000, 10_000, 3600.0


def _require(valid: bool, name: str, rule: str, value: object) -> None:
    if not valid:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def _require_layers(name: str, layers: tuple[int, ...]) -> None:
    valid = len(layers) > 0 and all(1 <= width <= WIDEST_LAYER for width in layers)
    _require(valid, name, f"list at least one layer, each of 1 to {WIDEST_LAYER} units", list(layers))


def _require_batch(name: str, batch: int) -> None:
    _require(1 <= batch <= LARGEST_BATCH, name, f"lie in 1 to {LARGEST_BATCH}", batch)


def _require_positive(name: str, value: float) -> None:
    _require(0.0 < value < math.inf, name, "be positive and finite", value)


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
        _require_layers("ratio.layers", self.layers)
        _require_batch("ratio.batch", self.batch)
        _require(self.every >= 1, "ratio.every", "be at least 1", self.every)
        _require(0.0 <= self.noise_std < math.inf, "ratio.noise_std", "be 0 or more and finite", self.noise_std)
        _require_positive("ratio.logit_bound", self.logit_bound)
        _require_positive("ratio.clip_max", self.clip_max)
        valid = 0.0 < self.clip_min < self.clip_max
        _require(valid, "ratio.clip_min", f"lie between 0 and ratio.clip_max ({self.clip_max})", self.clip_min)


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
        _require(0.0 <= self.lambda_v <= 1.0, "h2o.lambda_v", "lie in [0, 1]", self.lambda_v)
        _require(0.0 < self.expectile < 1.0, "h2o.expectile", "lie in (0, 1)", self.expectile)
        _require_layers("h2o.value_layers", self.value_layers)


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
        for name in ("steps", "updates", "replay_capacity"):
            _require(getattr(self, name) >= 1, f"collect.{name}", "be at least 1", getattr(self, name))
        valid = 0.0 < self.episode_s <= LONGEST_EPISODE_S
        _require(valid, "collect.episode_s", f"be positive and at most {LONGEST_EPISODE_S:g}", self.episode_s)


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

    def __post_init__(self) -> None:
        for name in ("every", "evaluate_every", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"log.{name}", "be at least 1", getattr(self, name))
        valid = 0.0 < self.evaluate_s <= LONGEST_EPISODE_S
        _require(valid, "log.evaluate_s", f"be positive and at most {LONGEST_EPISODE_S:g}", self.evaluate_s)


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
        x_limit_m, v_limit_mps: training only: beyond these the robot counts as failed, in the twin and in the data
            (None: in the twin the task's own limits, in the data falls alone).
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
        if self.algorithm == "h2o_plus" and self.h2o is None:
            raise ValueError("algorithm h2o_plus needs the group h2o")
        if self.algorithm == "sac" and (self.h2o is not None or self.batch_real != 0):
            raise ValueError("algorithm sac learns in the twin alone: leave out the group h2o and set batch_real to 0")
        if self.algorithm == "sac" and self.dataset is not None:
            raise ValueError("algorithm sac takes no dataset; give task=stand or task=move")
        if self.algorithm == "h2o_plus":
            _require_batch("batch_real", self.batch_real)
        _require_batch("batch_simulated", self.batch_simulated)
        _require_layers("policy_layers", self.policy_layers)
        _require_layers("critic_layers", self.critic_layers)
        _require(0 <= self.seed < 2**63, "seed", "lie in 0 to 2**63 - 1", self.seed)
        _require(self.updates >= 1, "updates", "be at least 1", self.updates)
        for name in ("learning_rate", "reward_scale"):
            _require_positive(name, getattr(self, name))
        for name in ("time_limit_s", "x_limit_m", "v_limit_mps"):
            value = getattr(self, name)
            _require(value is None or 0.0 < value < math.inf, name, "be positive and finite, or null for none", value)
        _require(0.0 < self.discount < 1.0, "discount", "lie in (0, 1)", self.discount)
        _require(0.0 < self.polyak <= 1.0, "polyak", "lie in (0, 1]", self.polyak)
        # An average of decay 1 would keep the initial weights for ever.
        _require(0.0 <= self.policy_average < 1.0, "policy_average", "lie in [0, 1)", self.policy_average)
        _require(0.0 <= self.smoothness < math.inf, "smoothness", "be 0 or more and finite", self.smoothness)


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
