"""The functions and constants that a formula may name, as sympy has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy

UNARY: dict[str, Callable[..., Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "sinh": sympy.sinh,
    "cosh": sympy.cosh, "tanh": sympy.tanh, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    "ln": sympy.log, "log": sympy.log, "lg": sympy.log, "abs": sympy.Abs,
}  # fmt: skip
INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan, "cot": sympy.acot}
ROUNDED = {"lfloor": ("rfloor", sympy.floor), "lceil": ("rceil", sympy.ceiling)}
CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo}
GREEK = frozenset(
    {
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota", "kappa",
        "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma",
        "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell",
    }
)  # fmt: skip
