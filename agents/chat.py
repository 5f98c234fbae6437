"""Talk to a policy in the terminal: the plain Gymnasium loop on an environment of one row, printed as it goes.

    python -m agents.chat run=runs/<name>
    python -m agents.chat policy=smollm2 temperature=0.7

Where the tokenizer has a chat template the conversation is remembered; without one every line stands alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import hydra
import numpy as np
from gymnasium.vector import AutoresetMode
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.config import EnvConfig, PolicyConfig
from agents.policy import Policy, Sampling
from agents.require import require
from agents.saved import CONF, is_own_tokenizer, load_policy, open_run, tokenizer_for
from textenv import TextVectorEnv, load_task

COMMANDS = "/reset forgets the conversation, /quit (or Ctrl-D) leaves, Ctrl-C stops an answer"


@dataclass
class ChatConfig:
    """Settings of `python -m agents.chat`."""

    run: str | None = None
    """Folder of a run."""
    checkpoint: str = "last"
    """`last`, `best` on held-out problems, or an iteration."""
    policy: PolicyConfig | None = None
    """Instead of a run: an untrained model."""
    device: str = "auto"
    greedy: bool = False
    """Always the most probable token."""
    temperature: float | None = None
    """null: as in training."""
    max_new_tokens: int = 256
    """An answer's budget."""
    max_context_tokens: int = 2048
    """Conversation and answer; the oldest turns are forgotten first."""
    system_prompt: str | None = None
    """null: as in training."""
    seed: int | None = None
    """null: other answers every time."""

    def __post_init__(self) -> None:
        require(
            (self.run is None) != (self.policy is None),
            "one of run and policy must be given: run=runs/NAME, or policy=smollm2 for the untrained model",
        )
        require(self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        require(
            self.max_context_tokens > self.max_new_tokens,
            f"max_context_tokens must be above max_new_tokens={self.max_new_tokens}, got {self.max_context_tokens}",
        )
        require(
            self.temperature is None or self.temperature >= 0,
            f"temperature must be at least 0 (0 is greedy), got {self.temperature}",
        )
        require(self.seed is None or self.seed >= 0, f"seed must be at least 0 or null, got {self.seed}")


ConfigStore.instance().store(name="chat_schema", node=ChatConfig)


class Unscored:
    """Pays nothing: nobody is examined here."""

    execution = "inline"

    def __call__(self, completion: str) -> float:
        return 0.0


class Chat:
    """A conversation with one policy in one row."""

    def __init__(self, env: TextVectorEnv, policy: Policy, sampling: Sampling, say: Callable[[str], None]) -> None:
        self.env, self.policy, self.sampling = env, policy, sampling
        self.messages: list[dict[str, str]] = []
        self._say = say
        self._episode = 0
        has_template = env.tokenizer.render_chat([{"role": "user", "content": "a"}]) is not None
        self.remembers = has_template and env.settings.chat is not False

    def forget(self) -> None:
        """Start over."""
        self.messages = []

    def reply(self, text: str) -> Iterator[str]:
        """The answer to `text`, in pieces as they come; an answer that is broken off is not remembered.

        Raises `ValueError` for a text that cannot be shown to the policy.
        """
        observation = self._start(text)
        self._episode += 1
        shown, over = "", False
        while not over:
            action = self.policy.act(observation, episode=np.array([self._episode]), sampling=self.sampling)
            observation, _, terminated, truncated, _ = self.env.step(action.token[:, 0])
            over = bool(terminated[0] or truncated[0])
            written = self.env.decode([0])[0]
            ready = written if over else settled(written, self.env.stop_spec.stop_strings)
            if len(ready) > len(shown):
                yield ready[len(shown) :]
                shown = ready
        if self.remembers:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": written}]

    def _start(self, text: str) -> Any:
        """The observation of a new episode; the oldest turns go where the conversation is too long."""
        while True:
            prompt = [*self.messages, {"role": "user", "content": text}] if self.remembers else text
            try:
                return self.env.reset(options={"prompt": prompt})[0]
            except ValueError:
                if not self.messages:
                    raise
                self._say("(the conversation is too long: its oldest turn is forgotten)")
                self.messages = self.messages[2:]


def settled(text: str, stop_strings: Sequence[str]) -> str:
    """What of `text` later tokens cannot change: neither half a character nor the beginning of a stop string.

    >>> settled("so <", ["</answer>"]), settled("so</b", ["</answer>"]), settled("caf\\ufffd", [])
    ('so ', 'so</b', 'caf')
    """
    text = text.rstrip("\ufffd")
    sizes = [n for stop in stop_strings for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: len(text) - max(sizes, default=0)]


def converse(chat: Chat, lines: Iterable[str], write: Callable[[str], object], *, interactive: bool = False) -> None:
    """Answer every line, until there are no more or one is `/quit`."""
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text == "/reset":
            chat.forget()
            write("(forgotten)\n")
        elif text.startswith("/"):
            write(f"({COMMANDS})\n")
        elif text:
            try:
                for piece in chat.reply(text):
                    write(piece)
            except ValueError as error:
                write(f"({error})")
            except KeyboardInterrupt:
                if not interactive:
                    raise
                write(" (stopped)")
            write("\n")


def build_chat(config: ChatConfig, say: Callable[[str], None]) -> Chat:
    """Policy and environment. Raises `ValueError` for a folder that is not a run's, and the like."""
    saved = None if config.run is None else open_run(config.run, config.checkpoint, say)
    model = saved.config.policy if saved else config.policy
    assert model is not None
    task = load_task(saved.config.task) if saved and is_own_tokenizer(model) else None
    tokenizer = tokenizer_for(model, task, say)
    policy = load_policy(
        model,
        len(tokenizer),
        weights=saved.weights if saved else None,
        device=config.device,
        seed=saved.config.seed if saved else 0,
        say=say,
    )
    policy.reset(seed=int(np.random.SeedSequence().generate_state(1)[0]) if config.seed is None else config.seed)
    temperature = 0.0 if config.greedy else model.temperature if config.temperature is None else config.temperature
    sampling = Sampling(temperature, model.top_k, model.top_p)
    shown = saved.config.env if saved else EnvConfig()
    env = TextVectorEnv(
        1,
        autoreset_mode=AutoresetMode.DISABLED,
        task=task or {"_target_": "text", "problems": ["Hello."]},
        reward={"nothing": Unscored()},
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens(config, policy),
        max_new_tokens=config.max_new_tokens,
        stop_strings=shown.stop_strings,
        include_stop=shown.include_stop,
        chat=shown.chat,
        system_prompt=shown.system_prompt if config.system_prompt is None else config.system_prompt,
        prompt_template=shown.prompt_template,
    )
    return Chat(env, policy, sampling, say)


def max_prompt_tokens(config: ChatConfig, policy: Policy) -> int:
    """What `max_context_tokens`, or the model's own positions, leave beside an answer."""
    positions = getattr(policy.model.model.config.get_text_config(), "max_position_embeddings", None)
    context = min(config.max_context_tokens, positions or config.max_context_tokens)
    require(
        context > config.max_new_tokens,
        f"max_new_tokens must be below the {context} positions of the model, got {config.max_new_tokens}",
    )
    return context - config.max_new_tokens


def typed_lines() -> Iterator[str]:
    """What a person types, line by line; with editing and history where the system has them."""
    with suppress(ImportError):
        import readline  # noqa: F401 - its import is its effect
    while True:
        try:
            yield input("you> ")
        except EOFError:
            print()
            return


def write(text: str) -> None:
    """To the terminal, at once."""
    print(text, end="", flush=True)


@hydra.main(version_base="1.3", config_path=CONF, config_name="chat")
def main(composed: DictConfig) -> None:
    """Compose, load, talk; notes go to stderr, so that a pipe receives answers alone."""
    interactive = sys.stdin.isatty()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        config: Any = OmegaConf.to_object(composed)
        chat = build_chat(config, say)
    except (ValueError, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")
    if interactive:
        say(COMMANDS if chat.remembers else f"{COMMANDS}. This model has no chat template: every line stands alone.")
    with closing(chat.env):
        try:
            converse(chat, typed_lines() if interactive else sys.stdin, write, interactive=interactive)
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
