"""Rewards by import path, and by the name under which an installed package offers them."""

import sys

import pytest
from fake_package import MODULE, install

from rewards import Sample, Scorer, as_parts
from rewards.targets import entry_point, entry_point_names, resolve


@pytest.fixture
def installed(tmp_path, monkeypatch):
    install(tmp_path, "fake_rewards_package")
    (tmp_path / "fake_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("fake_rewards", None)


def test_an_installed_package_offers_rewards_by_short_names(installed):
    assert {"brief", "letters"} <= set(entry_point_names())
    assert "stranger" not in entry_point_names()
    assert resolve("brief")(completion="12345") == 0.5
    assert entry_point("brief", limit=5)(completion="1") == 0.8
    assert entry_point("letters", letter="b")(completion="abba") == 2


def test_such_a_reward_is_scored_in_a_worker_like_any_other(installed):
    parts = as_parts({"short": {"fn": {"_target_": "brief", "limit": 4}, "weight": 2.0}, "a": "letters"})
    with Scorer(parts) as scorer:
        assert scorer.score([Sample("", "aa")])[0].value == 2 * 0.5 + 2


def test_a_name_that_nobody_offers_is_told_with_those_that_are(installed):
    with pytest.raises(
        ValueError, match=r"entry point of the group textenv\.rewards \[.*'brief'.*\], 'brif' is not there"
    ):
        as_parts("brif")


def test_a_name_that_two_packages_offer_is_refused(installed):
    install(installed, "another_package", "[textenv.rewards]\nbrief = user_rewards:brevity\n")
    with pytest.raises(ValueError, match=r"'brief' is offered 2 times: .*fake_rewards:brief.*user_rewards:brevity"):
        as_parts("brief")


@pytest.mark.parametrize(("name", "message"), [("lost", "has no attribute 'nothing'"), ("gone", "no_such_module")])
def test_an_entry_point_that_cannot_be_loaded_is_told(installed, name, message):
    with pytest.raises(ValueError, match=rf"reward '{name}' \(.*\) cannot be imported: .*{message}"):
        as_parts(name)


def test_settings_that_a_class_does_not_take_are_told(installed):
    with pytest.raises(ValueError, match=r"reward 'letters' cannot be built from \['colour'\]"):
        as_parts({"_target_": "letters", "colour": "red"})
