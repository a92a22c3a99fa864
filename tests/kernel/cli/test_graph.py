"""`plugbus graph`, and the diagrams that it prints."""

import re
from typing import Any

import pytest

from .conftest import CannedKernel, Plugbus


def node(kind: str, name: str, status: str = "", *marks: str) -> dict[str, Any]:
    return {"id": f"{kind}:{name}", "kind": kind, "name": name, "status": status, "marks": list(marks)}


def edge(source: str, target: str, kind: str) -> dict[str, str]:
    return {"source": source, "target": target, "kind": kind}


GRAPH: dict[str, Any] = {
    "what": "all",
    "nodes": [
        node("plugin", "alerts", "started"),
        node("plugin", "store", "missing"),
        node("plugin", "webhooks", "error"),
        node("kernel", "kernel"),
        node("event", "alerts.raised", "", "unheard"),
        node("event", "github.**"),
        node("event", "orders.placed", "", "unpublished"),
        node("group", "alerts.watch", "active"),
        node("capability", "alerts.active"),
    ],
    "edges": [
        edge("plugin:alerts", "plugin:store", "dependency"),
        edge("plugin:alerts", "plugin:webhooks", "optional"),
        edge("plugin:alerts", "event:alerts.raised", "publishes"),
        edge("plugin:webhooks", "event:github.**", "publishes"),
        edge("event:github.**", "group:alerts.watch", "handled by"),
        edge("event:orders.placed", "group:alerts.watch", "handled by"),
        edge("group:alerts.watch", "plugin:alerts", "of"),
        edge("plugin:alerts", "capability:alerts.active", "provides"),
        edge("capability:alerts.active", "plugin:webhooks", "requested by"),
    ],
    "warnings": [
        {"node": "event:alerts.raised", "code": "unheard", "text": "nobody hears it", "fix": "@on {it}"},
        {"node": "event:orders.placed", "code": "unpublished", "text": "nobody says it", "fix": ""},
    ],
}
HOSTILE = [
    '"]; end',
    "a\\",
    "x\ny",
    "`**b**`",
    "<b>&amp;#quot;",
    "end",
    "%%{init: {}}%%",
    "a|b",
    "a&b",
    "ä→ö",
    "{{x}}",
]


def hostile() -> dict[str, Any]:
    """Names that mean something to one of the languages; the edges go along them."""
    nodes = [node("plugin", name, "started") for name in HOSTILE]
    edges = [edge(nodes[0]["id"], one["id"], "optional") for one in nodes]
    told = [{"node": one["id"], "code": "missing", "text": one["name"], "fix": one["name"]} for one in nodes]
    return {"what": "plugins", "nodes": nodes, "edges": edges, "warnings": told}


def printed(plugbus: Plugbus, kernel: CannedKernel, graph: dict[str, Any], format: str) -> list[str]:
    kernel.answer("GET /admin/graph", graph)
    ended = plugbus("graph", "--format", format)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.splitlines()


def test_the_text_shows_both_sides_and_the_warnings_below(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """What each plugin starts after; for each event and capability who is before and behind it."""
    assert printed(plugbus, kernel, GRAPH, "text") == [
        "plugins",
        "  alerts: needs store (missing), optional webhooks (error)",
        "  store (missing)",
        "  webhooks (error)",
        "events",
        "  alerts → alerts.raised (unheard) → nobody",
        "  webhooks (error) → github.** → alerts.watch",
        "  nobody → orders.placed (unpublished) → alerts.watch",
        "capabilities",
        "  alerts → alerts.active → webhooks (error)",
        "warnings",
        "  unheard: nobody hears it; fix: @on {it}",
        "  unpublished: nobody says it",
    ]


@pytest.mark.parametrize("what", ["plugins", "events", "capabilities", "all"])
def test_a_part_is_asked_of_the_kernel(plugbus: Plugbus, kernel: CannedKernel, what: str) -> None:
    """And nothing else is printed."""
    kernel.answer("GET /admin/graph", GRAPH | {"what": what})
    out = plugbus("graph", "--what", what).out
    assert kernel.last.query == {"what": [what]}
    titles = {line for line in out.splitlines() if not line.startswith(" ")} - {"warnings"}
    assert titles == ({"plugins", "events", "capabilities"} if what == "all" else {what})


def test_json_is_what_the_kernel_said(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """By either option."""
    kernel.answer("GET /admin/graph", GRAPH)
    expected = {"schema": "plugbus.graph/1", "item": GRAPH}
    assert plugbus("graph", "--json").json == expected
    assert plugbus("graph", "--format", "json").json == expected


def test_a_format_that_is_none_is_refused(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Before anybody is asked."""
    ended = plugbus("graph", "--format", "png")
    assert (ended.code, kernel.asked) == (2, [])
    assert "'mermaid'" in ended.err


MERMAID = re.compile(
    r"flowchart LR"
    r'|  n\d+(\["TEXT"\]|\(\["TEXT"\]\)|\[\("TEXT"\)\]|\[\["TEXT"\]\]|\{\{"TEXT"\}\})'
    r'|  n\d+ (-->|-\.->)\|"TEXT"\| n\d+'
    r"|  classDef warning [a-z0-9:#,\- ]+|  class n\d+(,n\d+)* warning|%% [^{}]*"
)
DOT = re.compile(
    r"digraph plugbus \{|  rankdir=LR;|\}"
    r"|  n\d+ \[label=STRING, shape=\w+(, color=\"red\", style=\"dashed\")?\];"
    r"|  n\d+ -> n\d+ \[label=STRING(, style=\"dashed\")?\];|// .*"
)
WITH_TEXT = re.compile(MERMAID.pattern.replace("TEXT", r"([\w .\-]|#\d+;)*"), re.ASCII)
WITH_STRING = re.compile(DOT.pattern.replace("STRING", r'"([^"\\&]|&amp;|\\\\|\\")*"'))


@pytest.mark.parametrize("graph", [GRAPH, hostile()], ids=["usual", "hostile"])
@pytest.mark.parametrize(("format", "grammar"), [("mermaid", WITH_TEXT), ("dot", WITH_STRING)])
def test_diagrams_are_valid_whatever_the_names_are(
    plugbus: Plugbus, kernel: CannedKernel, graph: dict[str, Any], format: str, grammar: re.Pattern[str]
) -> None:
    """Each line is one that the language has; a name is never more than a label or a comment."""
    lines = printed(plugbus, kernel, graph, format)
    assert [line for line in lines if grammar.fullmatch(line) is None] == []
    assert len(lines) >= len(graph["nodes"]) + len(graph["edges"]) + len(graph["warnings"])


def test_a_mermaid_diagram_marks_what_a_warning_is_about(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Missing plugins, unheard and unpublished events; warnings are comments below."""
    lines = printed(plugbus, kernel, GRAPH, "mermaid")
    assert lines[1] == '  n1["alerts"]'
    assert '  n5(["alerts.raised #40;unheard#41;"])' in lines
    assert '  n1 -->|"dependency"| n2' in lines
    assert '  n1 -.->|"optional"| n3' in lines
    assert "  class n2,n5,n7 warning" in lines
    assert lines[-2:] == [
        "%% unheard: nobody hears it; fix: @on (it)",
        "%% unpublished: nobody says it",
    ]


def test_a_dot_diagram_marks_what_a_warning_is_about(plugbus: Plugbus, kernel: CannedKernel) -> None:
    """Red and dashed."""
    lines = printed(plugbus, kernel, GRAPH, "dot")
    assert '  n5 [label="alerts.raised (unheard)", shape=ellipse, color="red", style="dashed"];' in lines
    assert '  n1 -> n3 [label="optional", style="dashed"];' in lines
    assert lines[-3:] == ["}", "// unheard: nobody hears it; fix: @on {it}", "// unpublished: nobody says it"]
