"""The plugin: it listens while it is started, or is served by the application that embeds the kernel."""

from __future__ import annotations

import asyncio
from typing import cast

from contracts.base import BasePlugin
from contracts.errors import PluginStepFailed
from contracts.web import EdgeContext

from .app import edge_application, own_app, with_documents
from .config import GatewayConfig
from .edge import Edge
from .server import EndpointFile, Server, listen, url_of


class Gateway(BasePlugin):
    """Serves the application of `create_app`; its address is `url`, and in the state folder."""

    url: str = ""
    """Empty where an application that embeds the kernel serves it."""
    _server: Server
    _serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once requests are answered."""
        context = cast(EdgeContext, self.context)
        config = self.read_config(GatewayConfig)
        own = own_app(context, config)
        if not context.hand_over(edge_application(context, own)):
            await self._listen(context, config, with_documents(context, own))

    async def _listen(self, context: EdgeContext, config: GatewayConfig, edge: Edge) -> None:
        sock = listen(config)
        context.on_close(sock.close)
        self._server = Server(edge, sock, config)
        self._serving = context.spawn(self._server.run_until_stopped(), name="web server")
        await self._listening(self._serving)
        self.url = url_of(sock)
        endpoint = EndpointFile(context.state_dir)
        context.on_close(endpoint.remove)
        endpoint.write(self.url)

    async def stop(self) -> None:
        """Open streams say good-bye; other open requests get the grace time, then they are cut."""
        if self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait({self._serving})

    async def _listening(self, serving: asyncio.Task[None]) -> None:
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise PluginStepFailed(
                "the web server ended before it listened", plugin_id=self.plugin_id, step="start"
            )
