# SPDX-License-Identifier: Apache-2.0
"""Record the golden bags of bags/golden anew, through the real graph on emulated robots: `make golden`.

Every bag is recorded by the real nodes in real time, so that its stamps, torques and checksums are others each time;
what it must show is checked here before it replaces the old one. Give names to record only those.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from h2o_control import launch_file, topics, up
from h2o_control.atomic_file import write_atomically
from h2o_control.bag_messages import bag_files, read_messages
from h2o_control.bag_reader import Bag, read_bag
from h2o_control.supervisor import Supervisor
from policy_tools import linear_policy
from wheel_leg_driver.balance import lqr_gain
from wheel_leg_driver.robot import load_robot

ROOT = Path(__file__).parents[1]
GOLDEN = Path("bags/golden")
SUMS = GOLDEN / "SHA256SUMS"
PAGE = Path("bags/README.md")
MOST_BYTES = 5_000_000
TRIES = 3
#: Policies by name: the ideal robot's own gain, and a share of it too small to hold any robot.
POLICIES = {"stand": 1.0, "weak": 0.15}
#: Seconds of recording after which the recorder is killed.
KILL_AFTER_S = 4.0


def policy(name: str) -> str:
    return str(GOLDEN / "policies" / f"{name}.onnx")


@dataclass(frozen=True)
class Golden:
    """One bag: a launch file, its arguments, and `wrong`, which says what a recording lacks, or nothing."""

    name: str
    what: str
    launch: str
    given: Mapping[str, str] = field(default_factory=dict)
    wrong: Callable[[Bag], str] = lambda bag: ""
    namespace: str = ""
    kill: bool = False

    @property
    def command(self) -> str:
        """What to type for about the same."""
        given = " ".join(f"{key}:={value}" for key, value in self.given.items())
        return f"h2o-robot up launch/{self.launch}.launch.yaml {given} bag:={GOLDEN / self.name} --until teleop"


def other_modes(bag: Bag, *expected: str) -> str:
    """A busy machine also makes a driver give up, or a policy too late: then other modes are in command."""
    found = {change.mode for e in bag.episodes for change in e.mode_changes}
    others = sorted(found - {*expected, topics.BALANCE, topics.DISARMED})
    return f"the robot went into {', '.join(others)}" if others else ""


def balanced(bag: Bag) -> str:
    return other_modes(bag)


def commanded(bag: Bag) -> str:
    steps = sum(int((e.modes() == topics.TORQUE).sum()) for e in bag.episodes)
    few = f"the policy was in command for {steps} steps only" if steps < 400 else ""
    return few or other_modes(bag, topics.TORQUE)


def fell(bag: Bag) -> str:
    falls = [c for e in bag.episodes for c in e.mode_changes if c.reason.startswith(topics.FALLEN)]
    return other_modes(bag, topics.TORQUE, topics.FAULT) if falls else "the policy did not fall"


def held(bag: Bag) -> str:
    steps = sum(int((e.modes() == topics.HOLD).sum()) for e in bag.episodes)
    few = f"the driver held the robot for {steps} steps only" if steps < 100 else ""
    return few or other_modes(bag, topics.TORQUE, topics.HOLD)


def cut_off(bag: Bag) -> str:
    cut = bag.episodes[-1].recovered and len(bag.episodes[-1].stamp_ns) > 400
    return balanced(bag) if cut else "the last file is not cut off"


def gaps(bag: Bag) -> str:
    """A busy machine makes a driver miss frames; a golden bag lacks none."""
    missing = sum(int((np.diff(e.sequence) != 1).sum()) for e in bag.episodes)
    return f"frames are missing at {missing} places" if missing else ""


def collect(robot: str, seed: int, **more: str) -> dict[str, str]:
    return {"robot": robot, "seed": str(seed), "duration_s": "5", **more}


GOLDENS = (
    Golden("ideal", "the scripted operator drives `ideal`", "collect", collect("ideal", 1), balanced),
    Golden("worn", "the scripted operator drives `worn`", "collect", collect("worn", 2), balanced),
    Golden("hard", "the scripted operator drives `hard`", "collect", collect("hard", 3, exploration="0.3"), balanced),
    Golden("carpet", "the scripted operator drives `carpet`", "collect", collect("carpet", 4), balanced),
    Golden(
        "policy",
        "`stand.onnx` in command of `worn`, then given back by request",
        "deploy",
        {"robot": "worn", "policy": policy("stand"), "seed": "5", "duration_s": "5"},
        commanded,
    ),
    Golden(
        "fall",
        "`weak.onnx` in command of `worn`, tilt limit opened: it falls",
        "deploy",
        {"robot": "worn", "policy": policy("weak"), "seed": "6", "duration_s": "2", "tilt_rad": "1.5"},
        fell,
    ),
    Golden(
        "hold",
        "`weak.onnx` in command of `worn`: beyond 0.15 rad the driver takes the robot back and holds it",
        "deploy",
        {"robot": "worn", "policy": policy("weak"), "seed": "7", "duration_s": "2", "tilt_rad": "0.15"},
        held,
    ),
    Golden(
        "namespaced",
        "as `ideal`, every ROS node with `-r __ns:=/robot1`",
        "collect",
        collect("ideal", 8, duration_s="2"),
        balanced,
        namespace="/robot1",
    ),
    Golden(
        "killed",
        f"as `worn`; the recorder was killed (SIGKILL) {KILL_AFTER_S:g} s into the episode and nothing was repaired",
        "collect",
        collect("worn", 9, duration_s="20"),
        cut_off,
        kill=True,
    ),
)


def make_policies(folder: Path) -> None:
    """Write the policies, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    gain = lqr_gain(load_robot("ideal"))
    for name, share in POLICIES.items():
        linear_policy(folder / f"{name}.onnx", list(share * gain), provenance='{"made": "make golden"}')


def record(golden: Golden, path: Path) -> None:
    """Record one bag at `path`, in the words of the launch file."""
    nodes = launch_file.nodes(Path(f"launch/{golden.launch}.launch.yaml"), {**golden.given, "bag": str(path)})
    supervisor = Supervisor("teleop")
    with (
        tempfile.TemporaryDirectory(prefix="golden-") as folder,
        killer(path) if golden.kill else contextlib.nullcontext(),
    ):
        for node in nodes:
            command = up.node_command(node, Path(folder))
            if golden.namespace and node.executable != "emulator":
                command += ["-r", f"__ns:={golden.namespace}"]
            supervisor.add(node.name, command, up.node_environment())
        status = supervisor.run()
    if status and not golden.kill:
        raise RuntimeError(f"{golden.name}: {supervisor.failure or f'status {status}'}")


@contextlib.contextmanager
def killer(path: Path) -> Iterator[None]:
    """Kill the recorder KILL_AFTER_S after the first file of the bag has appeared."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            if list(path.glob("*.mcap")):
                stop.wait(KILL_AFTER_S)
                for child in psutil.Process().children(recursive=True):
                    if any("recorder_node" in word for word in child.cmdline()):
                        child.send_signal(signal.SIGKILL)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def private(path: Path) -> str:
    """Return what in a bag tells whose machine it was made on; "" where nothing does."""
    words = {str(ROOT), str(Path.home()), os.uname().nodename} - {"/", "/root", "localhost"}
    said: list[str] = []
    files, metadata = bag_files(path)
    names = (topics.MODE, topics.POLICY, topics.CONFIGURATION, topics.INTERFACE, topics.DIAGNOSTICS)
    for file in files:
        said += [repr(message) for _, _, message in read_messages(file, names)]
    everything = "\n".join([*said, str(metadata)])
    return ", ".join(sorted(word for word in words if word in everything))


def make(golden: Golden, folder: Path) -> Path:
    """Record until the bag shows what it must; raises RuntimeError where it does not within TRIES."""
    why = ""
    for number in range(TRIES):
        path = folder / str(number) / golden.name
        path.parent.mkdir(parents=True)
        time.sleep(1.0)  # the nodes of the bag before have left the graph
        record(golden, path)
        bag = read_bag(path)
        why = golden.wrong(bag) or gaps(bag)
        if not why:
            told = private(path)
            if told:
                raise RuntimeError(f"{golden.name} names {told}, which is nobody's business")
            return path
        print(f"{golden.name}: {why}; once more")
    raise RuntimeError(f"{golden.name}: {why}, in {TRIES} recordings")


def sums() -> str:
    """Checksums of everything in the folder, as sha256sum writes and checks them."""
    files = sorted(p for p in GOLDEN.rglob("*") if p.is_file() and p != SUMS)
    return "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(GOLDEN)}\n" for p in files)


def table() -> str:
    """One row a bag, for the page."""
    rows = ["| bag | what happens | episodes | states | kB |", "|---|---|---|---|---|"]
    for golden in GOLDENS:
        bag = read_bag(GOLDEN / golden.name)
        size = sum(p.stat().st_size for p in (GOLDEN / golden.name).iterdir())
        states = sum(len(e.stamp_ns) for e in bag.episodes)
        rows.append(f"| `{golden.name}` | {golden.what} | {len(bag.episodes)} | {states} | {size / 1e3:.0f} |")
    commands = "\n".join(f"    {golden.command}" for golden in GOLDENS)
    return "\n".join(rows) + f"\n\nWhat was started, apart from namespace and kill:\n\n{commands}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the golden bags anew; the machine should be quiet.")
    names = [golden.name for golden in GOLDENS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; default: all ({', '.join(names)})")
    wanted = parser.parse_args().names or names
    if unknown := set(wanted) - set(names):
        parser.error(f"no golden bag is named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    os.chdir(ROOT)
    # Nobody else is likely to use this domain.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    make_policies(GOLDEN / "policies")
    with tempfile.TemporaryDirectory(dir="bags", prefix=".golden-") as scratch:
        for golden in GOLDENS:
            if golden.name in wanted:
                path = make(golden, Path(scratch) / golden.name)
                shutil.rmtree(GOLDEN / golden.name, ignore_errors=True)
                path.rename(GOLDEN / golden.name)
    size = sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file())
    if size > MOST_BYTES:
        sys.exit(f"{GOLDEN} holds {size / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:g} MB are kept: shorten a bag")
    page = re.sub(
        r"(?s)(<!-- golden: written by make golden -->\n).*?(<!-- end -->)",
        lambda found: found[1] + table() + found[2],
        PAGE.read_text("utf-8"),
    )
    write_atomically(PAGE, page.encode())
    write_atomically(SUMS, sums().encode())
    print(f"{GOLDEN}: {len(names)} bags, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
