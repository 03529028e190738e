# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

PACKAGE = "h2o_training"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Offline-and-online reinforcement learning (H2O+), twins and judging for the wheel-legged robot",
    license="Apache-2.0",
    maintainer="h2o_robot maintainers",
    maintainer_email="maintainers@h2o-robot.invalid",
    packages=[PACKAGE],
    package_data={PACKAGE: ["py.typed"]},
    python_requires=">=3.11",
    install_requires=[
        "h2o_control",
        "wheel_leg_driver",
        "torch>=2.4",
        "mujoco>=4.0",
        "yourdfpy>=0.0.58",
        "onnx>=1.16",
        "h5py>=3.8",
        "plotly>=5.18",
        "tensorboard>=2.14",
        "scipy>=1.15",
    ],
    extras_require={
        "test": ["pytest", "pytest-timeout", "hypothesis"],
        "formats": ["minari>=0.5", "pyarrow>=14"],
        "wandb": ["wandb>=0.17"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "trainer_node = h2o_training.trainer_node:main",
        ],
        "h2o_robot.commands": [
            "robot = h2o_training.robot_cli:command",
            "dataset = h2o_training.dataset_cli:command",
            "algorithms = h2o_training.algorithms_cli:command",
            "train = h2o_training.train_cli:command",
            "export = h2o_training.export:command",
            "evaluate = h2o_training.evaluate:command",
            "compare = h2o_training.compare_cli:command",
            "sysid = h2o_training.sysid_cli:command",
            "feasible = h2o_training.feasible:command",
            "replay = h2o_training.replay_bag:command",
            "demo = h2o_training.demo:command",
        ],
    },
    zip_safe=True,
)
