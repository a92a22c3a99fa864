"""The documents are true: their code runs, and what they list is what there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contracts.messages import commands
from contracts.metadata import PluginMetadata
from contracts.query import Query

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    "README.md", "plugins/README.md", "bus/README.md", "kernel/README.md", "contracts/README.md",
    "contracts/EXAMPLES.md",
]  # fmt: skip


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if blocks(name, "python")])
def test_the_code_of_a_document_runs(document: str, tmp_path: Path) -> None:
    """All Python of a document, in order, as one test module; its tests pass."""
    (tmp_path / "test_document.py").write_text("\n\n".join(blocks(document, "python")), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - our own interpreter on our own document
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "kernel.testing",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_name_that_authors_import_has_an_example() -> None:
    """In code that runs: each name of the flat list is used in that of some document."""
    import contracts

    code = "\n".join(block for document in DOCUMENTS for block in blocks(document, "python"))
    used = {name.id for name in ast.walk(ast.parse(code)) if isinstance(name, ast.Name)}
    assert sorted(set(contracts.__all__) - used) == []


def test_the_manifest_of_the_guide_is_valid() -> None:
    """The TOML of the authors' guide is a manifest that would be accepted."""
    [manifest] = blocks("plugins/README.md", "toml")
    assert PluginMetadata.model_validate(tomllib.loads(manifest)).plugin_id == "billing"


def test_the_readme_begins_with_the_two_commands() -> None:
    """One line each: run it, test it."""
    first, second = blocks("README.md", "sh")[:2]
    assert first.strip().endswith("plugbus demo")
    assert second.strip().endswith("pytest")
    assert "\n" not in first.strip() + second.strip()


def test_every_message_and_command_is_in_the_catalogue() -> None:
    """What kernel and bus publish, and what they answer, is listed for those who look for it."""
    from contracts import messages

    text = (ROOT / "contracts/README.md").read_text(encoding="utf-8")
    for name in messages.__all__:
        value = getattr(messages, name)
        if kind := getattr(value, "__event_type__", ""):
            assert f"`{kind}`" in text, kind
    for value in vars(commands).values():
        if isinstance(value, type) and issubclass(value, Query) and value.__capability__:
            group, _, last = value.__capability__.rpartition(".")
            assert f"`{value.__capability__}`" in text or (f"`{group}." in text and f"`.{last}`" in text), (
                value
            )


def test_every_error_says_when_it_is_raised() -> None:
    """Each error class has a sentence of its own and a code of its own."""
    from contracts import errors

    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.PlugbusError)
    ]
    codes = [cls.code for cls in classes]
    assert len(codes) == len(set(codes))
    assert all(cls.__doc__ for cls in classes)


def test_the_table_of_settings_is_that_of_the_model() -> None:
    """Every setting with its variable, default and meaning, as the code has them."""
    from kernel.settings import settings_table

    text = (ROOT / "kernel/README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert shown.strip() == settings_table()


@pytest.mark.parametrize(
    "package",
    ["contracts", "bus", "bus/memory", "bus/redis_streams", "bus/policy", "bus/conformance", "kernel"],
)
def test_every_file_of_a_room_is_in_its_guide(package: str) -> None:
    """Whoever comes to a folder finds what each file is; a new file is explained or not added."""
    guide = next(
        folder / "README.md"
        for folder in (ROOT / package, (ROOT / package).parent)
        if (folder / "README.md").exists()
    )
    text = guide.read_text(encoding="utf-8")
    files = [file.name for file in (ROOT / package).glob("*.py") if file.name != "__init__.py"]
    assert [name for name in sorted(files) if f"`{name}`" not in text] == []
