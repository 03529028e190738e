# SPDX-License-Identifier: Apache-2.0
"""Wire protocol, driver node and firmware emulator of the wheel-legged robot."""

import os

__version__ = "0.1.0"

# Before anything imports numpy. Matrices of five rows need no threads, and OpenBLAS waits for its own by spinning: at
# real-time priority that may keep them from the processor for ever.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
