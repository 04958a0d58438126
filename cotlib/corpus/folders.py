"""Folders that a reader names: files are written there, but never over content that is not ours."""

import json
from pathlib import Path

from cotlib.errors import BadInput
from cotlib.runs import artifacts

# Legal inside JSON text, but `str.splitlines` takes them for the end of a line.
_LINE_ENDS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}


def jsonl(rows):
    """The text of a JSONL file: one JSON object a line, also for readers that split lines at U+2028."""
    return "".join(json.dumps(row, ensure_ascii=False).translate(_LINE_ENDS) + "\n" for row in rows)


def write(folder, files):
    """Write name → text into a folder. A file with other content is the reader's: nothing is written then."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder with --to")
    for name, text in files.items():
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode():
            raise BadInput(f"{folder} holds another {name} already; give a new folder with --to, or remove it")
    for name, text in files.items():
        with artifacts.atomic_file(folder / name) as temporary:
            temporary.write_bytes(text.encode())
    return folder
