"""The viewer: what it reads and packs is what was stored, and nothing that a model wrote can run in its page."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from finished_runs import finish_run
from small import Echo, make_rollout

from agents.config import LoggingConfig
from agents.optim import OptimConfig
from agents.ppo import PPOConfig
from agents.stored import Stored, read_rollout
from agents.view import Shown, TokenNumbers, packed, page
from agents.view.__main__ import ViewConfig, main, view
from agents.view.packing import ABOVE, INJECTED, SPECIAL
from agents.view.pieces import Pieces
from agents.view.reading import NO_ROLLOUTS, of_rollout, question, read_run
from rewards.scoring import Verdict
from rewards.types import Sample, Score
from textenv import load_tokenizer

HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<!--<script>",
    "<img src=x onerror=\"document.title='taken'\"><svg onload=alert(1)>",
    "{{data}} {{script}} \\u003c \u2028 \u202e txt \x00\x1b[31m\ud800 é 🙂",
    "",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Blocks(HTMLParser):
    """The elements of a page, and the text of its scripts, as a browser finds them."""

    def __init__(self, text):
        super().__init__()
        self.names, self.scripts, self.inside, self.policy = [], [], False, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.inside = tag == "script"
        self.scripts += [""] if self.inside else []
        if dict(attributes).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attributes)["content"]

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.scripts[-1] += text


def shown(**changes):
    settings = {
        "iteration": 1,
        "problem": 0,
        "episode": 0,
        "prompt": "1=",
        "completion": "1",
        "finish_reason": "eos",
        "reward": 1.0,
        "valid": True,
        "parts": {"right": 1.0},
    }
    return Shown(**settings | changes)


def tokens(pieces, **quantities):
    count = len(pieces)
    off = np.zeros(count, bool)
    numbers = {name: np.array(x, np.float32) for name, x in quantities.items()}
    return TokenNumbers(list(pieces), off, off, np.zeros(count, np.int8), numbers)


def hostile_page(copies=1):
    """Every field that a model or a task writes, hostile."""
    rows = [
        shown(
            problem=problem, prompt=text + "!", question=text, completion=text,
            finish_reason=text, reason=text, parts={text or "-": 0.5},
            part_reasons={text or "-": text}, tokens=tokens([text, text[:5]], logprob=[-0.5, -2.0]),
        )
        for problem in range(copies)
        for text in HOSTILE
    ]  # fmt: skip
    return page(packed(rows, title=HOSTILE[0], subtitle=HOSTILE[2], notice=HOSTILE[1]))


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def dump(path, fragment=""):
    """The document after its script has run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{path}{fragment}"], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """PPO with two epochs, everything stored."""
    agent = PPOConfig(prompts=2, group_size=4, optim=OptimConfig(learning_rate=0.05, epochs=2))
    logging = LoggingConfig(tensorboard=False, rollouts=True, entropy=True)
    return finish_run(tmp_path_factory.mktemp("runs"), iterations=3, agent=agent, logging=logging)


def test_no_text_ends_its_block_or_becomes_an_element():
    blocks = Blocks(hostile_page())
    assert blocks.names.count("script") == 2
    assert not {"img", "svg"} & set(blocks.names)
    data = json.loads(blocks.scripts[0])
    told = [text.replace("\ud800", "\ufffd") for text in HOSTILE]
    assert data["completion"] == told
    assert set(data["strings"]) == {*told, *(text + "!" for text in told)}
    assert data["title"] == HOSTILE[0]


def test_the_page_allows_its_own_script_and_style_and_no_request():
    blocks = Blocks(hostile_page())
    digest = base64.b64encode(hashlib.sha256(blocks.scripts[1].encode()).digest()).decode()
    assert blocks.policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in blocks.policy
    assert "unsafe" not in blocks.policy
    assert not re.search(
        r"""(src|href)=|url\(|innerHTML|insertAdjacentHTML|document\.write|eval\(""", blocks.scripts[1]
    )
    assert not {"link", "iframe", "object"} & set(blocks.names)


def test_numbers_of_tokens_are_those_that_were_stored(run):
    reading = read_run(str(run))
    assert reading.notice == ""
    assert len(reading.completions) == 3 * 8
    data = packed(reading.completions, title="t")
    stored = read_rollout(run, 2)
    place = next(k for k, i in enumerate(data["iteration"]) if i == 2)
    row = int((stored.rollout.episode == data["episode"][place]).nonzero())
    first, end = data["start"][place : place + 2]
    count = int(stored.rollout.response_length[row])
    assert end - first == count
    expected = {
        "logprob": stored.rollout.sampled_logprob[row, :count],
        "entropy": stored.rollout.entropy[row, :count],
        "advantage": stored.advantage[row, :count],
        "value": stored.rollout.value[row, :count],
        "log_ratio": stored.ratio[row, :count].log(),
    }
    for name, numbers in expected.items():
        seen = unpacked(data["quantities"][name], "<f2")[first:end]
        np.testing.assert_allclose(seen, numbers.numpy(), rtol=1e-3, atol=1e-6)
    assert "reference" not in data["quantities"]
    pieces = [data["pieces"][k] for k in unpacked(data["tokens"], "<u4")[first:end]]
    assert "".join(piece for piece in pieces if not piece.startswith("<")) == data["completion"][place]
    clipped = (unpacked(data["flags"], np.uint8)[first:end] & ABOVE) > 0
    assert clipped.tolist() == (stored.clipped[row, :count] > 0).tolist()
    assert data["part_values"][data["parts"].index("right")][place] == stored.verdicts[row].value


def test_a_checkpoint_scores_every_token_and_its_own_rollout_is_as_it_was_drawn(run):
    """The policy of iteration 2 drew the rollout of iteration 3; those before it were drawn by others."""
    reading = read_run(str(run), checkpoint="2")
    assert "the later policy is that of iteration 2" in reading.subtitle
    ratios = {
        i: np.concatenate([one.tokens.quantities["log_ratio_now"] for one in reading.completions if one.iteration == i])
        for i in (1, 3)
    }
    assert np.abs(ratios[3]).max() < 1e-4
    assert np.abs(ratios[1]).max() > 0.1


def test_injected_tokens_are_marked_and_have_no_numbers():
    """The second and third of four tokens are the environment's; the last is the end token, 5 of "0123="."""
    rollout = make_rollout([[1, 4]], [[0, 1, 2, 5]], masks=[[1, 0, 0, 1]], returns=[0.5])
    rollout = rollout.with_(sampled_logprob=torch.tensor([[-1.0, 9.0, 9.0, -2.0]]), entropy=None)
    stored = Stored(
        iteration=1,
        settings="",
        weights="",
        rollout=rollout,
        advantage=torch.tensor([0.25]),
        ratio=torch.tensor([[1.0, torch.nan, torch.nan, 2.0]]),
        clipped=torch.tensor([[0, 0, 0, 1]], dtype=torch.int8),
        samples=[Sample("1=", "0")],
        verdicts=[Verdict(0.5, {"right": Score(0.5, info={"reason": "half"})})],
    )
    (one,) = of_rollout(stored, Pieces(Echo().tokenizer()))
    assert one.tokens.pieces == ["0", "1", "2", "<eos>"]
    assert one.part_reasons == {"right": "half"}
    data = packed([one], title="t")
    assert unpacked(data["flags"], np.uint8).tolist() == [0, INJECTED, INJECTED, ABOVE | SPECIAL]
    assert unpacked(data["quantities"]["advantage"], "<f2").tolist() == pytest.approx(
        [0.25, np.nan, np.nan, 0.25], nan_ok=True
    )
    assert unpacked(data["quantities"]["logprob"], "<f2").tolist() == pytest.approx(
        [-1, np.nan, np.nan, -2], nan_ok=True
    )
    assert data["injected"]
    assert "entropy" not in data["quantities"]
    assert data["absent"].keys() == {"entropy", "log_ratio_now"}


def test_a_character_of_several_tokens_stands_at_the_last_of_them():
    pieces, special = Pieces(load_tokenizer("byte")).of([*"aé🙂".encode(), 195, 33, 257])
    assert pieces == ["a", "", "é", "", "", "", "🙂", "�", "!", "<eos>"]
    assert special.tolist() == [False] * 9 + [True]


def test_the_question_of_a_chat_is_its_last_in_the_prompt():
    told = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "1 + 1?"})
    later = (*told, {"role": "assistant", "content": "2"}, {"role": "user", "content": "and then?"})
    assert question(Sample("<s>be kind<u>1 + 1?", "2", messages=later)) == "1 + 1?"
    assert question(Sample("1=", "2")) == ""


def test_groups_are_brought_together_and_large_numbers_kept_within_a_half_float():
    rows = [
        shown(iteration=i, problem=p, episode=e, tokens=tokens(["1"], logprob=[-1e30]))
        for i, p, e in ((2, 0, 4), (1, 1, 2), (1, 0, 0), (1, 1, 3), (1, 0, 1))
    ]
    data = packed(rows, title="t")
    assert data["episode"] == [0, 1, 2, 3, 4]
    assert unpacked(data["quantities"]["logprob"], "<f2").tolist() == [-60000.0] * 5


def test_a_run_without_stored_rollouts_shows_texts_and_says_so(tmp_path):
    run = finish_run(tmp_path, iterations=4)
    reading = read_run(str(run))
    assert reading.notice == NO_ROLLOUTS
    assert len(reading.completions) == 32
    assert all(one.tokens is None for one in reading.completions)
    with pytest.raises(ValueError, match=r"iterations must be some of 1 to 4, got \[7\]"):
        read_run(str(run), iterations=[7])
    few = read_run(str(run), limit=16)
    assert {one.iteration for one in few.completions} == {1, 4}
    assert "2 of 4 iterations, evenly spaced" in few.notice
    with (run / "completions.jsonl").open("a") as file:
        file.write('{"iteration": 5, "probl')  # a crash
    assert len(read_run(str(run)).completions) == 32
    with pytest.raises(ValueError, match="checkpoint=last needs stored rollouts"):
        read_run(str(run), checkpoint="last")
    (run / "completions.jsonl").unlink()
    with pytest.raises(ValueError, match="neither stored rollouts nor completions"):
        read_run(str(run))


def test_a_limit_keeps_whole_iterations_the_first_and_the_last(run):
    assert {one.iteration for one in read_run(str(run), limit=16).completions} == {1, 3}
    assert {one.iteration for one in read_run(str(run), iterations=[2]).completions} == {2}


def test_mistakes_are_named(run, tmp_path):
    for iterations in ([9], [1, 9], []):
        with pytest.raises(ValueError, match=rf"iterations must be some of 1 to 3, got {re.escape(str(iterations))}"):
            read_run(str(run), iterations=iterations)
    with pytest.raises(ValueError, match="no checkpoint of iteration 99"):
        read_run(str(run), checkpoint="99")
    with pytest.raises(ValueError, match="is not the folder of a run"):
        view(ViewConfig(run=str(tmp_path)))
    for settings, message in (
        ({"limit": 0}, "limit must be at least 1"),
        ({"output": "a.txt"}, "an HTML file"),
        ({"run": None}, "run must be given"),
    ):
        with pytest.raises(ValueError, match=message):
            ViewConfig(**{"run": str(run), **settings})


def test_the_command_writes_one_file(run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "deep" / "three.html"
    monkeypatch.setattr(sys, "argv", ["view", f"run={run}", f"output={path}", "iterations=[1,3]"])
    main()
    assert "16 completions" in capsys.readouterr().out
    assert json.loads(Blocks(path.read_text()).scripts[0])["subtitle"] == "ppo on Echo, tiny"
    monkeypatch.setattr(sys, "argv", ["view", f"run={tmp_path}"])
    with pytest.raises(SystemExit, match=r"error: .* is not the folder of a run"):
        main()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: the page's own script is not run")


@pytest.mark.usefixtures("browser")
def test_a_browser_shows_hostile_text_as_text(tmp_path):
    """Also where nothing but the escaping stands between the two: the page here has no policy."""
    bare = re.sub(r"<meta http-equiv[^>]*>", "", hostile_page())
    (tmp_path / "page.html").write_text(bare, encoding="utf-8")
    text = dump(tmp_path / "page.html")
    assert "<title>&lt;/script&gt;" in text
    assert "taken</title>" not in text
    assert "<img" not in text.lower()
    rows = re.findall(r'<div class="row"', text)
    assert len(rows) == len(HOSTILE)
    assert html.escape(HOSTILE[2], quote=False) in text.replace("&quot;", '"')


@pytest.mark.usefixtures("browser")
def test_a_browser_draws_a_few_groups_of_thousands_and_the_ones_that_are_searched(tmp_path):
    """500 groups of four completions with 30 tokens; the tenth of them asks for a needle."""
    texts = [f"word{k} " for k in range(30)]
    rows = [
        shown(
            problem=k // 4, episode=k, prompt="needle" if k // 4 == 10 else "hay", completion="".join(texts),
            tokens=tokens(texts, logprob=np.linspace(-3, 0, 30), entropy=np.linspace(0, 2, 30)),
        )
        for k in range(2000)
    ]  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(page(packed(rows, title="many")), encoding="utf-8")
    assert path.stat().st_size < 3e6
    text = dump(path, "#heat=entropy")
    assert "2,000 of 2,000 completions" in text
    assert 12 <= len(re.findall(r'<section class="group"', text)) < 100
    assert len(re.findall(r"--much\) / 0\.\d+", text)) > 12 * 4 * 20
    text = dump(path, "#search=needle")
    assert "4 of 2,000 completions" in text
    assert len(re.findall(r'<section class="group"', text)) == 1


@pytest.mark.usefixtures("browser")
def test_a_browser_says_that_the_entropy_was_not_stored(tmp_path):
    """In the list of colours, where it cannot be chosen, below the scale, and of every token."""
    for there in (False, True):
        entropy = {"entropy": [1.5]} if there else {}
        path = tmp_path / "page.html"
        data = packed([shown(tokens=tokens(["1"], logprob=[-0.5], **entropy))], title="t")
        path.write_text(page(data), encoding="utf-8")
        text = dump(path, "#heat=entropy")
        assert ("No entropy: not stored by this run; logging.entropy=true" in text) is not there
        assert ('<option value="entropy" disabled="">entropy (not there)</option>' in text) is not there
        assert ('<option value="entropy">entropy</option>' in text) is there
        assert (re.search(r"--much\) / 0", text) is not None) is there
        assert (re.search(r"--down\) / 0", text) is not None) is not there  # the usual colour, log-probability
