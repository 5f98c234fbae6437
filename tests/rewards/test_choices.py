"""The files in conf/reward compose, merge and build."""

from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from rewards import Sample, Scorer, as_parts

CONF = str(Path(__file__).parents[2] / "conf")


def chosen(*overrides):
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        config = hydra.compose(overrides=list(overrides))
    return as_parts(hydra.utils.instantiate(config.reward, _convert_="all"))


@pytest.mark.parametrize("name", ["math", "format", "last_integer", "partial_credit", "code"])
def test_each_choice_builds_one_part_of_its_name(name):
    assert list(chosen(f"+reward={name}")) == [name]


def test_several_choices_merge_and_take_overrides():
    parts = chosen("+reward=[math,format]", "reward.format.weight=0.2", "reward.math.fn.timeout_seconds=1")
    assert {name: part.weight for name, part in parts.items()} == {"math": 1.0, "format": 0.2}
    completion = r"<think>6 * 7</think><answer>\boxed{42}</answer>"
    verdict = Scorer(parts).score([Sample("", completion, row={"answer": 42})])[0]
    assert verdict.value == pytest.approx(1.2)


def test_a_users_function_is_plugged_in_from_the_command_line():
    parts = chosen(
        "+reward=function", "reward.function.fn._target_=user_rewards.brevity", "+reward.function.fn.limit=4"
    )
    with Scorer(parts) as scorer:
        assert scorer.score([Sample("", "ab")])[0].value == 0.5


def test_a_pattern_is_plugged_in_from_the_command_line():
    parts = chosen("+reward=regex", 'reward.regex.fn.pattern="^Answer: \\d+$"')
    assert parts["regex"].fn(completion="Answer: 42").value == 1.0


@pytest.mark.parametrize("name", ["regex", "function", "preference"])
def test_what_only_the_user_can_say_is_mandatory(name):
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        config = hydra.compose(overrides=[f"+reward={name}"])
    with pytest.raises(MissingMandatoryValue):
        OmegaConf.to_container(config.reward, resolve=True, throw_on_missing=True)
