"""Lists of settings inside of a setting, as one types them: Hydra wants each of them quoted."""

from __future__ import annotations

import re

LISTS = re.compile(r"(\+{0,2}(?:common|settings\.[\w-]+|variants\.[\w-]+)=)\[(.*)\]", re.DOTALL)


def quoted(argument: str) -> str:
    """A list of settings with each of them quoted; any other argument, and what is quoted already, as it is.

    >>> quoted("+variants.slow=[agent=grpo,agent.optim.betas=[0.9,0.95]]")
    "+variants.slow=['agent=grpo','agent.optim.betas=[0.9,0.95]']"
    >>> quoted("seeds=[0,1]"), quoted("common=['threads=1']"), quoted("common=[]")
    ('seeds=[0,1]', "common=['threads=1']", 'common=[]')
    """
    match = LISTS.fullmatch(argument)
    if match is None or not match[2].strip() or match[2].strip()[0] in "'\"":
        return argument
    items = ",".join(f"'{item.strip()}'" for item in split_outside_brackets(match[2]))
    return f"{match[1]}[{items}]"


def unquoted(argument: str) -> str:
    """As it was typed.

    >>> unquoted("common=['threads=1','seed=2']")
    'common=[threads=1,seed=2]'
    """
    match = LISTS.fullmatch(argument)
    return argument if match is None else f"{match[1]}[{match[2].replace(chr(39), '')}]"


def split_outside_brackets(text: str) -> list[str]:
    """At commas that stand in no bracket of the text."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
