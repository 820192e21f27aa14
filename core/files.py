"""Files that are whole or not there."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file and make its folder; a reader, and a full disk, find the old text or the new one.

    Raises OSError; what was written by then is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
