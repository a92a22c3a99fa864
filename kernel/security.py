"""Who may do what: manifest ∩ level ∩ the operator's policy → `SecurityContext`, frozen per generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from contracts.errors import PermissionDeniedError, PluginLoadError
from contracts.messages import AuditRecorded, Severity
from contracts.metadata import PluginMetadata
from contracts.patterns import RESERVED_TOPICS, covered, overlaps, topic_of
from contracts.security import (
    DANGEROUS_PERMISSIONS,
    SAFE_PERMISSIONS,
    Grants,
    Permission,
    ResourceLimits,
    ResourceUsage,
    SecurityContext,
    SecurityLevel,
)

from .hosts import Declaration
from .settings import PluginSettings

Audit = Callable[[AuditRecorded], None]

LEVEL_PERMISSIONS = {
    SecurityLevel.UNRESTRICTED: frozenset(Permission),
    SecurityLevel.TRUSTED: frozenset(Permission) - DANGEROUS_PERMISSIONS,
    SecurityLevel.SANDBOXED: SAFE_PERMISSIONS,
    SecurityLevel.ISOLATED: frozenset[Permission](),
}
"""The most that a level allows."""

ENFORCED_IN_PROCESS = ("max_execution_time_seconds",)
"""Resource limits that are enforced for plugins in this process; the others are reported."""


class SecurityManager:
    """Decides the effective level, and makes the security context of a generation."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def effective_level(
        self, metadata: PluginMetadata, policy: PluginSettings, consent: str
    ) -> tuple[SecurityLevel, str]:
        """The level at which the plugin will run, and by whose consent where that is less than asked for.

        Raises `PluginLoadError` where this installation has no host for the level.
        """
        requested = metadata.security_level
        if requested.in_process:
            return requested, ""
        if policy.allow_level is not None and policy.allow_level.in_process:
            return policy.allow_level, f"settings: plugins.{metadata.plugin_id}.allow_level"
        if consent:
            return SecurityLevel.TRUSTED, consent
        raise PluginLoadError(
            f"plugin {metadata.plugin_id!r} asks for level {requested.value!r}, "
            "and this installation has no worker host to run it in",
            where=metadata.file_path,
            fix=f'if you trust its code: [plugins.{metadata.plugin_id}] allow_level = "trusted"',
        )

    def create_security_context(
        self,
        metadata: PluginMetadata,
        declared: Declaration,
        policy: PluginSettings,
        *,
        consent: str = "",
    ) -> SecurityContext:
        """Freeze what one generation may do; additions by the policy are audited."""
        level, why = self.effective_level(metadata, policy, consent)
        asked = frozenset(metadata.required_permissions)
        granted = asked & LEVEL_PERMISSIONS[level]
        for permission in sorted(set(policy.add_permissions) - granted):
            self._audit(_added(metadata.plugin_id, permission))
        permissions = (granted | set(policy.add_permissions)) - set(policy.remove_permissions)
        return SecurityContext(
            plugin_id=metadata.plugin_id,
            requested=metadata.security_level,
            effective=level,
            consent=why,
            permissions=frozenset(permissions),
            grants=self._grants(metadata, declared, policy, level),
            limits=metadata.resource_limits,
        )

    def _grants(
        self, metadata: PluginMetadata, declared: Declaration, policy: PluginSettings, level: SecurityLevel
    ) -> Grants:
        from_code = level.in_process

        def one(said: tuple[str, ...] | None, code: Iterable[str]) -> tuple[str, ...]:
            if said is not None:
                return said
            return tuple(sorted(set(code))) if from_code else ()

        return Grants(
            publishes=one(metadata.publishes, declared.publishes),
            subscribes=one(metadata.subscribed_patterns, declared.patterns),
            provides=one(metadata.provided, declared.capabilities),
            requests=one(metadata.requests, declared.requests),
            denies=policy.deny,
        )


def _added(plugin_id: str, permission: Permission) -> AuditRecorded:
    return AuditRecorded(
        plugin_id=plugin_id, action="permission.added", subject=permission.value, severity=Severity.WARNING
    )


class PermissionManager:
    """Answers, for one generation, whether something is allowed; a refusal is audited and raised."""

    def __init__(self, context: SecurityContext, audit: Audit) -> None:
        self.context = context
        self._audit = audit

    def report(self, record: AuditRecorded) -> None:
        """Hand on what was decided where the plugin runs."""
        self._audit(record)

    def check_permission(self, permission: Permission, *, why: str) -> None:
        """Raise `PermissionDeniedError` unless `permission` was granted; `why` is what it is needed for."""
        if not self.context.validate_permission(permission):
            fix = f'required_permissions = ["{permission.value}"] in its manifest, and a level that allows it'
            self._refuse("use", why, fix)

    def check_publish(self, type_name: str) -> None:
        if topic_of(type_name) in RESERVED_TOPICS:
            self._refuse("publish", type_name, "a type whose first word is not kernel, plugin, audit or bus")
        self._check("publish", "publishes", self.context.grants.publishes, type_name)

    def check_subscribe(self, pattern: str) -> None:
        self._check("subscribe", "subscribes", self.context.grants.subscribes, pattern)

    def check_provide(self, capability: str) -> None:
        if topic_of(capability) == "kernel":
            self._refuse("provide", capability, "a capability that does not begin with 'kernel.'")
        self._check("provide", "provides", self.context.grants.provides, capability)

    def check_request(self, capability: str) -> None:
        self._check("request", "requests", self.context.grants.requests, capability)

    def _check(self, action: str, key: str, grants: tuple[str, ...], pattern: str) -> None:
        if any(overlaps(deny, pattern) for deny in self.context.grants.denies):
            self._refuse(action, pattern, f"remove it from [plugins.{self.context.plugin_id}] deny")
        if not covered(grants, pattern):
            self._refuse(action, pattern, f'{key} = ["{pattern}"] in its manifest')

    def _refuse(self, action: str, subject: str, fix: str) -> None:
        plugin_id = self.context.plugin_id
        self._audit(
            AuditRecorded(
                plugin_id=plugin_id,
                action=f"{action.replace(' ', '.')}.denied",
                subject=subject,
                severity=Severity.WARNING,
            )
        )
        raise PermissionDeniedError(
            f"plugin {plugin_id!r} may not {action} {subject!r}", plugin_id=plugin_id, action=action, fix=fix
        )


class ResourceManager:
    """What a plugin uses, against what it may use."""

    def __init__(self, limits: ResourceLimits) -> None:
        self.limits = limits

    def handler_timeout(self, asked: float) -> float:
        """Seconds: a handler never runs longer than the plugin's limit."""
        return min(asked, self.limits.max_execution_time_seconds)

    def check_resource_limits(self, usage: ResourceUsage) -> tuple[str, ...]:
        """The names of the limits that `usage` is over."""
        over = []
        if usage.memory_mb is not None and usage.memory_mb > self.limits.max_memory_mb:
            over.append("max_memory_mb")
        if usage.cpu_percent is not None and usage.cpu_percent > self.limits.max_cpu_percent:
            over.append("max_cpu_percent")
        return tuple(over)
