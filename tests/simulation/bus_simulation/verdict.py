"""What must be true when a run is over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from contracts.bus import BusLimits, DeadLetter, GroupInfo

from .fates import Fate, GroupModel


@dataclass
class Ending:
    """What the bus says at the end, and what it left behind."""

    limits: BusLimits
    infos: list[GroupInfo] = field(default_factory=list)
    letters: list[tuple[str, DeadLetter]] = field(default_factory=list)
    """Name of the event, dead letter."""
    left_behind: list[str] = field(default_factory=list)
    """Tasks, timers, errors that nobody saw."""


def final_objections(groups: Mapping[str, GroupModel], ending: Ending) -> Iterator[str]:
    yield from ending.left_behind
    letters: dict[str, dict[str, DeadLetter]] = {name: {} for name in groups}
    for name, letter in ending.letters:
        if letter.group not in groups or name in letters[letter.group]:
            yield f"{letter.group}: {name} has a dead letter too many"
        else:
            letters[letter.group][name] = letter
    infos = {info.group: info for info in ending.infos}
    for info in ending.infos:
        yield from (f"{info.group}: {problem}" for problem in _of_counters(info, groups[info.group]))
    for group in groups.values():
        mine = letters[group.name]
        for fate in group.fates.values():
            yield from _of_fate(group, fate, mine.get(fate.event.name))
        yield from _of_lost(group, infos[group.name])
        yield from _of_replay(group)
        yield from _of_letters(group, mine, ending.limits.dead_letters)


def _of_counters(info: GroupInfo, group: GroupModel) -> Iterator[str]:
    for name in ("waiting", "in_flight", "parked"):
        if getattr(info, name) != 0:
            yield f"{name} is {getattr(info, name)} at the end"
    without_start = info.filtered + info.repeated
    for name, count, span in (
        ("handled", info.handled - without_start, group.handled),
        ("failed", info.failed, group.failed),
    ):
        if count not in span:
            yield f"{name} is {count}, it was {span}"


def _of_fate(group: GroupModel, fate: Fate, letter: DeadLetter | None) -> Iterator[str]:
    who = f"{group.name}: {fate.event.name}"
    died = group.said["dead_lettered", fate.identity]
    gone = group.said["discarded", fate.identity]
    if fate.state == "running":
        yield f"{who} runs for ever"
    elif fate.state == "waiting":
        can_die = fate.may_be_dead(group.attempts)
        if died and not can_die and not fate.is_redriven:
            yield f"{who} is a dead letter, for no reason"
        if gone and fate.event.expires is None:
            yield f"{who} was given up, for no reason"
    elif fate.state == "final" and group.is_all_said:
        if fate.how == "dead" and not died:
            yield f"{who} was given up in silence"
        gone = gone and not group.to_replay  # it may have expired before it was delivered once more
        if fate.how == "handled" and (gone or (died and not fate.is_redriven)):
            yield f"{who} was handled, and given up"
    if died > 1 and not fate.is_redriven:
        yield f"{who} was given up {died} times"
    if letter is not None and fate.state == "final" and fate.how != "dead":
        yield f"{who} is a dead letter, and {fate.how}"


def _of_lost(group: GroupModel, info: GroupInfo) -> Iterator[str]:
    """Events without an end: as many as the group has dropped, and no more."""
    lost = [fate.event.name for fate in group.fates.values() if fate.must and _is_lost(group, fate)]
    if len(lost) > info.dropped and group.is_all_said:
        yield f"{group.name}: lost {', '.join(lost)}; dropped {info.dropped}"


def _is_lost(group: GroupModel, fate: Fate) -> bool:
    told = ("dead_lettered", fate.identity) in group.said or ("discarded", fate.identity) in group.said
    return fate.state == "waiting" and not told and fate.event.name not in group.suppressible


def _of_replay(group: GroupModel) -> Iterator[str]:
    started = len(group.replayed)
    if started > group.to_replay:
        yield f"{group.name}: {started} events were replayed instead of {group.to_replay}"
    drops = group.spec.options.overflow != "hold"
    is_excused = ("gap", " ") in group.said or group.is_choosy or drops or not group.is_all_said
    if started < group.to_replay and not (is_excused or _has_expiring(group)):
        yield f"{group.name}: of {group.to_replay} events {started} were replayed"
    for name, fate in group.replayed.items():
        if fate.state in ("waiting", "running"):
            yield f"{group.name}: {name} was not replayed to its end"


def _has_expiring(group: GroupModel) -> bool:
    return any(fate.event.expires is not None for fate in group.fates.values())


def _of_letters(group: GroupModel, letters: Mapping[str, DeadLetter], most: int) -> Iterator[str]:
    if len(letters) > most:
        yield f"{group.name}: {len(letters)} dead letters, more than {most}"
    dead = [fate for fate in group.fates.values() if (fate.state, fate.how) == ("final", "dead")]
    missing = [fate.event.name for fate in dead if fate.event.name not in letters]
    if missing and group.is_all_said and not group.said["dead_letters_dropped", " "]:
        yield f"{group.name}: no dead letters of {', '.join(missing)}"
    for name, letter in letters.items():
        if letter.reason not in ("attempts", "asked") or letter.error is None or letter.attempts < 1:
            yield f"{group.name}: the dead letter of {name} does not tell why: {letter!r}"
        if letter.reason == "attempts" and letter.attempts < group.attempts:
            yield f"{group.name}: {name} was given up after {letter.attempts} of {group.attempts} attempts"
        if letter.generation != group.spec.generation or letter.plugin_id != group.spec.plugin_id:
            yield f"{group.name}: the dead letter of {name} names another plugin"
