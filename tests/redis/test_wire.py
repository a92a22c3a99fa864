"""Commands, as they go out."""

from __future__ import annotations

import hiredis
import pytest

from bus.redis_streams.wire import pieces_of


@pytest.mark.parametrize("words", [1, 59, 60, 61, 120, 121, 1000])
def test_what_is_packed_in_pieces_is_the_same_command(words: int) -> None:
    """However long it is, and whatever the kind of its words."""
    command = tuple((b"\x00\r\n", "wörd", 17, b"*3\r\n")[n % 4] for n in range(words))
    assert b"".join(pieces_of(command)) == hiredis.pack_command(command)


def test_no_piece_is_large() -> None:
    """However many words there are."""
    pieces = pieces_of(("EVAL", *(b"x" * 1_000 for _ in range(1_000))))
    assert max(map(len, pieces)) < 100_000
