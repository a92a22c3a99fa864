"""Lifecycle and registry, and the order in which things happen. See README.md."""

__plugbus__ = "kernel"  # the door checks that this package is ours
