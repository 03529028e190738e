# SPDX-License-Identifier: Apache-2.0
"""Wire protocol, driver node and firmware emulator of the wheel-legged robot."""

__version__ = "0.1.0"
