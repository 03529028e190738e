# SPDX-License-Identifier: Apache-2.0
"""Contract, bags, policies and operator nodes of the robot; never imports torch or a simulator."""

__version__ = "0.1.0"
