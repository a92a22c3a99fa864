"""Which version of Plugbus this is."""


def plugbus_version() -> str:
    """As it is installed; `0.0.0` where it runs from a folder that never was."""
    from importlib.metadata import PackageNotFoundError, version  # not for `--help`

    try:
        return version("plugbus")
    except PackageNotFoundError:
        return "0.0.0"
