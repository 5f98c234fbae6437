"""Train a reward model: `python -m rewards.preference.train data=pairs.jsonl model=tiny output=runs/reward_model`.

Only the command line; what it does is `training.train`. Torch is imported once the settings are known to be right.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rewards.preference.commands import typed_config
from rewards.preference.config import CONFIG_FOLDER, TrainConfig


@hydra.main(version_base="1.3", config_path=CONFIG_FOLDER, config_name="preference_train")
def main(settings: DictConfig) -> None:
    """The user's mistakes end in one line and exit status 1, and so does Ctrl-C."""
    try:
        if settings.resume:
            from rewards.preference.unfinished import resumed

            _train(resumed(settings.resume, HydraConfig.get().overrides.task))
        else:
            _train(typed_config(settings, TrainConfig))
    except (ValueError, ArithmeticError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(str(stop) or "stopped: nothing was saved")


def _train(config: TrainConfig) -> None:
    import torch
    from transformers.utils import logging

    from rewards.preference.training import train

    logging.disable_progress_bar()
    try:
        train(config)
    except torch.cuda.OutOfMemoryError:
        sys.exit("error: the GPU's memory is full: a smaller microbatch_size or max_length needs less")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
