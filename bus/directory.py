"""Who provides what, on which replica, and who of several is asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from contracts.errors import NoProvider

if TYPE_CHECKING:
    from .calls import Offer


class Directory:
    """All offers on a backend, by capability; of each the oldest first, but for replicas that took a turn."""

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

    def reachable(self, replica: str, capability: str | None = None) -> Iterator[Offer]:
        """What a requester on `replica` can ask, by capability, the best first."""
        for name in sorted(self._offers) if capability is None else [capability]:
            yield from self.ranked(name, replica)

    def ranked(self, capability: str, replica: str) -> list[Offer]:
        """What a requester on `replica` can ask for one capability, the best first.

        The highest rank; of equal ones its own replica's before others'; of these who came first.
        """
        found = [
            offer for offer in self._offers.get(capability, ())
            if offer.spec.reach == "shared" or offer.replica == replica
        ]  # fmt: skip
        if len(found) > 1:
            found.sort(key=lambda offer: (-offer.spec.rank, offer.replica != replica))
        return found

    def knows(self, capability: str, replica: str, target: str) -> bool:
        """Whether there is anybody whom `choose` could choose."""
        found = self.ranked(capability, replica)
        return bool(found) if target in ("any", "all") else any(offer.replica == target for offer in found)

    def choose(
        self, capability: str, replica: str, target: str, without: Collection[Offer] = ()
    ) -> list[Offer]:
        """Whom to ask: for `"any"` the best, for `"all"` the best of each replica, else that replica's best.

        Other replicas whose offers are equally good take turns. `without`: they have turned out to be gone.
        Raises `NoProvider`.
        """
        found = [offer for offer in self.ranked(capability, replica) if offer not in without]
        if target == "any":
            chosen = found[:1]
        elif target == "all":
            chosen = list({offer.replica: offer for offer in reversed(found)}.values())
        else:
            chosen = [offer for offer in found if offer.replica == target][:1]
        if not chosen:
            raise _nobody(capability, target)
        if target == "any" and len(found) > 1 and chosen[0].replica != replica:
            self._to_the_end(capability, chosen[0].replica)
        return chosen

    def _to_the_end(self, capability: str, replica: str) -> None:
        """Of the line: all that it offers, among which who came first stays first."""
        self._offers[capability].sort(key=lambda offer: offer.replica == replica)


def _nobody(capability: str, target: str) -> NoProvider:
    where = f" on replica {target!r}" if target not in ("any", "all") else ""
    return NoProvider(
        f"nobody provides {capability!r}{where}",
        capability=capability,
        fix="start a plugin that provides it: plugbus capability list",
    )
