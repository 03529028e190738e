# SPDX-License-Identifier: Apache-2.0
"""The algorithms there are: what each learns from, which parts it has, and where it was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Entry:
    """One algorithm.

    Attributes:
        name: as in `algorithm:` of a configuration.
        title: as in its paper.
        batches: what critic and policy learn from: "real" transitions (the dataset), "simulated" ones, or both.
        summary: what is its own, in a line.
        source: paper, arXiv number and equations.
        groups: groups of the configuration that it needs. optional: that it may have.
        path: its class, "module:Class".
    """

    name: str
    title: str
    batches: tuple[Literal["real", "simulated"], ...]
    summary: str
    source: str
    groups: tuple[str, ...]
    optional: tuple[str, ...]
    path: str

    @property
    def uses_real(self) -> bool:
        """Whether it needs a dataset."""
        return "real" in self.batches or "ratio" in self.groups

    @property
    def uses_simulated(self) -> bool:
        """Whether it acts in the twin while it learns."""
        return "simulated" in self.batches

    @property
    def learns_from(self) -> str:
        """Say it for people."""
        if self.batches == ("simulated",):
            return "twin, ratio from data" if self.uses_real else "twin"
        return "data" if self.batches == ("real",) else "data and twin"


#: Groups of the configuration that belong to some algorithms only.
GROUPS = ("value", "ratio", "extraction", "cql", "h2o", "h2o_plus", "darc")

_ENTRIES = (
    Entry(
        "sac",
        "SAC",
        ("simulated",),
        "soft actor-critic in the twin alone",
        "Haarnoja et al. 2018, arXiv 1812.05905",
        (),
        (),
        "h2o_training.sac:SoftActorCritic",
    ),
    Entry(
        "bc",
        "BC",
        ("real",),
        "behaviour cloning: the likelihood of the recorded actions",
        "Pomerleau 1989; Gaussian likelihood",
        (),
        (),
        "h2o_training.bc:BehaviourCloning",
    ),
    Entry(
        "cql",
        "CQL",
        ("real",),
        "values of actions that the data do not show are pushed down",
        "Kumar et al. 2020, arXiv 2006.04779 Eq. 4",
        ("cql",),
        (),
        "h2o_training.cql:ConservativeQLearning",
    ),
    Entry(
        "iql",
        "IQL",
        ("real",),
        "expectile of the values of recorded actions; advantage-weighted regression",
        "Kostrikov et al. 2021, arXiv 2110.06169 Eq. 5-7",
        ("value", "extraction"),
        (),
        "h2o_training.in_sample:InSample",
    ),
    Entry(
        "sql",
        "SQL",
        ("real",),
        "sparse in-sample values (implicit value regularisation)",
        "Xu et al. 2023, arXiv 2303.15810",
        ("value", "extraction"),
        (),
        "h2o_training.in_sample:InSample",
    ),
    Entry(
        "eql",
        "EQL",
        ("real",),
        "exponential in-sample values (implicit value regularisation)",
        "Xu et al. 2023, arXiv 2303.15810",
        ("value", "extraction"),
        (),
        "h2o_training.in_sample:InSample",
    ),
    Entry(
        "xql",
        "XQL",
        ("real",),
        "soft-optimal values by Gumbel regression",
        "Garg et al. 2023, arXiv 2301.02328",
        ("value", "extraction"),
        (),
        "h2o_training.in_sample:InSample",
    ),
    Entry(
        "darc",
        "DARC",
        ("simulated",),
        "SAC in the twin, with rewards corrected by the log dynamics ratio",
        "Eysenbach et al. 2020, arXiv 2006.13916",
        ("ratio", "darc"),
        (),
        "h2o_training.darc:Darc",
    ),
    Entry(
        "darc_plus",
        "DARC+",
        ("real", "simulated"),
        "DARC whose critic and policy learn from the real data too",
        "Niu et al. 2022, arXiv 2206.13464 Sec. 6.2",
        ("ratio", "darc"),
        (),
        "h2o_training.darc:DarcPlus",
    ),
    Entry(
        "h2o",
        "H2O",
        ("real", "simulated"),
        "values pushed down where the twin is wrong and up on real data",
        "Niu et al. 2022, arXiv 2206.13464 Eq. 4-8, Algorithm 1",
        ("ratio", "h2o"),
        (),
        "h2o_training.h2o:H2o",
    ),
    Entry(
        "h2o_plus",
        "H2O+",
        ("real", "simulated"),
        "a value learned on real data mixed into the targets, twin's errors weighed by the ratio",
        "Niu et al. 2023, arXiv 2309.12716 Eq. 2-10",
        ("value", "h2o_plus"),
        ("ratio",),
        "h2o_training.h2o_plus:H2oPlus",
    ),
)
CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
