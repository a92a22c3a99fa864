"""The admin API: each address asks the kernel its query, and gives the answer as the model's JSON."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from contracts import errors
from contracts.bus import DeadLetter, DeadLetterSelection, Features, GroupInfo, ProviderInfo, TopicInfo
from contracts.envelope import Envelope
from contracts.errors import CallTimeout, ErrorInfo, NoProvider, PlugbusError, ProviderFailed
from contracts.messages import (
    BusDetails,
    CancelReplay,
    CapabilityInfo,
    CommandResult,
    DiffEventType,
    DiscardDeadLetters,
    DropGroup,
    EventDiff,
    EventTypeInfo,
    ExplainPlugin,
    ImportDeadLetters,
    ListDeadLetters,
    ListEventTypes,
    ListPlugins,
    LogLine,
    LogLines,
    PauseGroup,
    PluginDetails,
    PluginExplanation,
    PluginGraph,
    PluginInfo,
    PluginReason,
    Readiness,
    RedriveDeadLetters,
    ReplayEvents,
    ReplayResult,
    ResumeGroup,
    SchemaComparison,
    SchemaDifference,
    SchemaSide,
    ShowCapability,
    ShowDeadLetter,
    ShowGraph,
    ShowGroup,
    ShowPlugin,
    StartPlugin,
    StopPlugin,
    TraceRecord,
)
from contracts.messages.explain import EventLink, StartPlace
from contracts.messages.graph import GraphEdge, GraphNode, GraphWarning
from contracts.metadata import PluginMetadata
from contracts.plugin import PluginStatus
from contracts.security import SecurityLevel

NOW = datetime(2026, 1, 31, 8, tzinfo=UTC)
PLUGIN = PluginInfo(
    plugin_id="alerts",
    name="Alerts",
    version="1.0.0",
    status=PluginStatus.ERROR,
    activity="none",
    reason=PluginReason(
        code="plugin-load", text="it raised", since=NOW, place="alerts.py:3", next_step="fix it"
    ),
    level_requested="trusted",
    level_effective="trusted",
)
DETAILS = PluginDetails(**dict(PLUGIN), metadata=PluginMetadata(plugin_id="alerts", version="1.0.0"))
EXPLANATION = PluginExplanation(
    plugin_id="alerts", version="1.0.0", status=PluginStatus.STARTED, activity="none", enabled=True,
    start=StartPlace(wave=1, waves=2, why="it waits for nobody"), known_from="code",
    publishes=(EventLink(pattern="alerts.raised", others=("pager.ring",), is_only=True),),
)  # fmt: skip
GRAPH = PluginGraph(
    what="all",
    nodes=(GraphNode(id="event:a.b", kind="event", name="a.b", marks=("unheard",)),),
    edges=(GraphEdge(source="plugin:a", target="event:a.b", kind="publishes"),),
    warnings=(GraphWarning(node="event:a.b", code="unheard", text="nobody hears it", fix="handle it"),),
)
DEAD = DeadLetter(
    id="d1",
    group="alerts.watch",
    plugin_id="alerts",
    generation=2,
    reason="attempts",
    error=ErrorInfo(type="ValueError", message="no"),
    attempts=5,
    first_at=NOW,
    last_at=NOW,
    envelope=Envelope(id="1", source="/shop", type="orders.placed", time=NOW, extensions={"tenant": "acme"}),
    data='{"order_id":"17"}',
)
GROUP = GroupInfo(
    group="alerts.watch", plugin_id="alerts", patterns=("orders.*",), state="active",
    waiting=1, peak=2, in_flight=3, parked=4, dead=5, handled=6, failed=7, stale=8, owners={"r1": 1},
)  # fmt: skip
TYPE = EventTypeInfo(
    type="orders.placed", version=2, json_schema={"type": "object"}, publishers=("shop",), handlers=("a.b",)
)
TOPIC = TopicInfo(topic="orders", partitions=1, events=3, peak=4, limit=5, published=6, holder="alerts.watch")
BUS = BusDetails(
    backend="redis", server="Redis 7.0.15", address="redis://127.0.0.1:6379", namespace="plugbus",
    connected=True, durability="weak", replicas=("r1", "r2"), warnings=("it may lose a second: set it",),
    details={"latency_ms": 0.2}, replica="r1", features=Features(persistent=True, shared=True),
    topics=(TOPIC,),
)  # fmt: skip
LOG = LogLines(
    replica="r1", most=1000, dropped=7,
    lines=(LogLine(at=datetime(2026, 11, 28, tzinfo=UTC), level="ERROR", logger="plugbus.bus", text="x"),),
)  # fmt: skip
SPANS = TraceRecord(replica="r1", kept=3, most=20_000)
DIFF = EventDiff(
    type="orders.placed", versions=(1, 2),
    comparisons=(
        SchemaComparison(
            writer=SchemaSide(version=1, plugin_id="shop"), reader=SchemaSide(version=2, plugin_id="till"),
            differences=(SchemaDifference(field="total", text="is string", compatible=False, fix="lift it"),),
        ),
    ),
)  # fmt: skip
REPLAY = ReplayResult(group="alerts.watch", events=7)
CAPABILITY = CapabilityInfo(
    name="pricing.quote",
    providers=(ProviderInfo(capability="pricing.quote", plugin_id="p", replica="r1", reach="shared"),),
    query_schema={"type": "object"},
)


def remote(error: Exception) -> ProviderFailed:
    """An error of the kernel as it reaches who asked."""
    return ProviderFailed(f"the provider failed: {error}", info=ErrorInfo.of(error), capability="kernel.x")


@pytest.mark.parametrize(
    ("path", "capability", "answer"),
    [
        ("/admin/plugins", "kernel.plugin.list", (PLUGIN,)),
        ("/admin/plugins/alerts", "kernel.plugin.show", DETAILS),
        ("/admin/plugins/alerts/explain", "kernel.plugin.explain", EXPLANATION),
        ("/admin/graph", "kernel.graph.show", GRAPH),
        ("/admin/dead-letters", "kernel.dlq.list", (DEAD,)),
        ("/admin/dead-letters/d1", "kernel.dlq.show", DEAD),
        ("/admin/groups", "kernel.group.list", (GROUP,)),
        ("/admin/groups/alerts.watch", "kernel.group.show", GROUP),
        ("/admin/bus", "kernel.bus.show", BUS),
        ("/admin/log", "kernel.log.show", LOG),
        ("/admin/traces", "telemetry.trace.recent", SPANS),
        ("/admin/events/types", "kernel.event.types", (TYPE,)),
        ("/admin/events/types/orders.placed/diff", "kernel.event.diff", DIFF),
        ("/admin/capabilities", "kernel.capability.list", (CAPABILITY,)),
    ],
)
async def test_reading_gives_the_models_as_they_are(
    http: Any, context: Any, path: str, capability: str, answer: Any
) -> None:
    """The JSON of each page reads back as the very answer of the kernel."""
    context.answers[capability] = answer
    response = await http.get(path)
    assert response.status_code == 200
    if isinstance(answer, tuple):
        assert tuple(type(answer[0]).model_validate(each) for each in response.json()) == answer
    else:
        assert type(answer).model_validate(response.json()) == answer


async def test_queries_carry_what_the_address_says(http: Any, context: Any) -> None:
    """Ids, filters and limits of the address are those of the query."""
    context.answers |= {"kernel.plugin.show": DETAILS, "kernel.dlq.show": DEAD, "kernel.dlq.list": ()}
    context.answers |= {"kernel.group.show": GROUP, "kernel.event.types": ()}
    context.answers |= {"kernel.plugin.explain": EXPLANATION, "kernel.graph.show": GRAPH}
    context.answers["kernel.event.diff"] = DIFF
    await http.get("/admin/plugins/alerts")
    await http.get("/admin/plugins/alerts/explain")
    await http.get("/admin/graph", params={"what": "events"})
    await http.get("/admin/dead-letters/d1")
    await http.get("/admin/dead-letters", params={"group": "alerts.watch", "limit": 7})
    await http.get("/admin/dead-letters")
    await http.get("/admin/groups/alerts.watch")
    await http.get("/admin/events/types", params={"pattern": "orders.*"})
    await http.get("/admin/events/types/orders.placed/diff", params={"from": 1, "to": 3})
    assert [query for _, query, _ in context.asked] == [
        ShowPlugin(plugin_id="alerts"),
        ExplainPlugin(plugin_id="alerts"),
        ShowGraph(what="events"),
        ShowDeadLetter(id="d1"),
        ListDeadLetters(selection=DeadLetterSelection(group="alerts.watch"), limit=7),
        ListDeadLetters(),
        ShowGroup(group="alerts.watch"),
        ListEventTypes(pattern="orders.*"),
        DiffEventType(type="orders.placed", from_version=1, to_version=3),
    ]


async def test_dead_letters_are_filtered_by_everything_that_is_known(http: Any, context: Any) -> None:
    """Each field of a selection is a parameter of the address, and `after` begins the next page."""
    context.answers["kernel.dlq.list"] = ()
    given = {
        "ids": ["d1", "d2"], "group": "alerts.watch", "plugin_id": "alerts", "generation": 3,
        "type": "orders.**", "reason": "attempts", "error": "KeyError", "min_age": 60, "max_age": 7200.5,
    }  # fmt: skip
    assert set(given) == set(DeadLetterSelection.model_fields)
    assert (await http.get("/admin/dead-letters", params=given | {"after": "d9"})).status_code == 200
    [(_, query, _)] = context.asked
    assert query == ListDeadLetters(selection=DeadLetterSelection.model_validate(given), after="d9")


@pytest.mark.parametrize("given", [{"min_age": -1}, {"generation": "x"}, {"grp": "a.b"}, {"limit": 1_001}])
async def test_a_filter_that_does_not_fit_is_refused(http: Any, context: Any, given: Any) -> None:
    """An unknown one too: it would otherwise select everything."""
    response = await http.get("/admin/dead-letters", params=given)
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request")
    assert context.asked == []


@pytest.mark.parametrize(
    ("path", "body", "query", "answer"),
    [
        ("groups/a.b/pause", None, PauseGroup(group="a.b"), GROUP),
        ("groups/a.b/pause", {"reason": "deploy"}, PauseGroup(group="a.b", reason="deploy"), GROUP),
        ("groups/a.b/resume", None, ResumeGroup(group="a.b"), GROUP),
        ("groups/a.b/drop", None, DropGroup(group="a.b"), GROUP),
        ("events/replay", {"group": "a.b"}, ReplayEvents(group="a.b"), REPLAY),
        (
            "events/replay",
            {"group": "a.b", "start": "2026-01-31T08:00:00Z", "end": "12"},
            ReplayEvents(group="a.b", start=NOW, end="12"),
            REPLAY,
        ),
        ("events/replay/cancel", {"group": "a.b"}, CancelReplay(group="a.b"), REPLAY),
    ],
)
async def test_groups_and_replays_are_commanded(
    http: Any, context: Any, path: str, body: Any, query: Any, answer: Any
) -> None:
    """The address and the body are the command, the answer is how the group stands now."""
    context.answers[type(query).__capability__] = answer
    response = await http.post(f"/admin/{path}", json=body)
    assert response.status_code == 200, response.text
    assert type(answer).model_validate(response.json()) == answer
    assert [asked for _, asked, _ in context.asked] == [query]


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("groups/a.b/pause", {"reson": "x"}, "/reson"),
        ("events/replay", {}, "/group"),
        ("events/replay", {"group": "a.b", "start": "2026-01-31T08:00:00"}, "/start/datetime"),
        ("dead-letters/import", {"letters": [{"id": "d1"}]}, "/letters/0/group"),
    ],
)
async def test_a_bad_command_is_refused_with_its_field(
    http: Any, context: Any, path: str, body: Any, pointer: str
) -> None:
    """422 with a JSON pointer; the kernel is not asked."""
    response = await http.post(f"/admin/{path}", json=body)
    assert response.status_code == 422
    assert pointer in [each["pointer"] for each in response.json()["errors"]]
    assert context.asked == []


async def test_dead_letters_are_imported(http: Any, context: Any) -> None:
    """Larger bodies than elsewhere are read; the answer says how many were new."""
    context.answers["kernel.dlq.import"] = 2
    letters = [DEAD.model_copy(update={"id": f"d{number}", "data": "x" * 900_000}) for number in range(3)]
    body = {"letters": [letter.model_dump(mode="json") for letter in letters]}
    assert (await http.post("/admin/dead-letters/import", json=body)).json() == {"count": 2}
    assert [query for _, query, _ in context.asked] == [ImportDeadLetters(letters=tuple(letters))]


async def test_a_dry_run_and_a_rate_go_along(http: Any, context: Any) -> None:
    """As parameters of the address; a rate that lets nothing go is refused."""
    context.answers |= {"kernel.dlq.redrive": 3, "kernel.dlq.discard": 2}
    chosen = DeadLetterSelection(error="KeyError")
    await http.post("/admin/dead-letters/redrive?dry_run=true&rate=2.5", json={"error": "KeyError"})
    await http.post("/admin/dead-letters/discard?dry_run=true", json={"error": "KeyError"})
    assert [query for _, query, _ in context.asked] == [
        RedriveDeadLetters(selection=chosen, dry_run=True, rate=2.5),
        DiscardDeadLetters(selection=chosen, dry_run=True),
    ]
    assert (await http.post("/admin/dead-letters/redrive?rate=0", json={})).status_code == 422


@pytest.mark.parametrize(("outcome", "status"), [("done", 200), ("unchanged", 200), ("accepted", 202)])
async def test_commands_tell_their_outcome(http: Any, context: Any, outcome: Any, status: int) -> None:
    """Start and stop answer with the plugin as it stands; 202 where it is only accepted."""
    result = CommandResult(outcome=outcome, plugin=PLUGIN)
    context.answers |= {"kernel.plugin.start": result, "kernel.plugin.stop": result}
    for verb in ("start", "stop"):
        response = await http.post(f"/admin/plugins/alerts/{verb}")
        assert response.status_code == status
        assert CommandResult.model_validate(response.json()) == result
    assert [query for _, query, _ in context.asked] == [
        StartPlugin(plugin_id="alerts"),
        StopPlugin(plugin_id="alerts"),
    ]


@pytest.mark.parametrize(
    "body", [{}, {"ids": ["d1", "d2"]}, {"group": "alerts.watch"}, {"ids": ["d1"], "group": "alerts.watch"}]
)
async def test_dead_letters_are_redriven_and_discarded(http: Any, context: Any, body: Any) -> None:
    """The body selects; the answer says how many."""
    context.answers |= {"kernel.dlq.redrive": 3, "kernel.dlq.discard": 2}
    redriven = await http.post("/admin/dead-letters/redrive", json=body)
    discarded = await http.post("/admin/dead-letters/discard", json=body)
    assert (redriven.json(), discarded.json()) == ({"count": 3}, {"count": 2})
    selection = DeadLetterSelection.model_validate(body)
    assert [query for _, query, _ in context.asked] == [
        RedriveDeadLetters(selection=selection),
        DiscardDeadLetters(selection=selection),
    ]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed-json"),
        (b"[]", 400, "malformed-json"),
        (b'{"ids":', 400, "malformed-json"),
        (b"[" * 10_000, 400, "malformed-json"),
        (b'{"idz": []}', 422, "invalid-request"),
        (b'{"ids": 5}', 422, "invalid-request"),
        (b" " * 2_000_000, 413, "payload-too-large"),
    ],
)
async def test_a_bad_selection_touches_nothing(
    http: Any, context: Any, body: bytes, status: int, code: str
) -> None:
    """What is not a selection, or is no JSON, or too long, is refused before anything is asked."""
    response = await http.post("/admin/dead-letters/discard", content=body)
    assert (response.status_code, response.json()["type"]) == (status, f"/problems/{code}")
    assert context.asked == []


async def test_fields_that_do_not_fit_are_listed(http: Any) -> None:
    """A 422 names each field by a JSON pointer, in the body as in the query."""
    body = await http.post("/admin/dead-letters/redrive", json={"ids": [1], "x/y": 2})
    assert {(each["in"], each["pointer"]) for each in body.json()["errors"]} == {
        ("body", "/ids/0"),
        ("body", "/x~1y"),
    }
    query = await http.get("/admin/dead-letters", params={"limit": 0})
    assert query.status_code == 422
    [error] = query.json()["errors"]
    assert (error["in"], error["pointer"]) == ("query", "/limit")


async def test_a_capability_is_shown(http: Any, context: Any) -> None:
    """One capability with its schemas; 404 where nobody provides it."""

    def answer(query: ShowCapability) -> CapabilityInfo:
        if query.name != "pricing.quote":
            raise remote(NoProvider("nobody", capability=query.name, fix="plugbus plugin start weather"))
        return CAPABILITY

    context.answers["kernel.capability.show"] = answer
    found = await http.get("/admin/capabilities/pricing.quote")
    assert CapabilityInfo.model_validate(found.json()) == CAPABILITY
    missing = await http.get("/admin/capabilities/weather.today")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/no-provider")
    assert missing.json()["fix"] == "plugbus plugin start weather"


async def test_plugins_are_selected(http: Any, context: Any) -> None:
    """Each parameter is a filter of the query; what names nothing is refused, with the parameter."""
    asked: list[ListPlugins] = []
    context.answers["kernel.plugin.list"] = lambda query: (asked.append(query), (PLUGIN,))[1]
    filters = "tag=eu&tag=new&status=error&level=trusted&handles=orders.placed&provides=pricing.quote"
    assert len((await http.get(f"/admin/plugins?{filters}")).json()) == 1
    assert asked == [
        ListPlugins(
            tags=("eu", "new"), status=PluginStatus.ERROR, level=SecurityLevel.TRUSTED,
            handles="orders.placed", provides="pricing.quote",
        )
    ]  # fmt: skip
    for wrong in ("status=asleep", "level=high", "handles=Orders", "provides=pricing.*", "tags=eu"):
        refused = await http.get(f"/admin/plugins?{wrong}")
        assert refused.status_code == 422, wrong
        assert refused.json()["errors"][0]["pointer"] == f"/{wrong.partition('=')[0]}"


@pytest.mark.parametrize("answer", [{"price": 3}, [1, 2], "text", 5, None])
async def test_any_capability_can_be_requested(http: Any, context: Any, answer: Any) -> None:
    """The body is the query, the answer is the answer, whatever JSON it is; the timeout is handed on."""
    context.answers["pricing.quote"] = answer
    response = await http.post("/admin/capabilities/pricing.quote?timeout=2.5", json={"sku": "a"})
    assert response.status_code == 200
    assert response.json() == answer
    assert context.asked == [("pricing.quote", {"sku": "a"}, 2.5)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (
            remote(errors.PluginNotFound("no plugin 'x'", plugin_id="x", fix="plugbus plugin list")),
            404,
            "plugin-not-found",
        ),
        (remote(errors.DeadLetterNotFound("gone")), 404, "dead-letter-not-found"),
        (remote(errors.GroupNotFound("no group")), 404, "group-not-found"),
        (remote(errors.EventTypeNotFound("no type")), 404, "event-type-not-found"),
        (remote(errors.GroupConflict("in use")), 409, "group-conflict"),
        (remote(errors.InvalidOption("no position")), 422, "invalid-option"),
        (remote(errors.PluginBusy("starting")), 409, "plugin-busy"),
        (remote(errors.PluginStateError("already")), 409, "plugin-state"),
        (remote(errors.MissingDependency("needs webhooks")), 409, "missing-dependency"),
        (remote(errors.InvalidEvent("sku: missing")), 422, "invalid-event"),
        (remote(errors.PluginStepFailed("start raised")), 502, "plugin-step-failed"),
        (remote(KeyError("x")), 502, "provider-failed"),
        (errors.NoProvider("nobody"), 404, "no-provider"),
        (CallTimeout("no answer"), 504, "call-timeout"),
        (errors.ProviderLost("went away"), 503, "provider-lost"),
        (errors.CallRefused("answer did not fit"), 502, "call-refused"),
        (errors.BusClosed("closing"), 503, "bus-closed"),
        (errors.PermissionDeniedError("no grant"), 403, "permission-denied"),
        (errors.PluginBusy("starting"), 409, "plugin-busy"),
        (PlugbusError("unforeseen"), 500, "error"),
    ],
)
async def test_errors_of_the_kernel_are_problems(
    http: Any, context: Any, error: Exception, status: int, code: str
) -> None:
    """An error, raised here or by the provider, is known by the names of its class."""
    context.answers["kernel.plugin.show"] = error
    response = await http.get("/admin/plugins/x")
    problem = response.json()
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, f"/problems/{code}")
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["detail"]


async def test_the_fix_of_an_error_reaches_the_caller(http: Any, context: Any) -> None:
    """What the kernel advises stands in the problem."""
    context.answers["kernel.plugin.show"] = remote(errors.PluginNotFound("no 'x'", fix="plugbus plugin list"))
    problem = (await http.get("/admin/plugins/x")).json()
    assert (problem["detail"], problem["fix"]) == ("no 'x'", "plugbus plugin list")
    assert "where" not in problem


async def test_an_operator_is_told_where_a_plugin_failed(http: Any, context: Any) -> None:
    """The place of a plugin's failure stands in the problem, for the command line to show."""
    failure = errors.PluginStepFailed("start raised KeyError", where="alerts/alerts.py:12", fix="mend it")
    context.answers["kernel.plugin.start"] = remote(failure)
    problem = (await http.post("/admin/plugins/alerts/start")).json()
    assert (problem["type"], problem["where"], problem["fix"]) == (
        "/problems/plugin-step-failed",
        "alerts/alerts.py:12",
        "mend it",
    )
    assert problem["detail"].startswith("start raised KeyError")


READING = [
    "/admin/plugins", "/admin/plugins/x", "/admin/dead-letters", "/admin/dead-letters/x", "/admin/groups",
    "/admin/groups/x.y", "/admin/bus", "/admin/events/types", "/admin/capabilities",
    "/admin/capabilities/x.y", "/events/stream", "/admin/quarantine",
]  # fmt: skip
OPERATING = [
    "/admin/plugins/x/start", "/admin/plugins/x/stop", "/admin/dead-letters/redrive",
    "/admin/dead-letters/discard", "/admin/dead-letters/import", "/admin/capabilities/x.y",
    "/admin/groups/x.y/pause", "/admin/groups/x.y/resume", "/admin/groups/x.y/drop",
    "/admin/events/replay", "/admin/events/replay/cancel", "/admin/plugins/x/quarantine",
    "/admin/plugins/x/quarantine/release", "/admin/plugins/x/enable", "/admin/plugins/x/disable",
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [*(("GET", path, "t-publish") for path in READING), *(("POST", path, "t-read") for path in OPERATING)],
)
async def test_every_address_asks_for_its_right(
    app: Any, context: Any, method: str, path: str, token: str
) -> None:
    """401 without a token, 403 with one that lacks the right; the kernel is not asked."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as stranger:
        nobody = await stranger.request(method, path)
        lesser = await stranger.request(method, path, headers={"Authorization": f"Bearer {token}"})
    assert (nobody.status_code, nobody.json()["type"]) == (401, "/problems/token-required")
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert (lesser.status_code, lesser.json()["type"]) == (403, "/problems/right-missing")
    assert "insufficient_scope" in lesser.headers["www-authenticate"]
    assert context.asked == []


async def test_readiness_speaks_for_the_kernel(app: Any, context: Any) -> None:
    """200 for ready and degraded, 503 for not ready and for no answer; reasons and notes only for known
    tokens, whether the bus is there and how durable it is for everybody."""
    transport = httpx.ASGITransport(app)
    known = {"Authorization": "Bearer t-read"}
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as anybody:
        for status, expected in (("ready", 200), ("degraded", 200), ("not_ready", 503)):
            context.answers["kernel.ready"] = Readiness(
                status=status, bus="connected", durability="weak", reasons=("alerts failed",), notes=("weak",)
            )
            public, private = await anybody.get("/readyz"), await anybody.get("/readyz", headers=known)
            assert public.status_code == private.status_code == expected
            said = 503 if expected == 503 else status  # a problem document has the status of HTTP there
            told = {"status": said, "bus": "connected", "durability": "weak"}
            assert public.json().items() >= {**told, "reasons": [], "notes": []}.items()
            assert private.json().items() >= {**told, "reasons": ["alerts failed"], "notes": ["weak"]}.items()
        del context.answers["kernel.ready"]
        silent = await anybody.get("/readyz")
        assert (silent.status_code, silent.json()["bus"], silent.json()["durability"]) == (503, None, None)
        assert (silent.headers["content-type"], silent.json()["type"]) == (
            "application/problem+json",
            "/problems/not-ready",
        )
        alive = await anybody.get("/livez")
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize("verb", ["redrive", "discard"])
async def test_a_misspelt_dry_run_settles_nothing(http: Any, context: Any, verb: str) -> None:
    """What is not known is refused: passed over, it would have settled all."""
    answer = await http.post(f"/admin/dead-letters/{verb}?dryrun=true", json={})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert "dryrun" in answer.json()["detail"]


async def test_spans_that_nobody_keeps_are_told_with_what_to_do(http: Any, context: Any) -> None:
    """And only so many are asked for as is said."""
    answer = await http.get("/admin/traces")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-traced")
    assert "telemetry" in answer.json()["fix"]
    context.answers["telemetry.trace.recent"] = SPANS
    assert (await http.get("/admin/traces", params={"limit": 7})).status_code == 200
    assert context.asked[-1][1].limit == 7
    assert (await http.get("/admin/traces", params={"limit": 0})).status_code == 422
