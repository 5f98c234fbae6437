import json
import pickle
import threading
import time

import pytest

from rewards import JsonFormat, Sample, Scorer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def score(completion, **settings):
    return JsonFormat(**settings)(completion=completion)


@pytest.mark.parametrize(
    ("completion", "where", "value"),
    [
        ('{"a": 1}', "any", 1.0),
        (' [1, "x", null, true]\n', "whole", 1.0),
        ('Here it is: {"a": 1}', "any", 0.0),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', "any", 1.0),
        ('Here:\n```\n{"a": 1}\n```', "fence", 1.0),
        ('```python\n{"a": 1}\n```', "fence", 0.0),
        ('```json\n{"a": 1}', "fence", 0.0),
        ('```json\n[}\n```\n```json\n{"a": 1}\n```', "fence", 1.0),
        ('```json\n{"a": 1}\n```\n```json\n[}\n```', "fence", 0.0),
        ('```json\n{"a": 1}\n```', "whole", 0.0),
        ('<json>{"a": 1}</json> and more', "tag", 1.0),
        ("<json>[}</json><json>[]</json>", "any", 1.0),
        ('{"a": 1}', "tag", 0.0),
        ('<think>[}</think>{"a": 1}', "whole", 1.0),
        ('<think>{"a": 1}</think>so it is', "any", 0.0),
    ],
)
def test_the_document_is_found_where_it_is_said_to_stand(completion, where, value):
    assert score(completion, where=where).value == value


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", "no JSON found"),
        (" \n", "no JSON found"),
        ("{'a': 1}", "not JSON: Expecting property name enclosed in double quotes at character 1"),
        ("NaN", "not JSON: NaN is no JSON number"),
        ("[-Infinity]", "not JSON: -Infinity is no JSON number"),
        ('{"a": 1, "b": 2, "a": 3}', "not JSON: the key 'a' comes twice"),
        ("1e999", "not JSON: a number too large for a float"),
        ("9" * 301, "not JSON: a number of more than 300 digits"),
        ("[" * 65 + "]" * 65, "not JSON: deeper than 64 brackets"),
        ("[" * 20_000, "not JSON: deeper than 64 brackets"),
        ('"' + "a" * 40_000 + '"', "not JSON: longer than 32768 characters"),
        ('"\x00"', "not JSON: Invalid control character at at character 1"),
    ],
)
def test_what_is_no_json_scores_zero_with_the_reason(completion, reason):
    found = score(completion)
    assert (found.value, found.info["reason"]) == (0.0, reason)


def test_brackets_inside_strings_are_not_depth():
    assert score(json.dumps("[" * 100 + '\\" {{{')).value == 1.0
    assert score("[" * 64 + "]" * 64).value == 1.0


@pytest.mark.parametrize("soup", ['"', "\\", '\\"', "[{", "```\n", "<json>", '{"a":', '"\\'])
def test_soup_of_a_megabyte_is_refused_in_linear_time(soup):
    started = time.perf_counter()
    assert score(soup * (1_000_000 // len(soup)), max_chars=2_000_000, max_depth=500).value == 0.0
    assert time.perf_counter() - started < 5.0


def test_a_schema_decides_and_says_where_it_does_not_fit():
    reward = JsonFormat(schema=PERSON)
    assert reward(completion='{"name": "Ada", "age": 36}').value == 1.0
    wrong = reward(completion='{"name": "Ada", "age": "36"}')
    assert (wrong.value, wrong.info["reason"]) == (0.0, "$.age: '36' is not of type 'integer'")
    assert "'age' is a required property" in reward(completion='{"name": "Ada"}').info["reason"]


def test_json_that_does_not_fit_may_have_some_credit():
    reward = JsonFormat(schema=PERSON, syntax_credit=0.25)
    assert [reward(completion=text).value for text in ("[]", "[", '{"name": "Ada", "age": 1}')] == [0.25, 0.0, 1.0]


def test_a_schema_may_be_a_file(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "array"}))
    assert [JsonFormat(schema=str(path))(completion=text).value for text in ("[]", "{}")] == [1.0, 0.0]


def test_references_inside_the_schema_work():
    tree = {
        "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "$ref": "#/$defs/tree",
    }
    assert [score(text, schema=tree).value for text in ("[[], [[]]]", "[[], [1]]")] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strnig"}, r"schema must be a JSON schema, at \$\.type: 'strnig' is not valid"),
        ({"pattern": "("}, r"schema must be a JSON schema, at \$\.pattern"),
        ({"$ref": "#/$defs/nothing"}, r"schema must hold what it refers to \(nothing is fetched\)"),
        ({"items": {"$ref": "http://localhost:1/x.json"}}, r"nothing is fetched\), got 'http://localhost:1/x\.json'"),
        ({"$ref": "#"}, "schema must come to an end"),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "schema must come to an end"),
        ({"$schema": "http://nowhere/dialect"}, "schema must be of a known dialect"),
        ({"const": {1, 2}}, "schema must be JSON"),
        (["type"], r"schema must be a mapping or the path of a JSON file, got \['type'\]"),
        ("nowhere.json", "schema must be a mapping or the path of a JSON file, got 'nowhere.json'"),
    ],
)
def test_a_schema_that_cannot_be_used_is_an_error_at_construction(schema, message):
    with pytest.raises(ValueError, match=message):
        JsonFormat(schema=schema)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "first"}, "where must be one of any, whole, fence, tag, got 'first'"),
        ({"tag": "<json>"}, "tag must be a word without brackets"),
        ({"syntax_credit": 2}, "syntax_credit must be from 0 to 1, got 2"),
        ({"max_chars": 0}, "max_chars must be at least 1, got 0"),
        ({"max_depth": 501}, "max_depth must be from 1 to 500, got 501"),
        ({"timeout_seconds": 0}, "timeout_seconds must be above 0, got 0"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        JsonFormat(**settings)


SLOW = {"type": "string", "pattern": "^(a+)+$"}


@pytest.mark.parametrize("execution", ["direct", "thread", "inline", "process"])
def test_a_schema_that_takes_too_long_scores_zero_and_the_next_one_is_checked(execution):
    reward = JsonFormat(schema=SLOW, timeout_seconds=0.5)
    texts = [json.dumps("a" * 40 + "!"), '"aaa"']
    if execution == "direct":
        scores = [reward(completion=text) for text in texts]
    elif execution == "thread":
        scores = []
        thread = threading.Thread(target=lambda: scores.extend(reward(completion=text) for text in texts))
        thread.start()
        thread.join(30)
    else:
        with Scorer({"json": {"fn": reward, "execution": execution, "timeout_seconds": 1.0}}) as scorer:
            verdicts = scorer.score([Sample("", text) for text in texts])
        assert all(verdict.valid for verdict in verdicts)
        scores = [verdict.parts["json"] for verdict in verdicts]
    assert [found.value for found in scores] == [0.0, 1.0]
    assert scores[0].info["reason"] == "timed out"


def test_without_a_schema_it_runs_inline_and_with_one_in_a_worker():
    assert JsonFormat().execution == "inline"
    assert JsonFormat(schema=PERSON).execution == "process"


def test_it_can_be_pickled():
    assert pickle.loads(pickle.dumps(JsonFormat(schema=PERSON)))(completion="[]").value == 0.0
