# SPDX-License-Identifier: Apache-2.0
from setuptools import setup

PACKAGE = "wheel_leg_driver"

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Serial driver, wire protocol and firmware emulator of a wheel-legged balancing robot",
    license="Apache-2.0",
    maintainer="h2o_robot maintainers",
    maintainer_email="maintainers@h2o-robot.invalid",
    packages=[PACKAGE],
    package_data={PACKAGE: ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "h2o_control",
        "numpy>=1.21",
        "scipy>=1.8",
        "pyserial>=3.5",
        "cobs>=1.2",
    ],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + PACKAGE]),
        ("share/" + PACKAGE, ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "driver_node = wheel_leg_driver.driver_node:main",
            "emulator = wheel_leg_driver.emulator:main",
        ],
        "h2o_robot.commands": [
            "emulate = wheel_leg_driver.emulator:command",
            "inject = wheel_leg_driver.inject_cli:command",
            "calibrate = wheel_leg_driver.calibrate_cli:command",
        ],
    },
    zip_safe=True,
)
