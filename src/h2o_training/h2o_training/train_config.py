# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training run: frozen, strict, and the place where every hyperparameter is explained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from h2o_control.config import apply_overrides, find_config, from_mapping
from h2o_control.contract import TASKS, Reward, Task
from h2o_control.errors import nearest
from h2o_training.algorithm_config import (
    CqlConfig,
    DarcConfig,
    ExplorationConfig,
    ExtractionConfig,
    H2oConfig,
    H2oPlusConfig,
    RatioConfig,
    ValueConfig,
)
from h2o_training.catalogue import CATALOGUE, GROUPS
from h2o_training.config_checks import (
    LONGEST_EPISODE_S,
    require,
    require_batch,
    require_count,
    require_layers,
    require_not_negative,
    require_positive,
    require_share,
)
from h2o_training.layered_yaml import load_layered
from h2o_training.twin import TwinConfig


@dataclass(frozen=True)
class Shaping:
    """Training-only changes to a task (deviations from the papers); the policy is judged by the task as it is.

    Attributes:
        reward: in place of the task's; None keeps it.
        smoothness: weight of the squared change of the normalised action from one state to the next in the policy's
            loss (CAPS, arXiv 2012.06644); 0 is without.
        x_limit_m, v_limit_mps: beyond these the robot counts as failed, in the twin and in the data (None: in the twin
            the task's own limits, in the data falls alone).
    """

    reward: Reward | None = None
    smoothness: float = 0.0
    x_limit_m: float | None = None
    v_limit_mps: float | None = None

    def __post_init__(self) -> None:
        require_not_negative("smoothness", self.smoothness)
        for name in ("x_limit_m", "v_limit_mps"):
            value = getattr(self, name)
            require(value is None or 0.0 < value < math.inf, name, "be positive and finite, or null for none", value)


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
            require_count(f"collect.{name}", getattr(self, name))
        valid = 0.0 < self.episode_s <= LONGEST_EPISODE_S
        require(valid, "collect.episode_s", f"be positive and at most {LONGEST_EPISODE_S:g}", self.episode_s)


@dataclass(frozen=True)
class JudgeConfig:
    """An emulated robot on which the policy is judged at each evaluation, in lock-step; people see it, training never.

    Attributes:
        robot: name or path of a robot with a plant and the policy's interface.
        episodes: from the same perturbed starts each time.
        seconds: length of each; 20 s of a robot that stands take about 1 s.
    """

    robot: str
    episodes: int = 4
    seconds: float = 30.0

    def __post_init__(self) -> None:
        require_count("judge.episodes", self.episodes)
        valid = 0.0 < self.seconds <= LONGEST_EPISODE_S
        require(valid, "judge.seconds", f"be positive and at most {LONGEST_EPISODE_S:g}", self.seconds)


@dataclass(frozen=True)
class LogConfig:
    """How often what is written, in updates.

    Attributes:
        every: scalars for TensorBoard.
        evaluate_every: evaluation of the deterministic policy on the twin.
        evaluate_s: length of such an evaluation, simulated seconds.
        checkpoint_every: checkpoint to resume from; one more is written at the end and on Ctrl-C.
        judge: emulated robot on which the policy is judged at each evaluation; null for none.
        wandb: project on Weights & Biases that gets the TensorBoard log too; null for none.
    """

    every: int = 500
    evaluate_every: int = 10_000
    evaluate_s: float = 10.0
    checkpoint_every: int = 10_000
    judge: JudgeConfig | None = None
    wandb: str | None = None

    def __post_init__(self) -> None:
        require(self.wandb != "", "log.wandb", "name a project, or be null", self.wandb)
        for name in ("every", "evaluate_every", "checkpoint_every"):
            require_count(f"log.{name}", getattr(self, name))
        valid = 0.0 < self.evaluate_s <= LONGEST_EPISODE_S
        require(valid, "log.evaluate_s", f"be positive and at most {LONGEST_EPISODE_S:g}", self.evaluate_s)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        algorithm: a name of catalogue.CATALOGUE (`h2o-robot algorithms` lists them).
        robot: name or path of the robot whose body the twin has and whose interface the policy is for.
        dataset: HDF5 file of real transitions.
        task: where no dataset tells it.
        run: folder for checkpoints, logs and provenance; made from algorithm, task and seed where not given.
        seed: of everything random.
        device: torch device.
        updates: gradient updates in total.
        time_limit_s: stop earlier after this wall time; a run that hits it depends on the machine's speed.
        batch_real, batch_simulated: transitions in one update; 0 for those that the algorithm does not learn from.
        policy_layers, critic_layers: hidden ReLU layers.
        learning_rate: of Adam, for all networks.
        policy_learning_rate: for the policy's instead; None is learning_rate.
        policy_decay: let the policy's learning rate fall to 0 over the run, along a cosine.
        discount: γ a control step.
        polyak: step of the target critics.
        policy_average: decay of the average of the policy's weights that is evaluated and exported; 0 takes the last.
        normalise: show the networks observations less mean over standard deviation of the real data (of the
            twin's initial states where there is none).
        reward_scale: factor on the reward inside the learner.
        shaping: training-only changes to the reward and limits of the task, by the task's name.
        optimistic: let Q and V begin at bonus / (1 − γ) instead of about 0, and let no target exceed it: it is what
            standing for ever is worth and the most that any return can be. So the constant need not be learnt by
            bootstrapping, which takes longer than the rest, and values of actions that no data tells of stay bounded.
        exploration: entropy, or another term in its place.
        value: V, learned on real data (iql, sql, eql, xql, h2o_plus).
        ratio: classifiers of the dynamics ratio (darc, darc_plus, h2o, h2o_plus; null leaves h2o_plus without).
        extraction: weighted regression of the policy (iql, sql, eql, xql).
        cql, h2o, h2o_plus, darc: what only that algorithm has (darc: darc_plus too).
        twin: simulator to learn in and to be evaluated on.
        check_twin: refuse a dataset that cannot be of the robot whose twin it is: other units, signs or time step.
        collect: how simulation and updates alternate.
        log: what is written how often.
    """

    algorithm: str
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
    policy_learning_rate: float | None = None
    policy_decay: bool = False
    discount: float = 0.99
    polyak: float = 0.005
    policy_average: float = 0.0
    normalise: bool = True
    reward_scale: float = 1.0
    shaping: dict[str, Shaping] = field(default_factory=dict)
    optimistic: bool = True
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    value: ValueConfig | None = None
    ratio: RatioConfig | None = None
    extraction: ExtractionConfig | None = None
    cql: CqlConfig | None = None
    h2o: H2oConfig | None = None
    h2o_plus: H2oPlusConfig | None = None
    darc: DarcConfig | None = None
    twin: TwinConfig = field(default_factory=TwinConfig)
    check_twin: bool = True
    collect: CollectConfig = field(default_factory=CollectConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        self._require_parts()
        require_layers("policy_layers", self.policy_layers)
        require_layers("critic_layers", self.critic_layers)
        require(0 <= self.seed < 2**63, "seed", "lie in 0 to 2**63 - 1", self.seed)
        require_count("updates", self.updates)
        for name in ("learning_rate", "reward_scale"):
            require_positive(name, getattr(self, name))
        for name in ("time_limit_s", "policy_learning_rate"):
            value = getattr(self, name)
            require(value is None or 0.0 < value < math.inf, name, "be positive and finite, or null for none", value)
        require_share("discount", self.discount)
        require(0.0 < self.polyak <= 1.0, "polyak", "lie in (0, 1]", self.polyak)
        # An average of decay 1 would keep the initial weights for ever.
        require(0.0 <= self.policy_average < 1.0, "policy_average", "lie in [0, 1)", self.policy_average)
        for name in self.shaping:
            if name not in TASKS:
                raise ValueError(f"shaping: no task named {name!r}.{nearest(name, TASKS)}")

    def _require_parts(self) -> None:
        """Raise ValueError where groups and batches are not those of the algorithm."""
        entry = CATALOGUE.get(self.algorithm)
        if entry is None:
            raise ValueError(f"no algorithm named {self.algorithm!r}.{nearest(self.algorithm, CATALOGUE)}")
        name = self.algorithm
        for group in GROUPS:
            given = getattr(self, group) is not None
            if group in entry.groups and not given:
                raise ValueError(f"algorithm {name} needs the group {group}")
            if given and group not in (*entry.groups, *entry.optional):
                raise ValueError(f"algorithm {name} has no use for the group {group}: leave it out, or set it to null")
        for kind in ("real", "simulated"):
            size = getattr(self, f"batch_{kind}")
            if kind in entry.batches:
                require_batch(f"batch_{kind}", size)
            elif size != 0:
                raise ValueError(f"algorithm {name} learns from no {kind} transitions: set batch_{kind} to 0")
        if self.dataset is not None and not entry.uses_real:
            raise ValueError(f"algorithm {name} takes no dataset; give task=stand or task=move")
        if self.exploration.kind == "novelty" and not entry.uses_simulated:
            raise ValueError(f"algorithm {name} explores nothing: exploration.kind must be entropy, got novelty")
        in_sample = name in ("iql", "sql", "eql", "xql")
        if in_sample and self.value is not None and self.value.backbone != name:
            raise ValueError(f"algorithm {name} has value.backbone {name}, got {self.value.backbone}")

    def shaping_of(self, task: Task) -> Shaping:
        """What training changes of `task`; nothing where the configuration does not name it."""
        return self.shaping.get(task.name, Shaping())


def learned_task(config: TrainConfig, task: Task) -> Task:
    """Return the task as the learner sees it: with the training-only reward and limits of `config`."""
    shaping = config.shaping_of(task)
    return dataclasses.replace(
        task,
        reward=shaping.reward or task.reward,
        x_limit_m=shaping.x_limit_m or task.x_limit_m,
        v_limit_mps=shaping.v_limit_mps or task.v_limit_mps,
    )


def load_train_config(name_or_path: str, overrides: Sequence[str]) -> TrainConfig:
    """Load `config/training/<name>.yaml` (or a path) with the files it names as `base`, and overrides on top.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (names the nearest) or a value that cannot be.
    """
    path = find_config("training", name_or_path)
    return from_mapping(TrainConfig, apply_overrides(load_layered(path), overrides), str(path))
