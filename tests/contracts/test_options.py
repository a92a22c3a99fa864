"""What `@on` says of options that it does not know or cannot take."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.base import on
from contracts.errors import InvalidOption
from contracts.subscription import SubscriptionOptions


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"concurency": 3}, "did you mean 'concurrency'?"),
        ({"rety": None}, "did you mean 'retry'?"),
        ({"wher": None}, "did you mean 'where'?"),
        ({"zzz": 1}, "one of name, where, concurrency"),
        ({"rate": 5}, "rate=RateLimit(limit=50)"),
        ({"name": ""}, "name='report'"),
        ({"name": "two words"}, "name='report'"),
    ],
)
def test_a_wrong_option_is_told_with_the_right_one(options: dict[str, Any], fix: str) -> None:
    """With the line that it stands on."""
    with pytest.raises(InvalidOption) as caught:
        on(**options)
    assert caught.value.fix.startswith(fix)
    assert caught.value.where.partition(":")[0] == __file__


def test_options_of_a_broadcast_cross_a_line() -> None:
    """As JSON and back: a plugin behind a line may broadcast as well."""
    options = SubscriptionOptions(broadcast=True)
    back = SubscriptionOptions.model_validate_json(options.model_dump_json())
    assert back.broadcast
    assert SubscriptionOptions.model_validate_json(SubscriptionOptions().model_dump_json()).start == "oldest"
