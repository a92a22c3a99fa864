"""The words that plugins, bus and kernel agree on. This is the flat list that authors import.

`plugbus` hands on the same list. What it leaves out is imported by module: `contracts.bus`,
`contracts.web`, `contracts.plugin`, `contracts.security`, `contracts.messages`, `contracts.errors`.
"""

__plugbus__ = "contracts"  # the door checks that this package is ours

from .base import BasePlugin, on, provides
from .envelope import Envelope
from .errors import (
    BusClosed,
    BusFull,
    CallError,
    CallRefused,
    CallTimeout,
    InvalidEvent,
    InvalidOption,
    InvalidPattern,
    NoProvider,
    PayloadTooLarge,
    PermissionDeniedError,
    PlugbusError,
    PluginNotReady,
    ProviderFailed,
    ProviderLost,
    PublishUnknown,
    StormDetected,
)
from .event import Event, EventResult, Receipt, upcast
from .health import HealthCheck, PerformanceMetrics
from .message import PluginEvent
from .metadata import PluginDependency, PluginMetadata
from .plugin import (
    ConfigurationResult,
    IConfigurablePlugin,
    IEventPlugin,
    IPlugin,
    IPluginHealth,
    IWebConfigurablePlugin,
    IWebPlugin,
    PluginContext,
    PluginHandle,
    PluginStatus,
)
from .query import Query
from .security import Permission, ResourceLimits, SecurityLevel
from .subscription import CircuitBreaker, RateLimit, RetryPolicy, RetryRule, SubscriptionOptions
from .web import ASGIApp, StaticMount

__all__ = [
    "ASGIApp",
    "BasePlugin",
    "BusClosed",
    "BusFull",
    "CallError",
    "CallRefused",
    "CallTimeout",
    "CircuitBreaker",
    "ConfigurationResult",
    "Envelope",
    "Event",
    "EventResult",
    "HealthCheck",
    "IConfigurablePlugin",
    "IEventPlugin",
    "IPlugin",
    "IPluginHealth",
    "IWebConfigurablePlugin",
    "IWebPlugin",
    "InvalidEvent",
    "InvalidOption",
    "InvalidPattern",
    "NoProvider",
    "PayloadTooLarge",
    "PerformanceMetrics",
    "Permission",
    "PermissionDeniedError",
    "PlugbusError",
    "PluginContext",
    "PluginDependency",
    "PluginEvent",
    "PluginHandle",
    "PluginMetadata",
    "PluginNotReady",
    "PluginStatus",
    "ProviderFailed",
    "ProviderLost",
    "PublishUnknown",
    "Query",
    "RateLimit",
    "Receipt",
    "ResourceLimits",
    "RetryPolicy",
    "RetryRule",
    "SecurityLevel",
    "StaticMount",
    "StormDetected",
    "SubscriptionOptions",
    "on",
    "provides",
    "upcast",
]
