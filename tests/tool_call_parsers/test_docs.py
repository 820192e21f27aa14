"""The page on formats says what the registry says."""

from pathlib import Path

from services.commands.parse import format_table

PAGE = Path(__file__).parents[2] / "docs/tool-call-formats.md"


def test_the_table_of_formats_is_that_of_the_registry():
    assert format_table() in PAGE.read_text(encoding="utf-8")
