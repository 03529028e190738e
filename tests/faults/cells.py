# SPDX-License-Identifier: Apache-2.0
"""Every fault, the states in which it is tried, and what must hold, declared before anything is run."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from faults import actions, checks
from faults.actions import Action
from faults.checks import Check
from faults.rig import BALANCING, DISARMED, FAILING, POLICY, RECORDING, SHUTTING, Setup
from h2o_control import topics
from h2o_control.topics import BALANCE, FAULT, HOLD, TORQUE
from wheel_leg_driver.fault_kinds import KINDS
from wheel_leg_driver.limits import Limits

STATES = (DISARMED, BALANCING, POLICY, RECORDING, SHUTTING)
ARMED = (BALANCING, POLICY, RECORDING)
#: The firmware's watchdog (30 ms) and what a robot and a harness need beside it, ms.
WATCHDOG_MS = 50.0
#: Staleness, two ticks, and the millisecond in which the black box sees the torque.
HAND_OVER_MS = Limits().staleness_s * 1e3 + 2 * 5 + 1
#: A driver that is asked to stop, balances until it does.
STOPPING_MS = 500.0
HUNDRED = 100


@dataclass(frozen=True)
class Fault:
    """A row of the matrix.

    Attributes:
        name: of the row.
        what: is injected, in words.
        make: returns the action.
        states: in which it is tried.
        must: for each state, what must hold beside `checks.always`.
        window_s: how long is looked on after it began, s of device time.
        setup: processes that it needs beside the usual ones.
        hundred: states in which it is repeated a hundred times.
        moving: whether the robot drives before it; None: half of the time.
        before: the state that is established for it, where its action does the rest.
    """

    name: str
    what: str
    make: object
    must: Mapping[str, Sequence[Check]]
    window_s: float = 0.8
    setup: Setup = field(default_factory=Setup)
    hundred: tuple[str, ...] = ()
    moving: bool | None = None
    before: str = ""

    @property
    def states(self) -> tuple[str, ...]:
        """States in which it is tried, in the order of the matrix."""
        return tuple(state for state in STATES if state in self.must)

    def action(self) -> Action:
        """Return a new action."""
        assert callable(self.make)
        made: Action = self.make()
        return made


@dataclass(frozen=True)
class Cell:
    """A fault in a state."""

    fault: Fault
    state: str

    @property
    def name(self) -> str:
        """Names it in files and patterns."""
        return f"{self.fault.name} / {self.state}"

    @property
    def checks(self) -> list[Check]:
        """All that must hold."""
        return [*self.fault.must[self.state], *checks.always()]

    @property
    def hundred(self) -> bool:
        """Whether it is one of those that run a hundred times."""
        return self.state in self.fault.hundred


USUALLY_DISARMED = (checks.no_torque(), checks.mode_is(topics.DISARMED))
USUALLY_SHUTTING = (checks.zero_within(STOPPING_MS), checks.mode_is(topics.DISARMED))
EPISODE = checks.found("episode", "the episode can be read and is whole", lambda problem: problem == "")


def _each(armed: Sequence[Check], recording: Sequence[Check] = (EPISODE,)) -> dict[str, Sequence[Check]]:
    """What must hold in each state, given what must in the armed ones."""
    return {
        DISARMED: USUALLY_DISARMED,
        BALANCING: armed,
        POLICY: armed,
        RECORDING: (*armed, *recording),
        SHUTTING: USUALLY_SHUTTING,
    }


def _injected(kind: str, text: str, armed: Sequence[Check], window_s: float = 0.8, name: str = "") -> Fault:
    return Fault(
        name or kind.replace("_", " "),
        f"`{text}`: {KINDS[kind].summary}",
        lambda: actions.inject(text),
        _each(armed),
        window_s,
    )


def _zero(ms: float, *more: Check) -> tuple[Check, ...]:
    return (checks.zero_within(ms), checks.mode_is(FAULT), *more)


#: What disturbs only some frames may end any safe way, at any time while it lasts.
def _disturbed(seconds: float) -> tuple[Check, ...]:
    return (checks.safe_within(seconds * 1e3 + WATCHDOG_MS),)


_hold = (checks.mode_is(HOLD), checks.upright(), checks.safe_within(150.0))
_linked = checks.found("link back (s)", "link back within 2 s of the port", lambda s: isinstance(s, float) and s <= 2.0)
_unaffected = (checks.mode_is(BALANCE, TORQUE), checks.upright())
_counted = (
    checks.found("hand-backs", "no hand-back", lambda n: n == 0),
    checks.found("read to write, p99 (ms)", "ages reported", lambda ms: isinstance(ms, float) and ms < 25.0),
)
_turned = tuple(
    checks.found(f"{clock} turned by (h)", f"the {clock} was turned", lambda h: h is not None and 0.9 < abs(h) < 1.1)
    for clock in ("node's clock", "middleware's clock")
)
_even = checks.found(
    "steps of stamps (ms)", "stamps go on evenly", lambda ms: ms is not None and 0 < ms[0] <= ms[1] < 50
)


def _wire() -> list[Fault]:
    unplugged = _each((*_zero(WATCHDOG_MS), _linked))
    unplugged[DISARMED] = (*USUALLY_DISARMED, _linked)
    return [
        Fault(
            "unplug and replug",
            f"`unplug for=0.5`: {KINDS['unplug'].summary}",
            lambda: actions.unplug(0.5),
            unplugged,
            1.4,
            hundred=(BALANCING,),
        ),
        _injected("torn_frames", "torn_frames for=1", _disturbed(1.0), 1.3),
        _injected("corrupt_frames", "corrupt_frames for=1", _disturbed(1.0), 1.3),
        _injected("byte_noise", "byte_noise for=1", _disturbed(1.0), 1.3),
        _injected("drop_telemetry", "drop_telemetry for=1", _zero(WATCHDOG_MS), 1.3),
        _injected("delay_telemetry", "delay_telemetry s=0.05 for=1", _zero(WATCHDOG_MS), 1.3),
        _injected("wrong_version", "wrong_version for=0.5", _zero(WATCHDOG_MS), 0.9, "wrong version of telemetry"),
        _injected(
            "wrong_version",
            "wrong_version direction=command for=0.5",
            _zero(10.0),
            0.9,
            "wrong version of commands",
        ),
    ]


def _sensors() -> list[Fault]:
    return [
        _injected("stuck_imu", "stuck_imu for=1", _disturbed(1.0), 1.3, "stuck IMU"),
        _injected("stuck_encoders", "stuck_encoders for=1", _disturbed(1.0), 1.3),
        _injected("bias_pitch", "bias_pitch rad=0.1 for=2", _disturbed(2.0), 2.3),
        _injected("bias_gyro", "bias_gyro radps=0.2 for=2", _disturbed(2.0), 2.3),
        _injected("nan_imu", "nan_imu for=0.1", _zero(20.0), name="IMU sends NaN"),
        _injected("overheating", "overheating c=95 for=1", _zero(20.0), 1.3),
        _injected("overheating", "overheating c=85 for=1", _hold, 1.3, "too warm"),
        _injected("brown_out", "brown_out v=18.5 for=1", _hold, 1.3, "low voltage"),
    ]


def _firmware() -> list[Fault]:
    return [
        _injected("motor_fault", "motor_fault", _zero(5.0)),
        _injected("imu_fault", "imu_fault", _zero(5.0), name="IMU fault"),
        _injected("brown_out", "brown_out v=9 for=0.2", _zero(5.0), 1.0),
        _injected("reset", "reset", _zero(5.0), name="firmware reset"),
        _injected("stall", "stall for=0.1", _zero(WATCHDOG_MS), name="firmware stalls"),
    ]


def _policies() -> list[Fault]:
    handed = (checks.mode_is(HOLD), checks.upright(), checks.own_after_last_answer(HAND_OVER_MS))
    calm = (checks.mode_is(BALANCE), checks.upright())
    kill, stop, go = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
    texts = {
        "nan": "answers NaN",
        "inf": "answers infinity",
        "shape": "answers with two rows instead of one",
        "error": "raises in its session",
        "slow": "takes 100 ms for an answer",
    }
    return [
        Fault(
            "policy node killed",
            "SIGKILL",
            lambda: actions.send("policy_node", kill),
            {DISARMED: USUALLY_DISARMED, BALANCING: calm, POLICY: handed, RECORDING: (*calm, EPISODE)},
            hundred=(POLICY,),
        ),
        Fault(
            "policy node stopped",
            "SIGSTOP, after 0.3 s SIGCONT",
            lambda: actions.send("policy_node", stop, go),
            {DISARMED: USUALLY_DISARMED, BALANCING: calm, POLICY: handed, RECORDING: (*calm, EPISODE)},
            hundred=(POLICY,),
        ),
        *(
            Fault(
                f"policy {texts[kind]}",
                "an ONNX policy that does so once the robot has rolled 12 cm",
                actions.hand_over,
                {POLICY: handed},
                1.2,
                Setup(policy=kind),
                moving=True,
                before=BALANCING,
            )
            for kind in FAILING
        ),
    ]


def _nodes() -> list[Fault]:
    kill, stop, go = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
    dead = (checks.zero_within(WATCHDOG_MS),)
    readable = checks.found("episode", "what was recorded can be read", lambda problem: problem == "")
    driver = dict.fromkeys((BALANCING, POLICY, SHUTTING), dead)
    return [
        Fault(
            "driver node killed",
            "SIGKILL",
            lambda: actions.send("driver_node", kill),
            {DISARMED: (checks.no_torque(),), **driver, RECORDING: (*dead, EPISODE)},
            0.4,
            hundred=(BALANCING,),
        ),
        Fault(
            "driver node stopped",
            "SIGSTOP, after 0.3 s SIGCONT",
            lambda: actions.send("driver_node", stop, go),
            {**_each(_zero(WATCHDOG_MS)), SHUTTING: (checks.zero_within(WATCHDOG_MS),)},
            hundred=(BALANCING,),
        ),
        Fault(
            "recorder killed",
            "SIGKILL",
            lambda: actions.send("recorder_node", kill),
            {RECORDING: (checks.mode_is(BALANCE), checks.upright(), readable)},
        ),
        Fault(
            "second torque publisher",
            f"{actions.STRANGER_NM} Nm on /wheel_torque for every observation, as the right interface",
            actions.second_publisher,
            {
                DISARMED: USUALLY_DISARMED,
                BALANCING: (checks.mode_is(BALANCE), checks.upright(), _no_stranger),
                POLICY: (checks.mode_is(TORQUE), checks.upright(), _no_stranger, _refused),
                RECORDING: (checks.mode_is(BALANCE), checks.upright(), _no_stranger, EPISODE),
            },
            1.3,
        ),
    ]


def _stranger(e: checks.Evidence) -> str:
    there = (e.column("left_nm") + e.column("right_nm")) / 2
    return "the stranger's torque was at the motors" if (abs(there - actions.STRANGER_NM) < 1e-6).any() else ""


_no_stranger = Check("the stranger's torque is never at the motors", _stranger)
_refused = checks.found(
    "refused in diagnostics", "refused and reported on /diagnostics", lambda text: "witness" in str(text)
)


def _operators() -> list[Fault]:
    stopped = _each(_zero(WATCHDOG_MS))
    stopped[DISARMED] = (checks.no_torque(), checks.mode_is(FAULT))
    stopped[SHUTTING] = (checks.zero_within(STOPPING_MS),)
    latched = (
        checks.no_torque(),
        checks.mode_is(FAULT),
        checks.found(
            "arming after activation", "arming is refused after activation", lambda text: "refused" in str(text)
        ),
    )
    halted = checks.standing()
    return [
        *(
            Fault(
                f"e-stop by {by}",
                what,
                lambda by=by: actions.estop(by),
                stopped,
                0.6,
                Setup(joystick=by == "joystick"),
            )
            for by, what in (
                ("service", "a call of driver/estop"),
                ("topic", "a message on /estop"),
                ("joystick", "the button of joystick_node"),
            )
        ),
        *(
            Fault(
                f"e-stop by {by}, driver inactive",
                "pressed between deactivation and activation; then arming is asked for",
                lambda by=by: actions.estop_inactive(by),
                {DISARMED: latched},
                0.6,
            )
            for by in ("service", "topic")
        ),
        Fault(
            "stale joystick",
            "/joy stops with the dead-man button held and the stick forward",
            actions.stale_joystick,
            {
                DISARMED: USUALLY_DISARMED,
                BALANCING: (checks.mode_is(BALANCE), checks.upright(), halted),
                POLICY: (checks.mode_is(BALANCE), checks.upright(), checks.safe_within(400.0)),
                RECORDING: (checks.mode_is(BALANCE), checks.upright(), halted, EPISODE),
            },
            2.2,
            Setup(joystick=True),
            moving=False,
        ),
    ]


def _machine() -> list[Fault]:
    calm = {BALANCING: (*_unaffected, *_counted), POLICY: (*_unaffected, *_counted)}
    calm |= {DISARMED: USUALLY_DISARMED, RECORDING: (*_unaffected, *_counted, EPISODE)}
    turned = {state: (*must, *_turned, _even) for state, must in calm.items()}
    driven = checks.found(
        "speed commands (Hz)", "the operator's commands go on", lambda hz: isinstance(hz, float) and hz > 15
    )
    return [
        Fault("nothing", "for comparison with what follows", actions.nothing, calm, 2.5),
        Fault("load on all processors", "a busy program on each", actions.load, calm, 2.5),
        *(
            Fault(
                f"wall clock set {'forward' if hours > 0 else 'back'} by 1 h",
                "CLOCK_REALTIME of all nodes, while they run",
                lambda hours=hours: actions.turn_clock(hours),
                turned,
                2.5,
                Setup(shifted=True),
            )
            for hours in (1, -1)
        ),
        *(
            Fault(
                f"wall clock set {'forward' if hours > 0 else 'back'} by 1 h, teleop driving",
                "the same, while the scripted operator (teleop_node) drives",
                lambda hours=hours: actions.turn_clock(hours, driven=True),
                {state: (*turned[state], driven) for state in (BALANCING, RECORDING)},
                2.5,
                Setup(shifted=True),
                moving=False,
            )
            for hours in (1, -1)
        ),
    ]


FAULTS: tuple[Fault, ...] = (*_wire(), *_sensors(), *_firmware(), *_policies(), *_nodes(), *_operators(), *_machine())
CELLS: tuple[Cell, ...] = tuple(Cell(fault, state) for fault in FAULTS for state in fault.states)
