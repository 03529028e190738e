# SPDX-License-Identifier: Apache-2.0
"""Every loss of every algorithm, in value and gradient, against plain versions of the papers' equations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
from h2o_training.algorithms import make_agent
from h2o_training.catalogue import CATALOGUE
from h2o_training.replay import Batch, Drawn
from h2o_training.train_config import TrainConfig
from plain_losses import PLAIN
from plain_parts import Case, Tape

EXAMPLES = 12


@dataclass(frozen=True)
class Variant:
    """An algorithm with what is special about it; the rest is drawn."""

    algorithm: str
    backbone: str | None = None
    exploration: str = "entropy"
    ratio: bool = True
    switches: tuple[str, ...] = ()  # of H2O's ablation, switched off


BACKBONES = ("iql", "sql", "eql", "xql")
VARIANTS = {
    **{name: Variant(name) for name in ("sac", "bc", "cql", "darc", "darc_plus", "h2o")},
    **{name: Variant(name, name) for name in BACKBONES},
    "h2o-a": Variant("h2o", switches=("adaptive",)),
    "h2o-dr": Variant("h2o", switches=("reweight",)),
    "h2o-reg": Variant("h2o", switches=("regularise",)),
    "h2o-a-dr": Variant("h2o", switches=("adaptive", "reweight")),
    "h2o-reg-dr": Variant("h2o", switches=("regularise", "reweight")),
    **{f"h2o_plus-{name}": Variant("h2o_plus", name) for name in BACKBONES},
    **{f"h2o_plus-{name}-without-ratio": Variant("h2o_plus", name, ratio=False) for name in BACKBONES},
    "sac-novelty": Variant("sac", exploration="novelty"),
    "darc_plus-novelty": Variant("darc_plus", exploration="novelty"),
    "h2o_plus-novelty": Variant("h2o_plus", "iql", exploration="novelty"),
}

#: What each loss is to move, and nothing else.
OWN = {
    "critic": "critic",
    "policy": "policy",
    "smoothness": "policy",
    "value": "value",
    "ratio": "ratio",
    "temperature": "exploration",
    "novelty": "exploration",
}


def share(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def drawn_settings(draw: Any, variant: Variant) -> dict[str, Any]:
    """Everything about a case that is not the variant's own: hyperparameters, widths, batch sizes, and a seed."""
    groups = CATALOGUE[variant.algorithm].groups
    clip_min, clip_max = draw(st.sampled_from([(1e-5, 1.0), (0.5, 1.0), (0.2, 2.0)]))  # the lower clip is to bind too
    config: dict[str, Any] = {
        "discount": draw(share(0.5, 0.999)),
        "reward_scale": draw(share(0.1, 2.0)),
        "exploration": ExplorationConfig(
            kind=variant.exploration,
            target_entropy=draw(st.none() | share(-3.0, 1.0)),
            weight=draw(share(0.1, 2.0)),
            noise_std=draw(share(0.1, 1.0)),
            layers=(6, 3),
        ),
    }
    if "value" in groups:
        config["value"] = ValueConfig(
            backbone=variant.backbone,
            # Exact in single precision, in which torch keeps such constants, as is 1 less this.
            expectile=draw(st.integers(1, 63)) / 64,
            temperature=draw(share(0.2, 5.0)),
            exponent_clip=draw(st.sampled_from([0.3, 5.0])),
            layers=(5, 4),
            layer_norm=draw(st.booleans()),
        )
    if "extraction" in groups:
        config["extraction"] = ExtractionConfig(draw(share(0.5, 5.0)), draw(st.sampled_from([1.2, 100.0])))
    if variant.ratio and "ratio" in (*groups, *CATALOGUE[variant.algorithm].optional):
        config["ratio"] = RatioConfig(
            layers=(5,),
            noise_std=draw(share(0.0, 0.5)),
            relative=draw(st.booleans()),
            logit_bound=draw(share(1.0, 4.0)),
            clip_min=clip_min,
            clip_max=clip_max,
        )
    if "cql" in groups:
        config["cql"] = CqlConfig(alpha=draw(share(0.1, 10.0)), draws=draw(st.integers(1, 3)))
    if "h2o" in groups:
        switches = {name: name not in variant.switches for name in ("adaptive", "reweight", "regularise")}
        config["h2o"] = H2oConfig(
            beta=draw(share(0.01, 2.0)),
            draws=draw(st.integers(1, 3)),
            gap_spread=draw(st.sampled_from(["states", "steps"])),
            gap_min=1e-3,
            gap_max=0.3,
            **switches,
        )
    if "h2o_plus" in groups:
        config["h2o_plus"] = H2oPlusConfig(draw(st.sampled_from([0.0, 1.0]) | share(0.0, 1.0)))
    if "darc" in groups:
        config["darc"] = DarcConfig(draw(st.sampled_from([0.2, 10.0])))
    return {
        "config": config,
        "seed": draw(st.integers(0, 2**31)),
        "n_obs": draw(st.integers(2, 5)),
        "n_act": draw(st.integers(1, 2)),
        "sizes": [draw(st.integers(2, 8)) for _ in range(2)],
        "classify": draw(st.booleans()),
        "smoothness": draw(st.sampled_from([0.0, 0.7])),
        "bound": draw(st.none() | share(0.5, 2.0)),
    }


def make_batch(n: int, n_obs: int, n_act: int, generator: torch.Generator) -> Batch:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    action = torch.rand((n, n_act), generator=generator, dtype=torch.float64) * 2 - 1
    proceeds = (torch.rand(n, generator=generator, dtype=torch.float64) < 0.7).double()
    observation = normal(n, n_obs)
    return Batch(observation, action, normal(n), observation + 0.5 * normal(n, n_obs), proceeds)


def make_case(variant: Variant, values: dict[str, Any]) -> Case:
    """An agent with every parameter somewhere of its own, and batches for it."""
    generator = torch.Generator().manual_seed(values["seed"])
    n_obs, n_act = values["n_obs"], values["n_act"]
    entry = CATALOGUE[variant.algorithm]
    real, simulated = (make_batch(n, n_obs, n_act, generator) for n in values["sizes"])
    drawn = Drawn(
        real=real if "real" in entry.batches else None,
        simulated=simulated if "simulated" in entry.batches else None,
    )
    if values["classify"] and "ratio" in values["config"]:
        batches = [make_batch(3, n_obs, n_act, generator) for _ in range(2)]
        drawn = replace(drawn, classify_real=batches[0], classify_simulated=batches[1])
    config = TrainConfig(
        algorithm=variant.algorithm,
        policy_layers=(6,),
        critic_layers=(6, 5),
        batch_real=0 if drawn.real is None else len(real),
        batch_simulated=0 if drawn.simulated is None else len(simulated),
        **values["config"],
    )
    torch.manual_seed(values["seed"])
    agent = make_agent(config, n_obs, n_act, smoothness=values["smoothness"]).double()
    data = make_batch(20, n_obs, n_act, generator)
    if entry.uses_real:
        agent.fit(data)
    if values["bound"] is not None:
        agent.start_at_bound(values["bound"])
    with torch.no_grad():
        # Not where they begin: there the target critics equal the critics, β is 1 and shifts are 0.
        for parameter in agent.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    bound = {} if values["bound"] is None else {"bound": values["bound"]}
    return Case(agent, config, drawn, data, values["smoothness"], **bound)


def gradients(loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Gradient with respect to each parameter, zeros where the loss does not depend on it."""
    if not parameters or not loss.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    given = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, given, strict=True)]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=lambda found: f"{what}: {found}")


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_losses_and_their_gradients_equal_the_papers_equations(name, data):
    variant = VARIANTS[name]
    values = data.draw(drawn_settings(variant))
    case = make_case(variant, values)
    tape = Tape(values["seed"])
    plain = PLAIN[variant.algorithm](case, tape)
    # The agent is handed the same numbers, and must ask for them in the same order.
    noise = tape.again()
    losses, metrics = case.agent.losses(case.drawn, noise)
    assert noise.exhausted
    assert set(losses) == set(plain)
    assert all(torch.isfinite(value).all() for value in metrics.values())
    learned = [p for p in case.agent.parameters() if p.requires_grad]
    for loss_name, loss in losses.items():
        assert_same(loss, plain[loss_name], loss_name)
        own = [p for p in getattr(case.agent, OWN[loss_name]).parameters() if p.requires_grad]
        for ours, theirs in zip(gradients(loss, own), gradients(plain[loss_name], own), strict=True):
            assert_same(ours, theirs, f"gradient of {loss_name}")
        mine = {id(p) for p in own}
        strange = gradients(loss, [p for p in learned if id(p) not in mine])
        assert not any(g.any() for g in strange), f"{loss_name} moves what is not its own"


@pytest.mark.parametrize("algorithm", CATALOGUE)
def test_every_algorithm_of_the_catalogue_is_held_against_its_equations(algorithm):
    assert algorithm in PLAIN
    assert any(variant.algorithm == algorithm for variant in VARIANTS.values())
