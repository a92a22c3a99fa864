"""The API document of everything, and the page that shows it."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import APIKeyHeader
from pydantic import BaseModel

from contracts.web import WebMount
from plugins import gateway
from plugins.gateway.adapter import build
from plugins.gateway.openapi import merge


def shop(field: str) -> APIRouter:
    """Routers of two plugins: one name for two different models."""
    made = APIRouter()
    item = type("Item", (BaseModel,), {"__annotations__": {field: str}, "__module__": __name__})

    @made.post("/items")
    async def add(item: item) -> item:  # type: ignore[valid-type]
        return item

    return made


def references(value: Any) -> set[str]:
    return set(re.findall(r"#/components/([^\"]+)", json.dumps(value)))


async def test_the_guide_names_every_address_of_the_admin_api(http: Any) -> None:
    """An address that nobody is told of is not there."""
    guide = (Path(gateway.__file__).parent / "README.md").read_text()
    table = guide.partition("## The admin API")[2].partition("\n## ")[0]
    paths = [path for path in (await http.get("/openapi.json")).json()["paths"] if path.startswith("/admin/")]
    words = {word for path in paths for word in path.split("/") if word and not word.startswith("{")}
    assert len(words) > 20
    assert sorted(word for word in words if not re.search(rf"\b{word}\b", table)) == []


async def test_the_document_holds_every_plugin(http: Any, context: Any) -> None:
    """Our paths and those of each mount, prefixed, tagged, with ids of their own; every reference leads
    to a component, and equal names of two plugins stay apart."""
    context.mounts.put(build("billing", 1, shop("amount"), ()))
    context.mounts.put(build("shop", 1, shop("name"), ()))
    response = await http.get("/openapi.json")
    document = response.json()
    operation = document["paths"]["/plugins/shop/items"]["post"]
    assert operation["tags"] == ["plugin:shop"]
    assert operation["operationId"].startswith("shop_")
    assert {"/events", "/events/stream", "/admin/plugins", "/livez", "/readyz"} <= document["paths"].keys()
    schemas = document["components"]["schemas"]
    assert list(schemas["billing.Item"]["properties"]) == ["amount"]
    assert list(schemas["shop.Item"]["properties"]) == ["name"]
    for reference in references(document["paths"]) | references(document["components"]):
        kind, name = reference.split("/")
        assert name in document["components"][kind]
    ids = [
        each["operationId"]
        for item in document["paths"].values()
        for each in item.values()
        if "operationId" in each
    ]
    assert len(ids) == len(set(ids))


async def test_the_document_follows_the_table(http: Any, context: Any) -> None:
    """It is made once for each version of the table."""
    before = await http.get("/openapi.json")
    context.mounts.put(build("shop", 1, shop("name"), ()))
    after = await http.get("/openapi.json")
    assert "/plugins/shop/items" not in before.json()["paths"]
    assert "/plugins/shop/items" in after.json()["paths"]
    context.mounts.version += 1
    assert (await http.get("/openapi.json")).json() == after.json()


async def test_our_own_routes_ask_for_the_token_there_too(http: Any) -> None:
    """The document declares the bearer token, so that the page can ask for it; health needs none."""
    document = (await http.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["paths"]["/events"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/livez"]["get"]
    assert "application/cloudevents+json" in document["paths"]["/events"]["post"]["requestBody"]["content"]
    assert (
        "application/problem+json" in document["paths"]["/events"]["post"]["responses"]["default"]["content"]
    )
    assert "422" not in document["paths"]["/admin/dead-letters"]["get"]["responses"]


def test_security_schemes_of_plugins_get_their_id() -> None:
    """A scheme of a plugin and its use are renamed together; ours stays as it is."""
    application = FastAPI()

    @application.get("/x", dependencies=[Security(APIKeyHeader(name="X-Key", scheme_name="token"))])
    async def keyed() -> None: ...

    own = {"paths": {}, "components": {"securitySchemes": {"token": {"type": "http"}}}}
    merged = merge(own, [build("shop", 1, application, ())])
    assert merged["components"]["securitySchemes"].keys() == {"token", "shop.token"}
    assert merged["paths"]["/plugins/shop/x"]["get"]["security"] == [{"shop.token": []}]
    assert own == {"paths": {}, "components": {"securitySchemes": {"token": {"type": "http"}}}}


def test_discriminators_are_followed() -> None:
    """References that are plain values (a discriminator's mapping) are renamed as well."""
    union = {"discriminator": {"mapping": {"cat": "#/components/schemas/Cat"}}}
    document = {"paths": {}, "components": {"schemas": {"Cat": {}, "Pet": union}}}
    merged = merge({"paths": {}}, [WebMount("zoo", 1, FastAPI(), document)])
    mapping = merged["components"]["schemas"]["zoo.Pet"]["discriminator"]["mapping"]
    assert mapping == {"cat": "#/components/schemas/zoo.Cat"}


async def test_the_page_is_all_ours(app: Any) -> None:
    """Without a token: `/` leads to /docs; the page, its script and style come from here, with no inline
    script and a policy that allows nothing else."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as stranger:
        page = await stranger.get("/", follow_redirects=True)
        assert (page.url.path, page.status_code) == ("/docs", 200)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"<script(?![^>]* src=)", page.text) == []
        linked = re.findall(r'(?:src|href)="((?!data:)[^"]+)"', page.text)
        assert len(linked) == 4
        for link in linked:
            assert "//" not in link
            assert (await stranger.get(f"/{link}")).status_code == 200


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"])
async def test_third_party_files_have_their_licence_beside_them(http: Any, name: str) -> None:
    """The licence of Swagger UI is shipped, and served, with it."""
    assert (await http.get(f"/docs/static/swagger-ui/{name}")).status_code == 200
