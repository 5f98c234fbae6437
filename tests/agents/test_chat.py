import os
import subprocess
import sys
from pathlib import Path

import pytest
from finished_runs import finish_run, save_chat_model

from agents.chat import Chat, ChatConfig, build_chat, converse
from agents.config import PolicyConfig
from agents.policy.loading import TinyConfig
from rewards.preference.lora import LoraConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    return str(save_chat_model(tmp_path_factory.mktemp("models") / "bytes"))


def quiet(text):
    pass


def open_chat(say=quiet, **settings):
    return build_chat(ChatConfig(**{"seed": 0, "max_new_tokens": 6} | settings), say)


def answers(chat: Chat, *lines: str) -> list[str]:
    written: list[str] = []
    converse(chat, lines, written.append)
    return "".join(written).splitlines()


def test_each_line_of_a_model_without_a_template_stands_alone(run):
    chat = open_chat(run=str(run), greedy=True)
    first, _, second = answers(chat, "1=", "2=", "1=")
    assert first == second
    assert not chat.remembers


def test_a_run_with_an_adapter_is_talked_to(tmp_path):
    tiny = TinyConfig(hidden_size=16, num_layers=1, num_heads=2)
    policy = PolicyConfig("tiny", precision="float32", tiny=tiny, lora=LoraConfig(rank=2))
    run = finish_run(tmp_path, policy=policy, iterations=1)
    assert len(answers(open_chat(run=str(run), greedy=True), "1=")) == 1


def test_the_pieces_are_the_answer_that_the_environment_decodes(chat_model):
    chat = open_chat(policy=PolicyConfig(chat_model, precision="float32"), max_new_tokens=12)
    pieces = list(chat.reply("hello"))
    assert "".join(pieces) == chat.env.decode([0])[0]
    assert len(pieces) > 1


def test_the_conversation_is_remembered_as_messages_until_reset(chat_model):
    chat = open_chat(policy=PolicyConfig(chat_model, precision="float32"))
    answers(chat, "one", "two")
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.env.scored([0])[0].sample.messages[0] == {"role": "user", "content": "one"}
    assert answers(chat, "/reset") == ["(forgotten)"]
    assert chat.messages == []


def test_a_conversation_that_outgrows_the_model_loses_its_oldest_turns(chat_model):
    said = []
    policy = PolicyConfig(chat_model, precision="float32")
    chat = open_chat(said.append, policy=policy, max_new_tokens=8)
    answers(chat, *["a question of some length"] * 5)
    assert any("oldest turn is forgotten" in text for text in said)
    assert chat.messages[-2]["content"] == "a question of some length"


def test_a_line_that_cannot_be_shown_is_answered_by_the_reason(run):
    chat = open_chat(run=str(run))
    assert "got 'x'" in answers(chat, "x")[0]


def test_answers_repeat_with_the_seed_and_differ_within_a_conversation(chat_model):
    policy = PolicyConfig(chat_model, precision="float32")
    first = answers(open_chat(policy=policy), "hello", "/reset", "hello")
    again = answers(open_chat(policy=policy), "hello", "/reset", "hello")
    assert first == again
    assert first[0] != first[-1]


def test_an_answer_that_is_broken_off_is_not_remembered(chat_model):
    chat = open_chat(policy=PolicyConfig(chat_model, precision="float32"))
    written = []

    def write(text):
        written.append(text)
        if len(written) == 1:
            raise KeyboardInterrupt

    converse(chat, ["hello"], write, interactive=True)
    assert written[1:] == [" (stopped)", "\n"]
    assert chat.messages == []


def test_quit_ends_and_other_commands_tell_what_there_is(run):
    chat = open_chat(run=str(run), greedy=True)
    lines = answers(chat, "/what", "/quit", "1=")
    assert len(lines) == 1
    assert "/reset" in lines[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of run and policy must be given"),
        ({"run": "a", "policy": PolicyConfig("tiny")}, "one of run and policy must be given"),
        ({"run": "a", "temperature": -1.0}, "temperature must be at least 0"),
        ({"run": "a", "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"run": "nowhere"}, "nowhere is not the folder of a run"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_chat(ChatConfig(**settings), quiet)


def test_an_answer_must_fit_into_the_models_positions(chat_model):
    with pytest.raises(ValueError, match="max_new_tokens must be below the 128 positions of the model, got 200"):
        open_chat(policy=PolicyConfig(chat_model, precision="float32"), max_new_tokens=200)


def test_a_pipe_is_answered_line_by_line_on_standard_output(run):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-m", "agents.chat", f"run={run}", "greedy=true", "max_new_tokens=2"],
        input="1=\n1=\n/quit\n2=\n",
        env={**os.environ, "PYTHONPATH": here},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second
    assert "Traceback" not in done.stderr


def test_a_mistake_on_the_command_line_ends_in_one_line():
    command = [sys.executable, "-m", "agents.chat", "run=nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: nowhere is not the folder of a run: it has no config.yaml"
