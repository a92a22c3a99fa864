"""Levels, permissions and limits: what a plugin asks for, and what it really gets."""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _ByValueOrName(enum.Enum):
    """Accepted by value or by name, in any case: `"SANDBOXED"` and `"sandboxed"`."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        if isinstance(value, str):
            wanted = value.lower()
            for member in cls:
                if wanted in (member.value, member.name.lower()):
                    return member
        return None


class SecurityLevel(str, _ByValueOrName):
    """Where a plugin's code runs. What is *requested* and what is *effective* are both reported."""

    UNRESTRICTED = "unrestricted"
    """In this process, with every permission that it requests. For built-ins and your own code."""
    TRUSTED = "trusted"
    """In this process, without the dangerous permissions. Guards honest code; not a boundary."""
    SANDBOXED = "sandboxed"
    """In a worker that the operating system confines, with safe permissions only."""
    ISOLATED = "isolated"
    """In a confined worker, with no permission at all."""

    @property
    def in_process(self) -> bool:
        return self in (SecurityLevel.UNRESTRICTED, SecurityLevel.TRUSTED)


class Permission(str, _ByValueOrName):
    READ_DATA = "read_data"
    WRITE_DATA = "write_data"
    DELETE_DATA = "delete_data"
    EXECUTE_CODE = "execute_code"
    NETWORK_ACCESS = "network_access"
    FILE_SYSTEM_ACCESS = "file_system_access"
    DATABASE_ACCESS = "database_access"


SAFE_PERMISSIONS = frozenset({Permission.READ_DATA, Permission.WRITE_DATA})
DANGEROUS_PERMISSIONS = frozenset(
    {
        Permission.EXECUTE_CODE,
        Permission.NETWORK_ACCESS,
        Permission.FILE_SYSTEM_ACCESS,
        Permission.DATABASE_ACCESS,
    }
)


class ResourceLimits(BaseModel):
    """What one plugin may use. In this process only the execution time is enforced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_memory_mb: int = Field(default=512, gt=0)
    max_cpu_percent: int = Field(default=50, gt=0, le=100)
    max_execution_time_seconds: float = Field(default=30, gt=0)
    """Upper bound of the timeout of each handler and provider."""
    max_file_size_mb: int = Field(default=100, gt=0)
    max_network_requests: int = Field(default=100, ge=0)


class ResourceUsage(BaseModel):
    """What one plugin uses now, as far as it can be known; None where it cannot."""

    model_config = ConfigDict(frozen=True)

    memory_mb: float | None = None
    cpu_percent: float | None = None
    handlers_running: int = 0
    tasks: int = 0


class Grants(BaseModel):
    """Patterns that a plugin may use. Nothing else is allowed; deny wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    denies: tuple[str, ...] = ()
    """Taken away by the operator, whatever the four above say."""


class SecurityContext(BaseModel):
    """What one generation of a plugin may do; frozen when the generation is made."""

    model_config = ConfigDict(frozen=True)

    plugin_id: str
    requested: SecurityLevel
    effective: SecurityLevel
    consent: str = ""
    """Why `effective` may be less than `requested`, if it is: who allowed it."""
    permissions: frozenset[Permission] = frozenset()
    grants: Grants = Grants()
    limits: ResourceLimits = ResourceLimits()

    def validate_permission(self, permission: Permission) -> bool:
        """Whether `permission` was granted."""
        return permission in self.permissions
