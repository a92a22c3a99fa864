"""GitHub's webhooks as events; see `webhooks.py`."""

from .webhooks import EVENTS, GitHubEvent, Webhooks

__all__ = ["EVENTS", "GitHubEvent", "Webhooks"]
