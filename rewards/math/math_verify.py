"""Math-Verify (Apache-2.0) as the judge: the extra `math-verify` installs it, `backend: math-verify` chooses it.

It runs where ours runs, in a worker that the parent can kill, so its own alarms are off: they fail outside of a main
thread. Its fallback to comparing raw texts is off as well, since it calls `1/\\mathrm{e}` and `1/\\mathrm{e}^2` the
same; and what we call unfinished is refused before it is asked.
"""

from __future__ import annotations

import logging

from rewards.math.answers import parse_answer
from rewards.math.equivalence import same
from rewards.math.pair import Pair, Verdict
from rewards.math.tokens import UnfinishedError

DECIMALS = 6


def judge_with_math_verify(pair: Pair) -> Verdict:
    """What Math-Verify says of a pair, none of which is evaluated as Python."""
    try:
        _refuse_unfinished(pair)
        return _judged(pair)
    except UnfinishedError as error:
        return False, f"unfinished: {error}"
    except Exception as error:  # noqa: BLE001 - neither it nor sympy says what it raises over odd formulas
        return False, f"not understood: {str(error) or type(error).__name__}"


def _refuse_unfinished(pair: Pair) -> None:
    """Raise `UnfinishedError` as our own comparison does; what we do not understand is left to Math-Verify."""
    try:
        same(parse_answer(pair.key), parse_answer(pair.answer), pair)
    except UnfinishedError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        logging.getLogger(__name__).debug("not understood: %s", error)


def _judged(pair: Pair) -> Verdict:
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of its alarms in every call
    key, answer = (
        parse(rf"\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None)
        for text in (pair.key, pair.answer)
    )
    if not key:
        return None, f"the key {pair.key[:80]!r} was not understood"
    equal = verify(
        key,
        answer,
        float_rounding=pair.decimals or DECIMALS,
        allow_set_relation_comp=pair.inequalities,
        timeout_seconds=None,
    )
    return (True, "equal") if equal else (False, "different")
