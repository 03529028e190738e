# SPDX-License-Identifier: Apache-2.0
"""The fault matrix (`make faults`): every fault in every state, on real nodes in real time.

cells.py      the faults, the states they are tried in, and what must hold, declared beforehand
checks.py     what can be required of a run
actions.py    how each fault is brought about
rig.py        the processes, and the states they are brought into
witness.py    the harness's own node: what is said in the graph
heartbeat.py  whether the machine itself stood still
evidence.py   what a run has left behind, and the time to safe computed from it
runner.py     repetitions of cells, kept as JSON
page.py       docs/fault-matrix.md
"""
