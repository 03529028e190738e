# SPDX-License-Identifier: Apache-2.0
"""Configuration of the parts that algorithms are made of; catalogue.py says which algorithm has which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from h2o_training.config_checks import (
    require,
    require_batch,
    require_count,
    require_layers,
    require_not_negative,
    require_positive,
    require_share,
)


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
        clip_min, clip_max: the ratio is clipped to this range where it weighs a loss.
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
        require_layers("ratio.layers", self.layers)
        require_batch("ratio.batch", self.batch)
        require_count("ratio.every", self.every)
        require_not_negative("ratio.noise_std", self.noise_std)
        require_positive("ratio.logit_bound", self.logit_bound)
        require_positive("ratio.clip_max", self.clip_max)
        valid = 0.0 < self.clip_min < self.clip_max
        require(valid, "ratio.clip_min", f"lie between 0 and ratio.clip_max ({self.clip_max})", self.clip_min)


@dataclass(frozen=True)
class ValueConfig:
    """The state value V learned on real data alone (H2O+ paper Eq. 4), by a loss of the advantage y = Q̂(s, a) − V(s).

    Attributes:
        backbone: "iql" |τ − 1(y<0)| y²; "sql" 1(1 + y/2α > 0)(1 + y/2α)² − y/α; "eql" and "xql" exp(y/α) − y/α.
        expectile: τ of "iql".
        temperature: α of the others.
        exponent_clip: y/α enters the exponent of "eql" and "xql" up to this.
        layers: hidden layers of V.
        layer_norm: normalise each hidden layer of V.
    """

    backbone: Literal["iql", "sql", "eql", "xql"] = "iql"
    expectile: float = 0.7
    temperature: float = 1.0
    exponent_clip: float = 5.0
    layers: tuple[int, ...] = (64, 64)
    layer_norm: bool = False

    def __post_init__(self) -> None:
        require_share("value.expectile", self.expectile)
        require_positive("value.temperature", self.temperature)
        require_positive("value.exponent_clip", self.exponent_clip)
        require_layers("value.layers", self.layers)


@dataclass(frozen=True)
class ExtractionConfig:
    """How a policy is drawn from real data by weighted regression on its actions.

    Attributes:
        inverse_temperature: β of the weight exp(β (Q̂ − V)) (IQL and XQL; SQL's and EQL's weights follow from α).
        weight_cap: no weight exceeds it.
    """

    inverse_temperature: float = 3.0
    weight_cap: float = 100.0

    def __post_init__(self) -> None:
        require_positive("extraction.inverse_temperature", self.inverse_temperature)
        require_positive("extraction.weight_cap", self.weight_cap)


@dataclass(frozen=True)
class ExplorationConfig:
    """The term e(s, a) that is added to Q in the target (H2O+ paper Eq. 7) and in the policy's objective (Eq. 10).

    Attributes:
        kind: "entropy" is −β log π(a|s) with β tuned to a target entropy (SAC); "novelty" is the error of predicting a
            random network of (s, a) (random network distillation, arXiv 1810.12894), large where the twin was seldom.
        target_entropy: of "entropy", nats; None is −1 an action dimension as in SAC.
        weight: of "novelty", in units of the reward inside the learner; the error is divided by its running mean.
        noise_std: of "novelty": the policy's standard deviation before the tanh, which no entropy keeps up then.
        layers: of "novelty": hidden layers of the random network and of its predictor.
    """

    kind: Literal["entropy", "novelty"] = "entropy"
    target_entropy: float | None = None
    weight: float = 0.1
    noise_std: float = 0.2
    layers: tuple[int, ...] = (64, 64)

    def __post_init__(self) -> None:
        require_not_negative("exploration.weight", self.weight)
        require_positive("exploration.noise_std", self.noise_std)
        require_layers("exploration.layers", self.layers)


@dataclass(frozen=True)
class CqlConfig:
    """Conservative Q-learning, CQL(H) (arXiv 2006.04779 Eq. 4).

    Attributes:
        alpha: weight of the regulariser.
        draws: actions drawn uniformly, from π(·|s) and from π(·|s') each, for its log-sum-exp.
    """

    alpha: float = 10.0
    draws: int = 10

    def __post_init__(self) -> None:
        require_not_negative("cql.alpha", self.alpha)
        require_count("cql.draws", self.draws)


@dataclass(frozen=True)
class H2oConfig:
    """H2O (arXiv 2206.13464 Eq. 4–8), with the switches of its ablation (Table 2).

    Attributes:
        beta: weight of the value regularisation.
        draws: of s' for the gap u(s, a) = E log P̂/P.
        gap_spread: s' is drawn around the simulated one with the standard deviation of the real "states" (the authors'
            code) or of their change in a control step, "steps".
        gap_min, gap_max: u is clipped to this range.
        adaptive: weigh the regularisation by the gap; False spreads it evenly ("-a").
        reweight: weigh simulated Bellman errors by the dynamics ratio; False does not ("-dr").
        regularise: push values down where the twin is wrong and up on real data; False does not ("-reg").
    """

    beta: float = 0.01
    draws: int = 10
    gap_spread: Literal["states", "steps"] = "states"
    gap_min: float = 1e-6
    gap_max: float = 10.0
    adaptive: bool = True
    reweight: bool = True
    regularise: bool = True

    def __post_init__(self) -> None:
        require_not_negative("h2o.beta", self.beta)
        require_count("h2o.draws", self.draws)
        require_positive("h2o.gap_max", self.gap_max)
        valid = 0.0 < self.gap_min < self.gap_max
        require(valid, "h2o.gap_min", f"lie between 0 and h2o.gap_max ({self.gap_max})", self.gap_min)


@dataclass(frozen=True)
class H2oPlusConfig:
    """H2O+ (arXiv 2309.12716).

    Attributes:
        lambda_v: λ, weight of V in the target (Eq. 7): 0 trusts Q alone, which learns from the simulator too, 1 the
            real data's V alone.
    """

    lambda_v: float = 0.1

    def __post_init__(self) -> None:
        require_share("h2o_plus.lambda_v", self.lambda_v, closed=True)


@dataclass(frozen=True)
class DarcConfig:
    """DARC (arXiv 2006.13916).

    Attributes:
        reward_clip: the correction log P/P̂ of a simulated reward is clipped to ± this, in the units of the task's
            reward (reward_scale applies to it as it does to the reward).
    """

    reward_clip: float = 10.0

    def __post_init__(self) -> None:
        require_positive("darc.reward_clip", self.reward_clip)
