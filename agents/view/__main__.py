"""python -m agents.view run=runs/NAME: the completions of a run as one HTML file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.checkpoint import write_atomically
from agents.require import require, require_run
from agents.saved import CONF
from agents.view.packing import packed
from agents.view.page import page
from agents.view.reading import read_run


@dataclass
class ViewConfig:
    """Settings of `python -m agents.view`."""

    run: str | None = None
    """Folder of a run, finished or not."""
    output: str | None = None
    """The file to write, over an earlier one; null: `completions.html` in the run's folder."""
    limit: int = 4000
    """Completions, about; of a longer run iterations evenly spaced are shown, whole."""
    iterations: list[int] | None = None
    """null: all."""
    checkpoint: str | None = None
    """`last`, `best` or an iteration: also what its policy makes of every token, as a ratio to the one that
    acted."""

    def __post_init__(self) -> None:
        require_run(self.run)
        require(self.limit >= 1, f"limit must be at least 1, got {self.limit}")
        require(
            self.output is None or self.output.endswith((".html", ".htm")),
            f"output must be the name of an HTML file, got {self.output!r}",
        )


ConfigStore.instance().store(name="view_schema", node=ViewConfig)


def view(config: ViewConfig) -> tuple[Path, str]:
    """Write the file; returns it and what to tell."""
    run = Path(str(config.run))
    reading = read_run(str(run), limit=config.limit, iterations=config.iterations, checkpoint=config.checkpoint)
    data = packed(reading.completions, title=run.resolve().name, subtitle=reading.subtitle, notice=reading.notice)
    path = run / "completions.html" if config.output is None else Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page(data))
    size = path.stat().st_size / 1e6
    told = f"Wrote {path}: {len(reading.completions)} completions, {size:.1f} MB. Open it in a browser."
    return path, "\n".join(filter(None, (reading.notice, told)))


@hydra.main(version_base="1.3", config_path=CONF, config_name="view")
def main(composed: DictConfig) -> None:
    """Compose, read, write."""
    try:
        config = OmegaConf.to_object(composed)
        assert isinstance(config, ViewConfig)
        print(view(config)[1])
    except (ValueError, OSError, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
