"""The viewer: completions of a run with what every token was to sampler and update, as one HTML file without a server.

`reading` gives completions from a run's folder, `packing` makes compact data of them, `page` the file.
"""

from agents.view.packing import packed
from agents.view.page import page
from agents.view.reading import Reading, read_run
from agents.view.shown import Shown, TokenNumbers

__all__ = ["Reading", "Shown", "TokenNumbers", "packed", "page", "read_run"]
