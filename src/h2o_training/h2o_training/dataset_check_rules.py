# SPDX-License-Identifier: Apache-2.0
"""What `dataset check` holds against data: rules with their thresholds, why they are there, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum


class Level(IntEnum):
    """How bad a finding is; UNKNOWN where the data do not tell."""

    UNKNOWN = -1
    GOOD = 0
    NOTE = 1
    CARE = 2
    REFUSE = 3


#: How the page and the terminal call a level, and how the verdict does.
LEVEL_NAMES = {Level.UNKNOWN: "–", Level.GOOD: "good", Level.NOTE: "note", Level.CARE: "care", Level.REFUSE: "no"}
VERDICTS = {
    Level.GOOD: "good",
    Level.NOTE: "good",
    Level.CARE: "usable with care",
    Level.REFUSE: "do not train on this",
}


@dataclass(frozen=True)
class Rule:
    """One thing that is checked.

    Attributes:
        name: of the finding.
        what: what the number counts.
        unit: "share" of `of`, "count", "ms", "s", or "1".
        care, refuse: beyond these the data are usable with care, or not to be trained on; None: never.
        why: reason for the thresholds.
        advice: what to do about it.
        below: too little is bad, not too much.
        quiet: what is within the thresholds is not worth telling.
        of: what a share is a share of.
    """

    name: str
    what: str
    unit: str
    care: float | None
    refuse: float | None
    why: str
    advice: str
    below: bool = False
    quiet: bool = False
    of: str = ""

    def level(self, value: float) -> Level:
        """Judge a number; what is neither good nor beyond a threshold is a note."""
        sign = -1.0 if self.below else 1.0
        if self.refuse is not None and sign * value > sign * self.refuse:
            return Level.REFUSE
        if self.care is not None and sign * value > sign * self.care:
            return Level.CARE
        quiet = self.quiet or self.below or value <= 0 or self.unit in ("ms", "1")
        return Level.GOOD if quiet else Level.NOTE

    @property
    def threshold(self) -> str:
        """The thresholds in words."""
        word = "below" if self.below else "above"
        limits = [
            f"{verdict} {word} {format_value(limit, self.unit)}"
            for verdict, limit in (("care", self.care), ("no", self.refuse))
            if limit is not None
        ]
        return ", ".join(limits) or "only told"


def format_value(value: float, unit: str) -> str:
    """Write a number with its unit."""
    if not math.isfinite(value):
        return "cannot tell"
    if unit == "share":
        return f"{100 * value:.3g} %"
    return f"{value:.3g}" + ("" if unit in ("1", "count") else f" {unit}")


#: In the order in which they are told.
RULES = (
    Rule(
        "amount", "driving that counts: one control step after another, armed", "s", 60.0, 10.0,
        "the papers' robot learns from 83 s, identification needs 24 s, and 10 s are a handful of movements",
        "record more; an episode of many is judged with the others: give all their bags at once",
        below=True,
    ),
    Rule(
        "copies", "files or states given twice", "count", None, 0.0,
        "what is counted twice weighs twice, and a copy in the test data makes every test pass",
        "leave all but one of them out",
    ),
    Rule(
        "gaps", "recorded time without a state", "share", 0.01, 0.2,
        "no transition spans a gap, so a few cost nothing; many say that recorder or disk could not keep up",
        "look at the recorder's warnings and the disk; record to another disk, or fewer topics",
        of="recorded time",
    ),
    Rule(
        "drops", "frames that the robot sent and the bag lacks", "share", 0.001, 0.05,
        "each costs two transitions; more than one in a thousand means a bad link or an overloaded computer",
        "check cable and baud rate (driver's /diagnostics), and the processor's load while recording",
        of="frames",
    ),
    Rule(
        "incomplete", "states whose executed torque, mode (not at a fault) or device time is lost", "share", 0.01, 0.2,
        "they give no transition; a topic that is lost so often was not recorded by a healthy recorder",
        "record /joint_states, /wheel_command and /device_time with /odom, and look at the recorder's losses",
        of="states",
    ),
    Rule(
        "not a number", "rows that hold what is not a finite number", "share", 0.0, 0.01,
        "they are left out; a sensor or estimator that sends them sends other nonsense too",
        "find the sensor that fails before recording more",
        of="rows",
    ),
    Rule(
        "backwards", "header stamps that go back", "share", 0.0, 0.01,
        "rows are sorted by stamp, which is right only where one publisher sent them late",
        "one driver a robot; do not set clocks while recording",
        of="messages",
    ),
    Rule(
        "duplicates", "rows that are there twice", "share", 0.0, 0.05,
        "the first counts; a stamp that comes twice means two publishers, or a recorder that subscribed twice",
        "look for a second driver or a topic recorded under two names",
        of="rows",
    ),
    Rule(
        "clock", "steps in which the clocks of host and device part, or the device's step is wrong", "share", 0.0, 0.01,
        "the driver keeps stamps within 5 % of the true step; beyond 10 % the clock was set or something was suspended",
        "do not suspend or set the clock while recording; a device step that varies is a firmware that misses its rate",
        of="steps",
    ),
    Rule(
        "drift", "how much faster or slower the stamps run than the device", "1", 0.01, 0.05,
        "crystals are off by 0.0001, ceramic resonators by 0.005; more is a wrong rate, and so are all speeds",
        "check the firmware's timer and the control rate in the robot's file",
    ),
    Rule(
        "restarts", "times the microcontroller began anew", "count", 0.0, 3.0,
        "x, the estimate and the watchdog begin anew; one may be a loose cable, several are no way to record",
        "check the supply: a dip under load resets it",
    ),
    Rule(
        "stuck", "steps in which a column holds the same bits though the robot moved", "share", 0.0, 0.01,
        "a healthy column never does; the policy learns that the state does not answer to the torque",
        "check the sensor's cable; cut these stretches out (h2o-robot bag cut)",
        of="steps",
    ),
    Rule(
        "jumps", "steps in which x or theta moves further than v or theta_dot allows", "share", 0.0, 0.01,
        "20 mm or 0.1 rad beyond what the rate says is no motion: a reset origin, a silent sensor, or rows that do not "
        "belong together",
        "look at the curves there; build the dataset again from the bag; of foreign data, mark the ends of recordings",
        of="steps",
    ),
    Rule(
        "position", "how far the change of x is off the integral of v", "1", 0.1, 0.5,
        "within a tenth is wheel radius and slip; half means other units or another sign",
        "check units and sign, wheel radius (roll ten turns), and that x and v are of the same moment",
    ),
    Rule(
        "pitch", "how far the change of theta is off the integral of theta_dot", "1", 0.1, 0.5,
        "within a tenth is the gyro's scale; beyond, one of the two is scaled or filtered, or time passed unevenly "
        "between rows; whichever it is, a twin must know",
        "check the gyro's scale and the attitude filter (h2o-robot sysid --fit gyro_scale,pitch_lag_s), and the step",
    ),
    Rule(
        "saturation", "steps at the torque limit", "share", 0.05, 0.5,
        "at the limit the executed torque no longer tells what was wanted; a controller that is there often bangs",
        "lower gains or exploration, or drive more gently",
        quiet=True,
        of="steps",
    ),
    Rule(
        "over limit", "rows whose torque exceeds the limit that the interface states", "share", 0.001, 0.05,
        "no motor executed them: they are what was asked for, and are cut to the limit in a dataset",
        "record the executed torque; or correct torque_limit_nm in the robot's file",
        of="steps",
    ),
    Rule(
        "excitation", "torque that explains nothing of what follows", "count", 0.0, None,
        "where the torque's own effect does not show, neither lag nor sign can be told, and no policy can learn it",
        "add exploration (driver's parameter), or drive with more starts and stops",
    ),
    Rule(
        "lag", "from the torque to what it does", "ms", 20.0, 60.0,
        "an observation without history hides actions that are still under way; 20 ms are four steps at 200 Hz",
        "give the twin the delay (h2o-robot sysid), look for buffers on the link; lower rates make it fewer steps",
    ),
    Rule(
        "sign", "responses that go the wrong way", "count", None, 0.0,
        "torque forward speeds the wheels up forward and pitches the body back, on every wheeled balancer",
        "h2o-robot calibrate finds the signs; of foreign data, flip the column in the mapping",
    ),
    Rule(
        "coverage", "share of the reference region that the data reach", "share", 0.5, 0.1,
        "70 s of the papers' robot, on which their method learns, reach 93 % of it; what is not there is not learned",
        "drive what is suggested below",
        below=True,
        of="cells",
    ),
)  # fmt: skip
RULE = {rule.name: rule for rule in RULES}


@dataclass(frozen=True)
class Finding:
    """What was found under one rule.

    Attributes:
        rule: see RULES.
        value: in the rule's unit; NaN where it cannot be told.
        text: the same in words, with counts and places.
    """

    rule: Rule
    value: float
    text: str

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.rule.level(self.value) if math.isfinite(self.value) else Level.UNKNOWN

    @property
    def reason(self) -> str:
        """Why it counts and what to do, in a line: number, threshold, remedy."""
        why, advice = (text[0].upper() + text[1:] for text in (self.rule.why, self.rule.advice))
        return f"{self.rule.name}: {self.text} ({self.rule.threshold}). {why}. → {advice}."


def verdict(findings: Sequence[Finding]) -> Level:
    """Return the worst level of all."""
    return max((f.level for f in findings if f.level != Level.UNKNOWN), default=Level.GOOD)


@dataclass
class Tally:
    """Counts under the rules, added up over files.

    Attributes:
        bad, total: by rule.
        places: by rule, where it was found.
    """

    bad: dict[str, float] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, bad: float, total: float = 0.0, *places: str) -> None:
        """Count `bad` of `total` under a rule; places are told only where something is bad."""
        self.bad[name] = self.bad.get(name, 0.0) + float(bad)
        self.total[name] = self.total.get(name, 0.0) + float(total)
        if bad > 0:
            self.places.setdefault(name, []).extend(places)

    def worst(self, name: str, value: float, place: str) -> None:
        """Keep the largest value that was found under a rule, and where."""
        if value >= self.bad.get(name, 0.0):
            self.bad[name], self.total[name], self.places[name] = value, 0.0, [place]

    def finding(self, name: str) -> Finding:
        """Judge what was counted under a rule; nothing can be told where nothing was."""
        if name not in self.bad:
            return Finding(RULE[name], math.nan, "cannot tell: the data do not hold what is needed")
        rule, bad, total = RULE[name], self.bad[name], self.total[name]
        where = places_text(self.places.get(name, []))
        if rule.unit != "share":
            return Finding(rule, bad, f"{format_value(bad, rule.unit)}{where}")
        share = bad / total if total > 0 else 0.0
        numbers = f"{bad:.4g} s" if rule.of == "recorded time" else f"{bad:.0f}"
        return Finding(rule, share, f"{format_value(share, 'share')} of {rule.of} ({numbers}){where}")


def places_text(places: Sequence[str], shown: int = 3) -> str:
    """Where, in words: the first few places and how many more there are."""
    if not places:
        return ""
    more = f" and {len(places) - shown} more" if len(places) > shown else ""
    return ": " + "; ".join(places[:shown]) + more
