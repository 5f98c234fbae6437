"""What a full disk says, said: before something is written, and where torch hides it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import torch

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, a limit on a file's size."""


def check_room(folder: Path, needed: int) -> None:
    """Raise `OSError` unless `needed` bytes are free where `folder` lies."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"a checkpoint in {folder} needs {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free on that disk",
        )


def save_told(state: dict[str, Any], file: BinaryIO) -> None:
    """`torch.save`; where the disk refuses, its `OSError` instead of torch's complaint about a position."""
    told = Told(file)
    try:
        torch.save(state, told)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise told.refusal or error from error


class Told:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.refusal: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        """As the file's own."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        """As the file's own."""
        self._file.flush()
