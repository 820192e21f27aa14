"""A file is written whole or not at all."""

from pathlib import Path

import pytest

from core.files import write_whole


def test_a_text_takes_the_place_of_the_one_before(tmp_path: Path):
    for text in ("first\n", "second\n"):
        write_whole(tmp_path / "new" / "run.json", text)
    assert [(path.name, path.read_text()) for path in (tmp_path / "new").iterdir()] == [("run.json", "second\n")]


def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "run.json"
    write_whole(path, "first\n")
    (tmp_path / "run.json.partial").symlink_to("/dev/full")  # a disk without room
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "second\n" * 10_000)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("run.json", "first\n")]
