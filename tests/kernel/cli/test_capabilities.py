"""`plugbus capability …`."""

from .conftest import CannedKernel, Plugbus


def test_capabilities_are_listed_with_their_providers(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Name, who provides it, what it is for."""
    item = {"name": "alerts.active", "description": "What is raised", "providers": [{"plugin_id": "alerts"}]}
    kernel.answer("GET /admin/capabilities", [item])
    assert plugbus("capability", "list").out.splitlines()[1].split() == [
        "alerts.active", "alerts", "What", "is", "raised",
    ]  # fmt: skip
    assert plugbus("capability", "list", "--json").json["items"] == [item]


def test_a_capability_is_requested_and_its_answer_printed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Fields become the query; the deadline goes along."""
    kernel.answer("POST /admin/capabilities/pricing.quote", {"price": "2.50"})
    ended = plugbus("capability", "request", "pricing.quote", "sku=a", "--timeout", "1.5")
    assert ended.json == {"price": "2.50"}
    assert (kernel.last.body, kernel.last.query) == ({"sku": "a"}, {"timeout": ["1.5"]})
    wrapped = plugbus("capability", "request", "pricing.quote", "--data", '{"sku":"a"}', "--json").json
    assert wrapped == {"schema": "plugbus.capability.request/1", "item": {"price": "2.50"}}
