"""What plugins require of other distributions, held against what is installed before anything is imported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from contracts.errors import RequirementNotMet

from .discovered import Discovered

OURS = "plugbus"
Installed = Callable[[str], str | None]
"""The version of a distribution, or None where it is not installed."""
Unmet = dict[str, list[RequirementNotMet]]


@dataclass(frozen=True, slots=True)
class _Wish:
    """One requirement of one plugin, for this interpreter and platform."""

    plugin_id: str
    where: str
    requirement: Requirement

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def text(self) -> str:
        """Without its marker, which is fulfilled."""
        extras = f"[{','.join(sorted(self.requirement.extras))}]" if self.requirement.extras else ""
        return f"{self.requirement.name}{extras}{self.requirement.specifier}"

    def accepts(self, found: str) -> bool:
        return self.requirement.specifier.contains(found, prereleases=True)


def unmet_requirements(
    plugins: Iterable[Discovered], installed: Installed | None = None
) -> Mapping[str, Sequence[RequirementNotMet]]:
    """Plugin id → what it requires and this environment does not have.

    Asked are what a distribution with an entry point requires, and `[project] dependencies` of a
    `pyproject.toml` in a plugin's folder. Where another of `plugins` requires what no version can be
    together with this, it is named.
    """
    unmet: Unmet = defaultdict(list)
    rivals: defaultdict[str, list[_Wish]] = defaultdict(list)
    for plugin in plugins:
        for wish in _wishes(plugin, unmet):
            rivals[wish.name].append(wish)
    find = installed or installed_distribution
    for name, wishes in rivals.items():
        found = find(name)
        if found is None and name == OURS:
            continue  # it runs from a folder that was never installed
        for wish in wishes:
            if found is None or not wish.accepts(found):
                unmet[wish.plugin_id].append(_error(wish, found, wishes))
    return dict(unmet)


def installed_distribution(name: str) -> str | None:
    """The version of what is installed under this name, if it has one that can be compared."""
    try:
        found = version(name)
        Version(found)
    except (PackageNotFoundError, InvalidVersion, TypeError):  # TypeError: metadata without a version
        return None
    return found


def exclude_each_other(first: SpecifierSet, second: SpecifierSet) -> bool:
    """Whether no version satisfies both, as far as the places tell where one of them changes its mind."""
    both = [*first, *second]
    tried = {one for specifier in both for one in _around(specifier)}
    return bool(both) and not any(
        first.contains(one, prereleases=True) and second.contains(one, prereleases=True) for one in tried
    )


def _around(specifier: Specifier) -> Iterator[str]:
    """The version that a specifier names, one right above it, one right below, and one far above."""
    try:
        named = Version(specifier.version.removesuffix(".*"))
    except InvalidVersion:
        yield specifier.version  # of `===`, which compares text
        return
    yield str(named)
    release = [*named.release, *[0] * (3 - len(named.release))]
    yield ".".join(map(str, (*release, 1)))
    below = next((place for place in reversed(range(len(release))) if release[place]), None)
    if below is not None:
        yield ".".join(map(str, (*release[:below], release[below] - 1, 99_999)))
    yield str(named.release[0] + 99_999)


def _wishes(plugin: Discovered, unmet: Unmet) -> Iterator[_Wish]:
    for said in plugin.requirements:
        try:
            requirement = Requirement(said)
        except InvalidRequirement:
            unmet[plugin.plugin_id].append(_invalid(plugin, said))
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _Wish(plugin.plugin_id, plugin.metadata.file_path, requirement)


def _invalid(plugin: Discovered, said: str) -> RequirementNotMet:
    shown = said if len(said) <= 80 else f"{said[:77]}…"
    return RequirementNotMet(
        f"requires '{shown}', which is no requirement",
        plugin_id=plugin.plugin_id,
        where=plugin.metadata.file_path,
        fix="write it as pip reads it, for example 'httpx>=0.27'",
        chain=(plugin.plugin_id,),
    )


def _error(wish: _Wish, found: str | None, wishes: Sequence[_Wish]) -> RequirementNotMet:
    there = f"{wish.name} {found} is installed" if found else "it is not installed"
    text, fix = f"requires '{wish.text}', but {there}", f"pip install '{wish.text}'"
    chain: tuple[str, ...] = (wish.plugin_id, wish.name)
    if rival := _rival(wish, wishes):
        text = f"{text}; '{rival.plugin_id}' requires '{rival.text}', and no version is both"
        fix = f"disable '{rival.plugin_id}' or '{wish.plugin_id}', or find versions of them that agree"
        chain = (*chain, rival.plugin_id)
    return RequirementNotMet(
        text,
        plugin_id=wish.plugin_id,
        where=wish.where,
        fix=fix,
        chain=chain,
        required=str(wish.requirement.specifier),
        found=found or "",
    )


def _rival(wish: _Wish, wishes: Sequence[_Wish]) -> _Wish | None:
    mine = wish.requirement.specifier
    others = (one for one in wishes if one.plugin_id != wish.plugin_id)
    return next((one for one in others if exclude_each_other(mine, one.requirement.specifier)), None)
