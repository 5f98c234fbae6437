"""Hold a reward model against judgements: `python -m rewards.preference.evaluate path=FOLDER data=pairs.jsonl`.

Prints a table, and as its last line the numbers as JSON; what they are says `evaluation.evaluate`.
"""

from __future__ import annotations

import json
import os
import sys

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from rewards.preference.card import read_card
from rewards.preference.commands import typed_config
from rewards.preference.config import CONFIG_FOLDER, EvaluateConfig
from rewards.preference.data import read_preferences


def measure(config: EvaluateConfig) -> dict[str, float | None]:
    """The figures. Raises `ValueError` for a folder, data or settings that do not fit, before weights are loaded."""
    card = read_card(config.path)
    preferences = read_preferences(config.data, ties="half")
    if card.prompts != "both":
        for preference in preferences:
            if (kind := "text" if isinstance(preference.prompt, str) else "messages") != card.prompts:
                raise ValueError(
                    f"{preference.source}: prompt must be {card.prompts}, which the model was trained on, got {kind}"
                )
    from rewards.preference.encoding import encode_preferences
    from rewards.preference.evaluation import all_scores, evaluate
    from rewards.preference.model import choose_device
    from rewards.preference.storage import load

    network, tokenizer = load(config.path, device=choose_device(config.device))
    encoded = encode_preferences(tokenizer, preferences, max_length=card.max_length, too_long=config.too_long)
    return evaluate(all_scores(network, encoded, batch_rows=config.batch_size), encoded)


@hydra.main(version_base="1.3", config_path=CONFIG_FOLDER, config_name="preference_evaluate")
def main(settings: DictConfig) -> None:
    """The user's mistakes end in one line and exit status 1."""
    try:
        config = typed_config(settings, EvaluateConfig)
        found = measure(config)
    except ValueError as error:
        sys.exit(f"error: {error}")
    from rewards.preference.evaluation import as_text

    table = Table(title=f"{config.path} on {config.data}", title_justify="left", show_header=False)
    for name, shown in as_text(found):
        table.add_row(name, shown)
    Console(stderr=True).print(table)
    print(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
