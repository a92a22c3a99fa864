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


def test_a_capability_is_shown_with_its_providers_in_order(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """The one that is asked first; who could provide it beside them; the query."""
    providers = [
        {"plugin_id": "good", "replica": "r1", "reach": "shared", "rank": 10},
        {"plugin_id": "cheap", "replica": "r2", "reach": "shared", "rank": 0},
    ]
    item = {
        "name": "pricing.quote", "description": "Prices", "providers": providers, "idle": ["old"],
        "query_schema": {"type": "object"}, "answer_schema": None,
    }  # fmt: skip
    kernel.answer("GET /admin/capabilities/pricing.quote", item)
    out = plugbus("capability", "show", "pricing.quote").out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"])]
    assert rows == [["1", "good", "10", "r1", "shared"], ["2", "cheap", "0", "r2", "shared"]]
    assert "old" in out
    assert plugbus("capability", "show", "pricing.quote", "--json").json["item"] == item
    assert plugbus("capability", "show", "nobody.has").code == 5
    kernel.answer("GET /admin/capabilities", [item])
    assert "good (10), cheap" in plugbus("capability", "list").out


def test_a_capability_is_requested_and_its_answer_printed(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Fields become the query; the deadline goes along."""
    kernel.answer("POST /admin/capabilities/pricing.quote", {"price": "2.50"})
    ended = plugbus("capability", "request", "pricing.quote", "sku=a", "--timeout", "1.5")
    assert ended.json == {"price": "2.50"}
    assert (kernel.last.body, kernel.last.query) == ({"sku": "a"}, {"timeout": ["1.5"]})
    wrapped = plugbus("capability", "request", "pricing.quote", "--data", '{"sku":"a"}', "--json").json
    assert wrapped == {"schema": "plugbus.capability.request/1", "item": {"price": "2.50"}}
