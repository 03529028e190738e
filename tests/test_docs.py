# SPDX-License-Identifier: Apache-2.0
"""Pages that list what the code declares list all of it, as it is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from wheel_leg_driver.limits import Limits

ROOT = Path(__file__).parents[1]


def test_page_of_the_driver_lists_every_limit_as_it_is() -> None:
    page = (ROOT / "docs" / "driver.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", page, re.MULTILINE))
    declared = {
        f.name: f.default if isinstance(f.default, str) else f"{f.default:g}" for f in dataclasses.fields(Limits)
    }
    assert {name: listed[name] for name in declared} == declared


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", *sorted(ROOT.glob("*/README.md"))], ids=str
)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing
