import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rewards.preference.data import Preference, pair, read_preferences, split_preferences
from rewards.preference.encoding import (
    encode_completion,
    encode_preferences,
    encode_prompt,
    fit,
    pad_right,
    shuffled_batches,
)
from rewards.preference.tokenizer import byte_tokenizer

GOOD = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
RANKED = {"prompt": "2+2?", "responses": ["22", "4", "5"], "ranking": [1, 2, 0]}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_pairs_of_text_and_of_messages_are_read_in_order(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    path = write(tmp_path / "pairs.jsonl", GOOD, "", {**GOOD, "prompt": chat, "margin": 2, "source": "me"})
    found = read_preferences(path)
    assert found == [pair("2+2?", "4", "5"), pair(tuple(chat), "4", "5", 2.0)]
    assert [preference.source for preference in found] == [f"{path}, line 1", f"{path}, line 3"]


def test_a_ranking_is_read_best_first(tmp_path):
    path = write(tmp_path / "rankings.jsonl", RANKED, {**RANKED, "margin": 2}, {**RANKED, "margin": [1, 0.5]}, GOOD)
    ordered = ("4", "5", "22")
    assert read_preferences(path) == [
        Preference("2+2?", ordered, (0, 1, 2), (0.0, 0.0, 0.0)),
        Preference("2+2?", ordered, (0, 1, 2), (4.0, 2.0, 0.0)),
        Preference("2+2?", ordered, (0, 1, 2), (1.5, 0.5, 0.0)),
        pair("2+2?", "4", "5"),
    ]


def test_ties_are_refused_unless_the_settings_say_what_they_mean(tmp_path):
    tie, part = {**RANKED, "ranking": [[0, 1, 2]]}, {**RANKED, "ranking": [1, [2, 0]], "margin": [3]}
    path = write(tmp_path / "rankings.jsonl", GOOD, part, tie)
    with pytest.raises(
        ValueError, match=r"rankings\.jsonl, line 2: ranking must have no ties unless ties=drop or ties=half"
    ):
        read_preferences(path)
    kept = Preference("2+2?", ("4", "5", "22"), (0, 1, 1), (3.0, 0.0, 0.0))
    assert read_preferences(path, ties="drop") == [pair("2+2?", "4", "5"), kept]
    assert read_preferences(path, ties="half")[1:] == [
        kept,
        Preference("2+2?", ("22", "4", "5"), (0, 0, 0), (0.0, 0.0, 0.0)),
    ]
    with pytest.raises(ValueError, match=r"must hold at least one preference, got 0 that is not a tie"):
        read_preferences(write(tmp_path / "ties.jsonl", tie), ties="drop")


def test_plackett_luce_refuses_margins_and_ties_that_are_too_many_to_average(tmp_path):
    path = write(tmp_path / "a.jsonl", {**RANKED, "margin": 0}, {**RANKED, "margin": 1})
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: margin needs loss=pairs, plackett_luce has none; got 1"):
        read_preferences(path, loss="plackett_luce")
    many = {"prompt": "p", "responses": [str(number) for number in range(11)], "ranking": [[*range(11)]]}
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: ranking must tie at most 10 responses .*, got 11"):
        read_preferences(write(tmp_path / "b.jsonl", many), loss="plackett_luce", ties="half")
    assert len(read_preferences(tmp_path / "b.jsonl", ties="half")) == 1


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("{", "must be JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 100_000, "recursion" if sys.version_info < (3, 12) else "must be|recursion"),
        ({"prompt": "a", "chosen": "b"}, "rejected is missing"),
        ({**GOOD, "chosen": 4}, "chosen must be text, got 4"),
        ({**GOOD, "chosen": None}, "chosen must be text, got None"),
        ({**GOOD, "prompt": 4}, "prompt must be text or a list of messages, got 4"),
        ({**GOOD, "chosen": ""}, "chosen must not be empty"),
        ({**GOOD, "prompt": ""}, "prompt must not be empty"),
        ({**GOOD, "prompt": []}, "prompt must hold at least one message"),
        ({**GOOD, "prompt": ["hello"]}, r"prompt\[0\] must be an object"),
        ({**GOOD, "prompt": [{"role": "user"}]}, r"prompt\[0\].content is missing"),
        ({**GOOD, "prompt": [{"role": "assistant", "content": "4"}]}, "must not end with the assistant"),
        ({**GOOD, "rejected": "4"}, "chosen must differ from rejected"),
        ({**GOOD, "chosen": "\ud800"}, "chosen must be valid Unicode"),
        ({**GOOD, "margin": "big"}, "margin must be a finite number"),
        ({**GOOD, "margin": float("nan")}, "margin must be a finite number"),
        ({**GOOD, "responses": ["a", "b"]}, "a line must be a pair or a ranking, it has .* beside chosen, rejected"),
        ({"prompt": "a", "ranking": [0, 1]}, "responses is missing"),
        ({"prompt": "a", "responses": ["b", "c"]}, "ranking is missing"),
        ({**RANKED, "responses": ["22"]}, "responses must be a list of at least 2 texts"),
        ({**RANKED, "responses": "22"}, "responses must be a list of at least 2 texts, got '22'"),
        ({**RANKED, "responses": ["22", "4", 5]}, r"responses\[2\]: response must be text, got 5"),
        ({**RANKED, "responses": ["22", "4", ""]}, r"responses\[2\]: response must not be empty"),
        ({**RANKED, "responses": ["22", "4", "22"]}, "responses must differ, 0 and 2 are both '22'"),
        ({**RANKED, "ranking": [0, 1]}, r"ranking must name each of 0 to 2 once, .* got \[0, 1\]"),
        ({**RANKED, "ranking": [0, 1, 1]}, r"ranking must name each of 0 to 2 once, .* got \[0, 1, 1\]"),
        ({**RANKED, "ranking": [1, 2, 3]}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": [0, 1, "2"]}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": [0, True, 2]}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": [0, [1, 2], []]}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": [0, [1, [2]]]}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": None}, "ranking must name each of 0 to 2 once"),
        ({**RANKED, "ranking": [0, [1, 2]]}, "ranking must have no ties"),
        ({**RANKED, "margin": [1]}, r"margin must be a number or one for each of the 2 steps between places"),
        ({**RANKED, "margin": [1, "2"]}, "margin must be a finite number, got '2'"),
        ({**RANKED, "margin": None}, "margin must be a finite number, got None"),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_rule(tmp_path, row, rule):
    path = write(tmp_path / "pairs.jsonl", GOOD, row)
    with pytest.raises(ValueError, match=rf"pairs\.jsonl, line 2: .*({rule})"):
        read_preferences(path)


def test_bytes_that_are_not_utf8_are_named_with_file_and_line(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match="line 1: must be UTF-8"):
        read_preferences(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("name", ["empty.jsonl", "missing.jsonl"])
def test_an_empty_or_missing_file_is_an_error(tmp_path, name):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=name):
        read_preferences(tmp_path / name)


def test_split_is_deterministic_and_keeps_prompts_apart():
    pairs = [pair(str(number // 3), "a", str(number)) for number in range(300)]
    train, held_out = split_preferences(pairs, eval_share=0.2, seed=1)
    assert (train, held_out) == split_preferences(pairs, eval_share=0.2, seed=1)
    assert held_out != split_preferences(pairs, eval_share=0.2, seed=2)[1]
    assert len(held_out) == 60
    assert sorted(train + held_out, key=pairs.index) == pairs
    assert not {preference.prompt for preference in train} & {preference.prompt for preference in held_out}


def test_split_of_pairs_with_one_prompt_draws_pairs():
    pairs = [pair("p", "a", str(number)) for number in range(10)]
    train, held_out = split_preferences(pairs, eval_share=0.2, seed=0)
    assert (len(train), len(held_out)) == (8, 2)
    with pytest.raises(ValueError, match="eval_share must be 0"):
        split_preferences(pairs[:1], eval_share=0.2, seed=0)


def test_messages_go_through_the_template_once_and_completions_end_with_eos():
    tokenizer = byte_tokenizer()
    prompt = encode_prompt(tokenizer, ({"role": "user", "content": "hi"},))
    completion = encode_completion(tokenizer, "yo")
    assert tokenizer.decode(prompt + completion) == "user: hi\nassistant: yo<|end|>"
    assert encode_completion(tokenizer, "") == [tokenizer.eos_token_id]
    assert encode_completion(tokenizer, "a\ud800") == encode_completion(tokenizer, "a?")  # half a pair is no text


def test_a_completion_cannot_write_the_end_token_itself():
    tokenizer = byte_tokenizer()
    assert encode_completion(tokenizer, "<|end|>").count(tokenizer.eos_token_id) == 1


def test_a_bos_token_appears_once_whoever_wrote_it():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|start|>"})
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", start), ("<|end|>", end)]
    )
    plain = encode_prompt(tokenizer, "hi")
    assert plain == encode_prompt(tokenizer, "<|start|>hi")
    assert plain[0] == start
    assert plain.count(start) == 1
    assert end not in plain
    assert start not in encode_completion(tokenizer, "hi")


def test_messages_need_a_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    chat = replace(pair(({"role": "user", "content": "hi"},), "a", "b"), source="data.jsonl, line 7")
    with pytest.raises(ValueError, match=r"data\.jsonl, line 7: .*chat template"):
        encode_preferences(tokenizer, [chat], max_length=99, too_long="error")


def test_a_ranking_keeps_its_places_in_tokens():
    tokenizer = byte_tokenizer()
    ranking = Preference("p", ("a", "bc", "d"), (0, 1, 1), (1.0, 0.0, 0.0))
    (encoded,) = encode_preferences(tokenizer, [ranking], max_length=9, too_long="error")
    assert [tokenizer.decode(row.ids) for row in encoded.rows] == ["pa<|end|>", "pbc<|end|>", "pd<|end|>"]
    assert [row.num_completion_tokens for row in encoded.rows] == [2, 3, 2]
    assert (encoded.places, encoded.levels) == (ranking.places, ranking.levels)


def test_too_long_is_an_error_or_drops_the_left():
    assert fit([1, 2], [3, 4], max_length=4, too_long="error").ids == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="max_length=3 tokens, got 4"):
        fit([1, 2], [3, 4], max_length=3, too_long="error")
    cut = fit([1, 2], [3, 4], max_length=3, too_long="truncate_prompt")
    assert (cut.ids, cut.num_completion_tokens, cut.num_cut_tokens) == ((2, 3, 4), 2, 1)
    with pytest.raises(ValueError, match="the completion must fit max_length=1"):
        fit([1, 2], [3, 4], max_length=1, too_long="truncate_prompt")
    assert fit([1, 2], [3, 4], max_length=1, too_long="truncate").ids == (4,)


def test_padding_is_on_the_right_and_masked():
    ids, mask = pad_right([[1], [2, 3, 4]], pad_id=9)
    assert ids.tolist() == [[1, 9, 9], [2, 3, 4]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_batches_hold_every_index_once_and_depend_on_the_generator_alone():
    lengths = [random.Random(7).randint(1, 50) for _ in range(101)]
    batches = shuffled_batches(lengths, 4, random.Random(0))
    assert sorted(index for batch in batches for index in batch) == list(range(101))
    assert max(map(len, batches)) == 4
    assert batches == shuffled_batches(lengths, 4, random.Random(0))
    assert batches != shuffled_batches(lengths, 4, random.Random(1))
