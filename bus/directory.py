"""Who provides what, on which replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from contracts.errors import NoProvider

if TYPE_CHECKING:
    from .calls import Offer


class Directory:
    """All offers on a backend, by capability."""

    def __init__(self) -> None:
        self._offers: dict[str, list[Offer]] = {}

    def add(self, offer: Offer) -> None:
        self._offers.setdefault(offer.spec.capability, []).append(offer)

    def discard(self, offer: Offer) -> None:
        offers = self._offers.get(offer.spec.capability, [])
        if offer in offers:
            offers.remove(offer)
            if not offers:
                del self._offers[offer.spec.capability]

    def __contains__(self, offer: Offer) -> bool:
        return offer in self._offers.get(offer.spec.capability, ())

    def reachable(self, replica: str) -> Iterator[Offer]:
        """What a requester on `replica` can ask."""
        for name in sorted(self._offers):
            for offer in self._offers[name]:
                if offer.spec.reach == "shared" or offer.replica == replica:
                    yield offer

    def choose(self, capability: str, replica: str, target: str) -> list[Offer]:
        """Whom to ask: for `"any"` one, its own replica's first; for `"all"` one of each replica.

        Several of one replica take turns. Raises `NoProvider`.
        """
        offers = self._offers.get(capability, [])
        found: dict[str, Offer] = {}
        for offer in offers:
            if offer.spec.reach == "shared" or offer.replica == replica:
                found.setdefault(offer.replica, offer)
        if target == "any":
            chosen = [found.get(replica) or next(iter(found.values()))] if found else []
        elif target == "all":
            chosen = list(found.values())
        else:
            chosen = [found[target]] if target in found else []
        if not chosen:
            raise _nobody(capability, target)
        for offer in chosen:  # to the end of the line
            offers.remove(offer)
            offers.append(offer)
        return chosen


def _nobody(capability: str, target: str) -> NoProvider:
    where = f" on replica {target!r}" if target not in ("any", "all") else ""
    return NoProvider(
        f"nobody provides {capability!r}{where}",
        capability=capability,
        fix="start a plugin that provides it: plugbus capability list",
    )
