# SPDX-License-Identifier: Apache-2.0
"""Where losses get their random numbers from: one object, so that a test or a batched run can hand out its own."""

from __future__ import annotations

import torch
from torch import Tensor


class Noise:
    """Standard random numbers from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def normal(self, *shape: int) -> Tensor:
        """Draw from N(0, 1)."""
        return torch.randn(shape, generator=self._generator, device=self._generator.device)

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1)."""
        return torch.rand(shape, generator=self._generator, device=self._generator.device)
