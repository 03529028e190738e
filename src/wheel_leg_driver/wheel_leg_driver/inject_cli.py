# SPDX-License-Identifier: Apache-2.0
"""`h2o-robot inject`: do something to a running emulated robot, or ask how it is."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from h2o_control.errors import UserError
from wheel_leg_driver.emulator import links
from wheel_leg_driver.emulator_control import EmulatorControl, EmulatorState, served
from wheel_leg_driver.fault_kinds import describe_kinds
from wheel_leg_driver.protocol import Fault


def command(argv: Sequence[str]) -> int:
    """Run `h2o-robot inject`; see --help."""
    parser = argparse.ArgumentParser(
        prog="h2o-robot inject",
        description="Do something to a running emulated robot: a fault, a hand that tilts it, a stand under it.",
        epilog="example: h2o-robot inject 'tilt pitch=0.2; unplug at=1 for=0.5' (--list names all kinds)",
    )
    parser.add_argument("text", nargs="*", metavar="TEXT", help="kind key=value …, several separated by ';'")
    parser.add_argument("--link", help="of the emulator (that of the launch files, else /tmp/h2o_robot)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--state", action="store_true", help="print how the robot is")
    only.add_argument("--clear", action="store_true", help="end every injection; what the firmware latched stays")
    only.add_argument("--list", action="store_true", help="print the kinds with their keys and ranges")
    args = parser.parse_args(argv)
    if bool(args.text) == (args.state or args.clear or args.list):
        raise UserError("give either a TEXT to inject or one of --state, --clear, --list")
    if args.list:
        print(describe_kinds())
        return 0
    with EmulatorControl(args.link or served(links())) as emulator:
        if args.state:
            print(_described(emulator.state()))
        elif args.clear:
            print(f"cleared {emulator.clear()} injections")
        else:
            for injected in emulator.inject(" ".join(args.text)):
                print(f"{injected['text']}: begins at {injected['device_time_us'] * 1e-6:.3f} s of device time")
    return 0


def _described(state: EmulatorState) -> str:
    x, v, theta, theta_dot = state.truth
    names = [str(fault.name).lower() for fault in Fault if fault & state.faults]
    lines = [
        f"device time   {state.device_time_us * 1e-6:.3f} s",
        f"armed         {'yes' if state.armed else 'no'}{', held' if state.held else ''}",
        f"faults        {', '.join(names) or 'none'}",
        f"port          {'unplugged' if state.unplugged else 'plugged in'}",
        f"torque        {state.torque_nm[0]:+.3f} {state.torque_nm[1]:+.3f} Nm (left, right)",
        f"truth         x {x:+.3f} m, v {v:+.3f} m/s, pitch {theta:+.4f} rad, rate {theta_dot:+.3f} rad/s",
    ]
    for injection in state.injections:
        begins_s = (injection["begins_us"] - state.elapsed_us) * 1e-6
        ends_us = math.inf if injection["ends_us"] is None else injection["ends_us"]
        left_s = (ends_us - state.elapsed_us) * 1e-6
        when = f"begins in {begins_s:.1f} s" if begins_s > 0 else f"{left_s:.1f} s left" if left_s < 1e9 else "lasts"
        lines.append(f"injection     {injection['text']} ({when})")
    return "\n".join(lines)
