"""Removal of a folder that a program filled, however it did so."""

from __future__ import annotations

import contextlib
import os
import secrets


def remove_tree(path: str, *, most: int | None = None) -> bool:
    """Remove a folder and what is in it, as far as this user may; links are not followed. Looks into at most `most`
    folders, and not into one of more than `most` files; False: there is more to do.

    Subfolders are moved up before they are emptied: neither the depth of a tree nor the length of a path counts.
    """
    waiting, looked = [path], 0
    while waiting:
        folder = waiting[-1]
        entries, looked = _entries(folder), looked + 1
        if most is not None and (looked > most or len(entries) > most):
            return False
        inner = _empty(entries)
        try:
            if not inner:
                os.rmdir(waiting.pop())
            for found in inner:
                above = os.path.join(path, secrets.token_hex(16))  # a name that nobody can have taken before
                os.rename(found, above)
                waiting.append(above)
        except OSError:
            break  # not ours to remove
    return True


def _empty(entries: list[os.DirEntry[str]]) -> list[str]:
    """Unlink what is no folder; the folders."""
    inner = []
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            inner.append(entry.path)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    return inner


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except OSError:
        pass
    try:
        os.chmod(folder, 0o700)  # an ordinary user's program can lock its own folder
        return list(os.scandir(folder))
    except OSError:
        return []
