"""Type names and the patterns that select them: pure functions, no state.

A type name is words `[a-z][a-z0-9_]*` joined by dots; its first word is the *topic*. A pattern is a
type name, or one that ends in `.*` (exactly one more word) or `.**` (one or more words), or has `*` as
any single word, or is `**`: every type but those of the reserved topics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from .errors import InvalidPattern

RESERVED_TOPICS = frozenset({"kernel", "plugin", "audit", "bus"})
"""Topics in which only the kernel and the bus publish."""

_WORD_FORM = "[a-z][a-z0-9_]*"
TYPE_FORM = rf"{_WORD_FORM}(\.{_WORD_FORM})*"
"""Type names as a regular expression, for a JSON Schema between `^` and `$`."""
_TYPE = re.compile(TYPE_FORM)
PATTERN_FORM = rf"\*\*|{_WORD_FORM}(\.({_WORD_FORM}|\*))*(\.\*\*)?"
_PATTERN = re.compile(PATTERN_FORM)
TypePattern = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^({PATTERN_FORM})$"})]
"""Text that JSON Schemas show as a pattern; `check_pattern` is what refuses it."""


def _type_name(name: str) -> str:
    if not is_type_name(name):
        raise ValueError("should be words of a-z, 0-9 and _, joined by dots: 'orders.placed'")
    return name


TypeName = Annotated[
    str, AfterValidator(_type_name), WithJsonSchema({"type": "string", "pattern": f"^({TYPE_FORM})$"})
]
"""Text that is the name of an event type or a capability."""


def topic_of(name: str) -> str:
    """The first word of a type name or pattern (`**` for the pattern of everything)."""
    return name.partition(".")[0]


def is_type_name(name: str) -> bool:
    return _TYPE.fullmatch(name) is not None


def check_type_name(name: str) -> str:
    """Return `name`; raise `InvalidPattern` if it is not a type name."""
    if not is_type_name(name):
        raise InvalidPattern(
            f"{name!r} is not an event type",
            fix="words of a-z, 0-9 and _ that start with a letter, joined by dots: 'orders.placed'",
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return `pattern`; raise `InvalidPattern` if it cannot select anything."""
    if not _PATTERN.fullmatch(pattern):
        raise InvalidPattern(
            f"{pattern!r} is not a pattern",
            fix="'orders.placed', 'orders.*' (one word), 'orders.**' (one or more, at the end), or '**'",
        )
    return pattern


def matches(pattern: str, type_name: str) -> bool:
    """Whether `pattern` selects `type_name`. Both must be well formed."""
    if pattern == "**":
        return topic_of(type_name) not in RESERVED_TOPICS
    wanted, found = pattern.split("."), type_name.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        if len(found) <= len(wanted):
            return False
        found = found[: len(wanted)]
    return len(wanted) == len(found) and all(
        want in ("*", have) for want, have in zip(wanted, found, strict=True)
    )


def covers(grant: str, pattern: str) -> bool:
    """Whether everything that `pattern` selects is selected by `grant` as well."""
    if grant == "**":
        return pattern == "**" or topic_of(pattern) not in RESERVED_TOPICS
    if pattern == "**":
        return False
    wide, narrow = grant.split("."), pattern.split(".")
    if wide[-1] == "**":
        wide.pop()
        if len(narrow) <= len(wide):
            return False
        narrow = narrow[: len(wide)]
    elif narrow[-1] == "**":
        return False
    return len(wide) == len(narrow) and all(
        have == want or (have == "*" and want != "**") for have, want in zip(wide, narrow, strict=True)
    )


def covered(grants: Iterable[str], pattern: str) -> bool:
    """Whether any of `grants` covers `pattern`."""
    return any(covers(grant, pattern) for grant in grants)


def overlaps(one: str, other: str) -> bool:
    """Whether some type is selected by both patterns."""
    if "**" in (one, other):
        rest = other if one == "**" else one
        return rest == "**" or topic_of(rest) not in RESERVED_TOPICS
    left, right = one.split("."), other.split(".")
    open_left, open_right = left[-1] == "**", right[-1] == "**"
    if not open_left and not open_right and len(left) != len(right):
        return False
    # `**` stands for one word at least; where both are open, each may be as long as the other needs.
    if open_left != open_right and len(left if open_right else right) < len(right if open_right else left):
        return False
    return all(a == b or a in ("*", "**") or b in ("*", "**") for a, b in zip(left, right, strict=False))
