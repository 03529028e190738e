# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

from setuptools import setup

PACKAGE = "h2o_control"

ROOT = Path(__file__).resolve().parents[2]


def shared_files() -> list[tuple[str, list[str]]]:
    """Launch files and configuration of the workspace, installed under share/h2o_control."""
    share = Path("share") / PACKAGE
    files: list[tuple[str, list[str]]] = []
    for top in ("launch", "config"):
        for folder in sorted({p.parent for p in (ROOT / top).rglob("*.yaml")}):
            names = [os.path.relpath(p, Path(__file__).parent) for p in sorted(folder.glob("*.yaml"))]
            files.append((str(share / folder.relative_to(ROOT)), names))
    return files


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Contract, policy node, recorder, teleop and command line of the wheel-legged robot",
    license="Apache-2.0",
    maintainer="h2o_robot maintainers",
    maintainer_email="maintainers@h2o-robot.invalid",
    packages=[PACKAGE],
    package_data={PACKAGE: ["py.typed", "fastdds.xml"]},
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.21",
        "PyYAML>=5.4",
        "onnxruntime>=1.15",
        "mcap>=1.6",
        "zstandard>=0.18",
        "rosbags>=0.11",
        "honcho>=1.1",
        "rich>=13",
    ],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
        *shared_files(),
    ],
    entry_points={
        "console_scripts": [
            "h2o-robot = h2o_control.cli:main",
            "policy_node = h2o_control.policy_node:main",
            "recorder_node = h2o_control.recorder_node:main",
            "teleop_node = h2o_control.teleop_node:main",
            "joystick_node = h2o_control.joystick_node:main",
            "bag_player_node = h2o_control.bag_player_node:main",
        ],
        "h2o_robot.commands": [
            "up = h2o_control.up:command",
            "teleop = h2o_control.keyboard:command",
            "operate = h2o_control.operate_cli:command",
            "bag = h2o_control.bag_cli:command",
        ],
    },
    zip_safe=True,
)
