"""Math-Verify on its own cases with the options of its own tests: what it says, and how long each case takes.

Both texts are parsed and compared, as a reward does. Time limits are on (its defaults), in the main thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify


def verdict(case: dict[str, Any]) -> bool:
    """Whether Math-Verify calls the two texts of a case equal."""
    options = case["options"]
    if "test_yujianll" in case["source"]:  # those are run with the library's own defaults
        return verify(parse(case["gold"]), parse(case["pred"]))
    targets = [
        LatexExtractionConfig(boxed_match_priority=0) if kind == "latex" else ExprExtractionConfig()
        for kind in options["match_types"]
    ]
    return verify(
        parse(case["gold"], targets),
        parse(case["pred"], targets),
        float_rounding=options["precision"],
        strict=options["strict"],
        allow_set_relation_comp=options["allow_set_relation_comp"],
    )


def main() -> None:
    """Warm up, then each case once."""
    settings = json.loads(Path(json.loads(sys.argv[1])["settings"]).read_text())
    for case in settings["warm_up"]:
        verdict(case)
    verdicts, seconds, cpu_seconds = [], [], []
    for case in settings["cases"]:
        started, cpu_started = time.perf_counter(), time.process_time()
        verdicts.append(bool(verdict(case)))
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    print(json.dumps({"verdicts": verdicts, "seconds": seconds, "cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    main()
