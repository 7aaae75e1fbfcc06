"""Ways in which a file can come to harm, for tests of whoever reads it."""

import os
import shutil


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_a_line(path):
    lines = path.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    path.write_bytes(b"".join(lines[:middle] + lines[middle + 1 :]))


def flipped(path):
    data = bytearray(path.read_bytes() or b"\0")
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def deleted(path):
    path.unlink()


def emptied(path):
    path.write_bytes(b"")


def folder_instead(path):
    path.unlink()
    path.mkdir()


def link_to_nowhere(path):
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def pipe_instead(path):
    path.unlink()
    os.mkfifo(path)


def list_instead(path):
    path.write_text("[]")


def object_instead(path):
    path.write_text('{"a": [1, null, "x"]}')


def number_instead(path):
    path.write_text("3")


def not_utf_8(path):
    path.write_bytes(b"\xff\xfe" + path.read_bytes())


def nested(path):
    path.write_text("[" * 100_000)


BINARY = [
    *(truncated, flipped, deleted, emptied, folder_instead, link_to_nowhere),
    *([pipe_instead] if hasattr(os, "mkfifo") else []),
]
TEXT = [
    *(cut_by_a_line, list_instead, object_instead, number_instead, not_utf_8, nested),
]


def copies(source, target):
    """Every file of a folder with every damage: a copy of the folder that has it.

    What befalls text is left out for files that are none.

    Yields:
      The file's name, the damage's, and the copy, which is gone afterwards.
    """
    names = sorted(x.relative_to(source) for x in source.rglob("*") if x.is_file())
    for name in names:
        for damage in BINARY + (TEXT if _is_text(source / name) else []):
            shutil.copytree(source, target)
            damage(target / name)
            if not same(source / name, target / name):
                yield name.as_posix(), damage.__name__, target
            shutil.rmtree(target)


def same(one, other):
    """Whether a damage left a file as it was, such as an empty one."""
    plain = other.is_file() and not other.is_symlink()
    return plain and one.read_bytes() == other.read_bytes()


def _is_text(path):
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True
