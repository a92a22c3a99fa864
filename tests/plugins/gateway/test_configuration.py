"""`/admin/config`: what is asked of the kernel, and what its answers become over HTTP."""

from typing import Any

import pytest

from contracts.messages import (
    ConfigurationOutcome,
    ConfigurationProblem,
    ConfigurationValue,
    ListConfigurationChanges,
    PluginConfiguration,
    SetConfiguration,
    ShowConfiguration,
)

VALUE = ConfigurationValue(key="load_above", value=5, layer="live", source="set by ada", set_by="ada")
NOW = PluginConfiguration(plugin_id="alerts", version=3, values=(VALUE,))
PATH = "/admin/config/alerts"


def outcome(name: Any, **more: Any) -> ConfigurationOutcome:
    return ConfigurationOutcome(outcome=name, configuration=NOW, **more)


async def test_reading_gives_the_models_and_the_version(http: Any, context: Any) -> None:
    """All of them, one with its ETag, its history."""
    context.answers |= {"kernel.config.show": (NOW,), "kernel.config.history": ()}
    assert (await http.get("/admin/config")).json() == [NOW.model_dump(mode="json")]
    one = await http.get(PATH)
    assert (one.headers["ETag"], one.json()) == ('"3"', NOW.model_dump(mode="json"))
    assert (await http.get(f"{PATH}/history?limit=7")).json() == []
    assert [query for _, query, _ in context.asked] == [
        ShowConfiguration(), ShowConfiguration(plugin_id="alerts"),
        ListConfigurationChanges(plugin_id="alerts", limit=7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "headers", "query", "asked"),
    [
        ("PATCH", {}, "", {}),
        ("PUT", {}, "", {"replace": True}),
        ("PATCH", {"If-Match": '"3"'}, "", {"if_versions": (3,)}),
        ("PATCH", {"If-Match": '"3", "5"'}, "", {"if_versions": (3, 5)}),
        ("PATCH", {"If-Match": "*"}, "", {}),
        ("PATCH", {"If-Match": 'W/"3"'}, "", {"if_versions": ()}),
        ("PATCH", {"If-Match": "3"}, "", {"if_versions": ()}),
        ("PUT", {}, "?dry_run=true", {"replace": True, "dry_run": True}),
    ],
)
async def test_changing_asks_what_the_request_says(
    http: Any, context: Any, method: str, headers: Any, query: str, asked: Any
) -> None:
    """Merging or replacing, whatever is there or only these versions; weak or foreign ETags match nothing."""
    context.answers["kernel.config.set"] = outcome("applied")
    answer = await http.request(method, PATH + query, json={"load_above": 5}, headers=headers)
    assert (answer.status_code, answer.headers["ETag"]) == (200, '"3"')
    assert ConfigurationOutcome.model_validate(answer.json()) == outcome("applied")
    [(_, found, _)] = context.asked
    given = {
        "plugin_id": "alerts",
        "values": {"load_above": 5},
        "on_behalf_of": "token at 127.0.0.1",
        **asked,
    }
    assert found == SetConfiguration(**given)


async def test_what_somebody_else_has_changed_is_a_412(http: Any, context: Any) -> None:
    """With what it is now, and its ETag."""
    context.answers["kernel.config.set"] = outcome("conflict", fix="look")
    answer = await http.patch(PATH, json={}, headers={"If-Match": '"2"'})
    assert (answer.status_code, answer.headers["ETag"]) == (412, '"3"')
    problem = answer.json()
    assert (problem["type"], problem["fix"]) == ("/problems/configuration-conflict", "look")
    assert problem["configuration"] == NOW.model_dump(mode="json")


async def test_what_does_not_fit_is_a_422_with_each_key(http: Any, context: Any) -> None:
    """A pointer, what was expected and the fix."""
    problems = (
        ConfigurationProblem(key="api.retries", expected="a whole number", found='"x"', fix="mend it"),
        ConfigurationProblem(key="", expected="the plugin says no"),
    )
    context.answers["kernel.config.set"] = outcome("refused", problems=problems, fix="mend it")
    answer = await http.put(PATH, json={"api": {"retries": "x"}})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "/problems/configuration-refused")
    assert problem["errors"] == [
        {
            "in": "body", "pointer": "/api/retries", "fix": "mend it",
            "detail": 'expected a whole number, found "x"',
        },
        {"in": "body", "pointer": "", "detail": "the plugin says no", "fix": ""},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        ("GET", {"t-read", "t-operate", "t-all"}),
        ("PUT", {"t-operate", "t-all"}),
        ("PATCH", {"t-operate", "t-all"}),
    ],
)
async def test_reading_and_changing_need_different_rights(
    http: Any, context: Any, method: str, allowed: set[str]
) -> None:
    """As everywhere in the admin API: `read` and `operate`."""
    context.answers |= {"kernel.config.show": (NOW,), "kernel.config.set": outcome("applied")}
    statuses = {}
    for token in ("t-publish", "t-read", "t-operate", "t-all"):
        headers = {"Authorization": f"Bearer {token}"}
        answer = await http.request(method, PATH, content=b"{}", headers=headers)
        statuses[token] = answer.status_code
    assert statuses == {token: 200 if token in allowed else 403 for token in statuses}


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null"])
async def test_a_body_that_is_no_object_is_a_400(http: Any, context: Any, body: bytes) -> None:
    """Nobody is asked."""
    assert (await http.patch(PATH, content=body)).status_code == 400
    assert context.asked == []
