"""The plugins that come with Plugbus, each a folder with a manifest. See README.md."""

__plugbus__ = "plugins"  # the door checks that this package is ours
