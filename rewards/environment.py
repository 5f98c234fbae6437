"""What of the trainer's environment variables a worker process is shown: everything but what looks like a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|AUTH|_KEY$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a variable of this name is kept from workers.

    >>> [is_secret(name) for name in ("HF_TOKEN", "OPENAI_API_KEY", "PATH", "TOKENIZERS_PARALLELISM")]
    [True, True, False, False]
    """
    return bool(_SECRET.search(name)) and name != "TOKENIZERS_PARALLELISM"


def worker_environment(keep: Collection[str] = ()) -> dict[str, str]:
    """The variables of a worker process; `keep` names secrets that a reward needs all the same.

    One thread for OpenMP where nothing else is said: several workers beside a trainer have no use for more.
    """
    shown = {name: value for name, value in os.environ.items() if name in keep or not is_secret(name)}
    return {"OMP_NUM_THREADS": "1"} | shown
