"""What the operator may set for the gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from contracts.bus import MAX_PAYLOAD
from contracts.errors import SettingsError


class GatewayConfig(BaseModel):
    """The gateway's configuration; `read` makes one from what the kernel merged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    """0: any free port."""
    port_fallback: bool = False
    """Whether any free port will do where `port` is taken."""
    allow_remote: bool = False
    """Whether the gateway may listen on anything but loopback."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "warning"
    max_body_bytes: int = Field(MAX_PAYLOAD + 65_536, ge=1_024)
    """Largest request body that the gateway itself reads; plugins decide for their own routes."""
    max_batch_events: int = Field(1_000, ge=1)
    """Events in one body of `POST /events`."""
    max_import_bytes: int = Field(16 * MAX_PAYLOAD, ge=1_024)
    """The same for dead letters that are imported, up to 1,000 in one body."""
    keep_alive_seconds: float = Field(15.0, gt=0, le=15)
    """Silence on an event stream after which a comment is sent."""
    grace_seconds: float = Field(5.0, gt=0, le=5)
    """What open requests get at shutdown before they are cut."""

    @model_validator(mode="after")
    def _not_remote_by_accident(self) -> Self:
        if not (self.allow_remote or is_loopback(self.host)):
            raise ValueError(
                f"the host {self.host!r} can be reached from other machines: "
                "use 127.0.0.1, or set allow_remote = true"
            )
        return self

    @classmethod
    def read(cls, values: Mapping[str, JsonValue]) -> GatewayConfig:
        """Raises `SettingsError` that names the first key that does not fit."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise SettingsError(
                f"{key}: {message}" if key else message,
                where="[plugins.gateway.config]",
                fix=f"set {key} to what is expected, or leave it out" if key else "host = '127.0.0.1'",
            ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name other than localhost counts as remote."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
