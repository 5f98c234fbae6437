import pickle
import time

import pytest

from rewards import Lexicon


def value(completion, words, **settings):
    return Lexicon(words, **settings)(completion=completion).value


@pytest.mark.parametrize(
    ("completion", "words", "settings", "expected"),
    [
        ("A cat.", ["cat"], {}, 1.0),
        ("concatenate", ["cat"], {}, 0.0),
        ("concatenate", ["cat"], {"whole_words": False}, 1.0),
        ("CAT", ["cat"], {}, 1.0),
        ("CAT", ["cat"], {"match_case": True}, 0.0),
        ("STRASSE", ["stra\u00dfe"], {}, 1.0),
        ("cafe\u0301", ["caf\u00e9"], {}, 1.0),
        ("thank \n you", ["thank you"], {}, 1.0),
        ("use C++, please", {"C++": 0.5, "please": 0.25}, {}, 0.75),
        ("what?!", ["?!"], {}, 1.0),
        ("cat cat cat", {"cat": 0.25}, {}, 0.25),
        ("cat cat cat", {"cat": 0.25}, {"max_count": 2}, 0.5),
        ("good bad", {"good": 0.5, "bad": -0.75}, {}, -0.25),
        ("good bad", {"good": 3, "bad": -1}, {}, 1.0),
        ("bad", {"bad": -3}, {}, -1.0),
        ("bad", {"bad": -3}, {"low": -5}, -3.0),
        # the longer one counts at its place, and its letters count once
        ("machine learning", {"machine": 0.1, "machine learning": 0.5, "learning": 0.2}, {}, 0.5),
        ("", ["cat"], {}, 0.0),
        ("a\x00b", ["b"], {}, 1.0),
    ],
)
def test_words_are_found_and_weighed(completion, words, settings, expected):
    assert value(completion, words, **settings) == pytest.approx(expected)


def test_it_says_what_it_found():
    score = Lexicon({"please": 0.5})(completion="please, please")
    assert (score.info["reason"], score.metrics) == ("found please x2", {"found": 2.0})
    assert Lexicon(["x"])(completion="y").info["reason"] == "found none of the words"


def test_an_overlong_text_has_the_lowest_score():
    score = Lexicon(["a"], max_chars=5)(completion="a a a a")
    assert (score.value, score.info["reason"]) == (-1.0, "longer than 5 characters")


def test_a_thousand_words_in_a_long_text_are_found_quickly():
    reward = Lexicon([f"{'a' * 20}{number}" for number in range(1000)])
    started = time.perf_counter()
    assert reward(completion="a" * 100_000).value == 0.0
    assert reward(completion=("a" * 19 + " ") * 5_000).value == 0.0
    assert time.perf_counter() - started < 5.0


def test_it_can_be_pickled():
    assert pickle.loads(pickle.dumps(Lexicon({"a": 0.5})))(completion="a").value == 0.5


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ([], {}, "words must be from 1 to 1000, got 0"),
        ("cat", {}, "words must be a list or a mapping of words to weights, got the text 'cat'"),
        ([""], {}, "words must be texts that are not empty, got ''"),
        ([3], {}, "words must be texts that are not empty, got 3"),
        ({"a": float("nan")}, {}, "the weight of 'a' must be a finite number, got nan"),
        ({"a": True}, {}, "the weight of 'a' must be a finite number, got True"),
        (["Cat", "cat"], {}, "words must differ in more than case and spaces"),
        (["a"], {"low": 2}, "low must be at most high, and both finite, got 2 and 1.0"),
        (["a"], {"max_count": 0}, "max_count must be at least 1, got 0"),
        (["a"], {"max_chars": 0}, "max_chars must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named(words, settings, message):
    with pytest.raises(ValueError, match=message):
        Lexicon(words, **settings)
