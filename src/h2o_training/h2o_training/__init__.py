# SPDX-License-Identifier: Apache-2.0
"""Twins, offline-and-online reinforcement learning and judging; its core never imports rclpy."""

__version__ = "0.1.0"
