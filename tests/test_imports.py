# SPDX-License-Identifier: Apache-2.0
"""Who may import whom (docs/design.md), read from the sources: module level, inside functions and under conditions."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"
PACKAGES = ("h2o_control", "wheel_leg_driver", "h2o_training")
FILES = {
    f"{package}.{path.stem}": path
    for package in PACKAGES
    for path in sorted((SOURCES / package / package).glob("*.py"))
}
CONTROL = [name for name in FILES if name.startswith("h2o_control.")]
DRIVER = [name for name in FILES if name.startswith("wheel_leg_driver.")]
TRAINING = [name for name in FILES if name.startswith("h2o_training.")]

#: What the driver shares with the rest: definitions and the manners of a node, nothing that decides or records.
SHARED_WITH_DRIVER = {
    "config",
    "contract",
    "errors",
    "topics",
    "node_tools",
    "realtime",
    "middleware",
    "clock",
    "histogram",
    "hot_lane",
    "atomic_file",
}
OFF_BOARD_ONLY = {"torch", "mujoco", "gymnasium", "h5py", "onnx", "plotly", "tensorboard", "h2o_training"}
NEWER_THAN_3_10 = {
    "tomllib",
    "enum.StrEnum",
    "datetime.UTC",
    "typing.Self",
    "typing.assert_never",
    "typing.Never",
    "typing.override",
    "asyncio.TaskGroup",
    "asyncio.timeout",
    "contextlib.chdir",
    "wsgiref.types",
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"), str(FILES[module]))


@cache
def imports(module: str) -> frozenset[str]:
    """Dotted names a module imports, with the imported names: `from a import b` gives a.b."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, (module.split(".")[0], base)))
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(found)


def top(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def project_modules(module: str) -> set[str]:
    """Modules of the project that a module imports directly."""
    parts = {".".join(name.split(".")[:2]) for name in imports(module) if name.partition(".")[0] in PACKAGES}
    return parts & set(FILES)


def reaches(module: str, package: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """Return a chain of project modules from this one to an import of `package`, or nothing."""
    if package in top(imports(module)):
        return [module]
    for following in sorted(project_modules(module) - seen - {module}):
        chain = reaches(following, package, seen | {module})
        if chain:
            return [module, *chain]
    return []


def test_all_three_packages_were_read() -> None:
    assert len(CONTROL) > 5
    assert len(DRIVER) > 5
    assert len(TRAINING) > 5
    assert "h2o_control.config" in project_modules("wheel_leg_driver.robot")


@pytest.mark.parametrize("module", CONTROL)
def test_control_imports_neither_driver_nor_trainer(module: str) -> None:
    assert not top(imports(module)) & {"wheel_leg_driver", "h2o_training"}


@pytest.mark.parametrize("module", [*CONTROL, *DRIVER])
def test_robot_side_imports_nothing_heavy(module: str) -> None:
    assert not top(imports(module)) & OFF_BOARD_ONLY


@pytest.mark.parametrize("module", DRIVER)
def test_driver_shares_definitions_with_control_and_nothing_else(module: str) -> None:
    used = {name.split(".")[1] for name in imports(module) if name.startswith("h2o_control.")}
    assert used <= SHARED_WITH_DRIVER


@pytest.mark.parametrize("module", [name for name in TRAINING if not name.endswith("_node")])
def test_training_core_never_reaches_rclpy(module: str) -> None:
    assert reaches(module, "rclpy") == []


@pytest.mark.parametrize("module", [*CONTROL, *DRIVER])
def test_robot_side_reads_as_python_3_10(module: str) -> None:
    ast.parse(FILES[module].read_text(encoding="utf-8"), feature_version=(3, 10))
    assert not {name for name in imports(module) if name in NEWER_THAN_3_10}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not attributes & NEWER_THAN_3_10
