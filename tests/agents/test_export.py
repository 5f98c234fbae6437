import json
from pathlib import Path

import pytest
import torch
import yaml
from finished_runs import finish_run, save_chat_model
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.card import origin_of
from agents.config import PolicyConfig
from agents.evaluate import wilson
from agents.export import export
from agents.metrics import read_metrics
from agents.policy.loading import TinyConfig, tiny_model
from agents.saved import load_policy, open_run
from rewards.preference.lora import LoraConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory):
    model = save_chat_model(tmp_path_factory.mktemp("models") / "bytes")
    policy = PolicyConfig(str(model), precision="float32")
    return finish_run(tmp_path_factory.mktemp("runs"), policy=policy, iterations=1)


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory):
    model = save_chat_model(tmp_path_factory.mktemp("models") / "bytes")
    policy = PolicyConfig(str(model), precision="float32", lora=LoraConfig(rank=2, alpha=3))
    reward = {"moody": {"fn": {"_target_": "small.moody", "_partial_": True}, "execution": "inline"}}
    return finish_run(tmp_path_factory.mktemp("runs"), policy=policy, reward=reward, iterations=2)


def quiet(text):
    pass


def logits_of_run(path, tokens, which="last"):
    saved = open_run(str(path), which)
    policy = load_policy(
        saved.config.policy, 7, weights=saved.weights, precision="float32", seed=saved.config.seed, merged=False
    )
    return policy.model.model(input_ids=tokens).logits if not policy.model.packed else packed_logits(policy, tokens)


def packed_logits(policy, tokens):
    from agents.policy.trial import causal_view

    position = torch.arange(tokens.shape[1])
    view = causal_view(1, tokens.shape[1], torch.device("cpu"))
    return policy.model.head(policy.model.states(tokens[0], position, view))[None]


def test_exported_logits_equal_those_of_the_run(run, tmp_path):
    folder = export(str(run), str(tmp_path / "model"), say=quiet)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([[1, 4, 2, 0, 3]])
    assert model.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=tokens).logits, logits_of_run(run, tokens), atol=1e-6, rtol=1e-5)


def test_an_iteration_can_be_chosen_and_differs_from_the_last(run, tmp_path):
    tokens = torch.tensor([[1, 4, 2]])
    first = export(str(run), str(tmp_path / "first"), which="1", say=quiet)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(first)(input_ids=tokens).logits
        torch.testing.assert_close(logits, logits_of_run(run, tokens, "1"), atol=1e-6, rtol=1e-5)
        assert (logits - logits_of_run(run, tokens, "last")).abs().max() > 1e-3


def test_the_best_checkpoint_can_be_exported(run, tmp_path):
    assert "iteration" in (export(str(run), str(tmp_path / "b"), which="best", say=quiet) / "README.md").read_text()


def test_a_model_with_its_own_tokenizer_brings_it_with_its_chat_template(chat_run, tmp_path):
    folder = export(str(chat_run), str(tmp_path / "model"), say=quiet)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "3="}], add_generation_prompt=True)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        own = model(input_ids=torch.tensor([ids])).logits
        torch.testing.assert_close(own, logits_of_run(chat_run, torch.tensor([ids])), atol=1e-6, rtol=1e-5)


def test_a_model_that_reads_characters_says_that_it_has_no_tokenizer(run, tmp_path):
    said = []
    folder = export(str(run), str(tmp_path / "model"), say=said.append)
    assert any("no Hugging Face tokenizer" in text for text in said)
    assert not (folder / "tokenizer.json").exists()
    assert "no tokenizer in this folder" in (folder / "README.md").read_text()


def test_bfloat16_halves_the_file(run, tmp_path):
    full = export(str(run), str(tmp_path / "full"), say=quiet)
    half = export(str(run), str(tmp_path / "half"), dtype="bfloat16", say=quiet)
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, full)]
    assert sizes[0] < 0.7 * sizes[1]


def test_the_configuration_does_not_name_our_attention(run, tmp_path):
    folder = export(str(run), str(tmp_path / "model"), say=quiet)
    assert "textenv" not in json.dumps(json.loads((folder / "config.json").read_text()))


def test_the_card_tells_what_a_reader_wants_to_know(run, tmp_path):
    text = (export(str(run), str(tmp_path / "model"), which="1", say=quiet) / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    record = read_metrics(run / "metrics.jsonl")[0]
    low, high = wilson(record["eval/accuracy"], 4)
    for expected in (
        "trained by textenv with GRPO on the task `echo`",
        "A small random model",
        f"held-out accuracy before training | {summary['accuracy']['before']:.3f} (95 % interval",
        f"{record['eval/accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}; 4 problems, greedy)",
        f"generated tokens | {int(record['num_tokens'])} in 8 completions",
        "| seed | 3 |",
        "1 iterations of 2 prompts x 4 completions",
        "`agent.optim.learning_rate=0.01`",
        f"torch {torch.__version__.partition('+')[0]}",
        "checkpoint=1 dtype=float32",
    ):
        assert expected in text
    assert "licence" not in text


def test_the_card_of_a_base_model_names_it_its_licence_and_its_adapter(lora_run, tmp_path):
    base = open_run(str(lora_run)).config.policy.model
    (Path(base) / "README.md").write_text("---\nlicense: mit\nbase_model: someone/bytes\n---\n# Bytes\n")
    text = (export(str(lora_run), str(tmp_path / "model"), say=quiet) / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["base_model"] == "someone/bytes"
    assert header["license"] == "mit"
    assert header["library_name"] == "transformers"
    assert "`someone/bytes` with an adapter of rank 2 (merged into these weights), trained by textenv with GRPO" in text
    assert "| reward | moody |" in text
    (Path(base) / "README.md").write_text("# No header")
    assert (
        "not known here: see the base model"
        in (export(str(lora_run), str(tmp_path / "two"), say=quiet) / "README.md").read_text()
    )


def test_a_base_model_that_we_bring_is_known():
    assert origin_of("smollm2") == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def test_a_folder_that_holds_something_is_never_overwritten(run, tmp_path):
    target = tmp_path / "taken"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"to=.*taken is there already and is never overwritten"):
        export(str(run), str(target), say=quiet)
    assert [file.name for file in target.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("agents.export.card", fail)
    with pytest.raises(OSError, match="disk full"):
        export(str(run), str(tmp_path / "model"), say=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no config\.yaml"):
        export(str(tmp_path), str(tmp_path / "model"), say=quiet)


def test_settings_that_are_not_those_of_a_run_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("agent: {name: grpo}\nunknown: 3\n")
    with pytest.raises(ValueError, match=r"config\.yaml does not hold the settings of a run"):
        export(str(tmp_path), str(tmp_path / "model"), say=quiet)


def test_a_run_without_an_intact_checkpoint_is_refused(run, tmp_path):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(ValueError, match="no checkpoint in"):
        export(str(tmp_path), str(tmp_path / "model"), say=quiet)
    broken = tmp_path / "checkpoints" / "iteration_000001"
    broken.mkdir(parents=True)
    (broken / "state.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="no intact checkpoint"):
        export(str(tmp_path), str(tmp_path / "model"), say=quiet)


def test_a_checkpoint_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="checkpoint of iteration 77"):
        export(str(run), str(tmp_path / "model"), which="77", say=quiet)
    with pytest.raises(ValueError, match="checkpoint must be last, best or an iteration, got 'newest'"):
        export(str(run), str(tmp_path / "model"), which="newest", say=quiet)


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path):
    import shutil

    other = shutil.copytree(run, tmp_path / "other")
    settings = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(settings.replace("hidden_size: 16", "hidden_size: 32"))
    with pytest.raises(ValueError, match=r"does not belong to policy\.model=tiny"):
        export(str(other), str(tmp_path / "model"), say=quiet)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft's own loading
def test_an_adapter_is_merged_and_may_be_written_beside_it(lora_run, tmp_path):
    folder = export(str(lora_run), str(tmp_path / "model"), adapter=True, say=quiet)
    tokens = torch.tensor([[65, 4, 200, 30, 3]])
    plain = AutoModelForCausalLM.from_pretrained(open_run(str(lora_run)).config.policy.model)
    with torch.no_grad():
        expected, untrained = logits_of_run(lora_run, tokens), plain(input_ids=tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(merged(input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-5)
        with_adapter = PeftModel.from_pretrained(plain, folder / "adapter")
        torch.testing.assert_close(with_adapter(input_ids=tokens).logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - untrained).abs().max() > 1e-3
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert {path.name for path in (folder / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    half = export(str(lora_run), str(tmp_path / "half"), dtype="bfloat16", say=quiet)
    assert AutoModelForCausalLM.from_pretrained(half).dtype == torch.bfloat16
    assert not (half / "adapter").exists()


@pytest.mark.parametrize("which", ["1", "last"])
def test_a_random_model_is_found_again_beneath_its_adapter(tmp_path, which):
    """Only the adapter is in the checkpoint; the weights beneath come from the settings and the seed, which is 3."""
    tiny = TinyConfig(hidden_size=16, num_layers=1, num_heads=2)
    lora = LoraConfig(rank=2, targets=["q_proj", "down_proj"])
    run = finish_run(tmp_path, policy=PolicyConfig("tiny", precision="float32", tiny=tiny, lora=lora))
    tokens = torch.tensor([[1, 4, 2, 0, 3]])
    folder = export(str(run), str(tmp_path / "model"), which=which, say=quiet)
    weights = open_run(str(run), which).weights
    assert len(weights) == 4
    merged = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(
            merged(input_ids=tokens).logits, logits_of_run(run, tokens, which), atol=1e-5, rtol=1e-5
        )
    beneath = tiny_model(7, tiny, seed=3, device=torch.device("cpu")).model
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, beneath.get_parameter(n))}
    assert changed == {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"}
    a, b = (weights[f"model.model.layers.0.self_attn.q_proj.lora_{x}.default.weight"] for x in "AB")
    expected = beneath.model.layers[0].self_attn.q_proj.weight + 2 * b @ a  # alpha / rank = 2
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"adapter=true needs a model that can be loaded again; policy\.model=tiny"):
        export(str(run), str(tmp_path / "other"), adapter=True, say=quiet)


def test_an_adapter_of_a_run_without_one_is_refused(chat_run, tmp_path):
    with pytest.raises(ValueError, match=r"adapter=true needs a run with policy\.lora\.rank above 0"):
        export(str(chat_run), str(tmp_path / "model"), adapter=True, say=quiet)
    assert not (tmp_path / "model").exists()
