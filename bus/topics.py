"""Which patterns select a type: a trie of words, so that nobody scans all subscriptions. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from contracts.patterns import RESERVED_TOPICS, check_pattern, topic_of

T = TypeVar("T", bound=Hashable)


class _Node(Generic[T]):
    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.here: list[T] = []
        """Targets of patterns that end at this word."""
        self.below: list[T] = []
        """Targets of patterns that go on with `**`."""

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.here or self.below)


class PatternIndex(Generic[T]):
    """Patterns → targets. `find` walks the words of one type name, whatever the number of patterns."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, target: T) -> None:
        """Have `target` found for every type that `pattern` selects. Raises `InvalidPattern`."""
        node = self._root
        for word in _walked(check_pattern(pattern)):
            node = node.children.setdefault(word, _Node())
        _ends(node, pattern).append(target)

    def discard(self, pattern: str, target: T) -> None:
        """The inverse of one `add`; unknown pairs are ignored."""
        path = [(self._root, "")]
        for word in _walked(pattern):
            child = path[-1][0].children.get(word)
            if child is None:
                return
            path.append((child, word))
        ends = _ends(path[-1][0], pattern)
        if target in ends:
            ends.remove(target)
        for (parent, _), (child, word) in zip(path[-2::-1], path[:0:-1], strict=True):
            if child.is_empty:
                del parent.children[word]

    @property
    def is_empty(self) -> bool:
        return self._root.is_empty

    def find(self, type_name: str) -> tuple[T, ...]:
        """The targets of all patterns that select `type_name`, each once."""
        words = type_name.split(".")
        everything = self._root.below if words[0] not in RESERVED_TOPICS else []
        return tuple(dict.fromkeys([*everything, *_selected(self._root, words, 0)]))


def may_select(pattern: str, topic: str) -> bool:
    """Whether `pattern` selects any type of `topic`."""
    return topic not in RESERVED_TOPICS if pattern == "**" else topic_of(pattern) == topic


def _selected(node: _Node[T], words: list[str], index: int) -> Iterator[T]:
    if index and index < len(words):  # the root's `**` has a rule of its own: not the reserved topics
        yield from node.below
    if index == len(words):
        yield from node.here
        return
    for word in (words[index], "*"):
        child = node.children.get(word)
        if child is not None:
            yield from _selected(child, words, index + 1)


def _walked(pattern: str) -> list[str]:
    words = pattern.split(".")
    return words[:-1] if words[-1] == "**" else words


def _ends(node: _Node[T], pattern: str) -> list[T]:
    return node.below if pattern.endswith("**") else node.here
