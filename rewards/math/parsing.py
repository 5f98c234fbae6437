"""LaTeX and plain formulas to sympy, by recursive descent over our own tokens.

Nodes are built with `evaluate=False` under budgets of depth, size and magnitude. Model text never reaches `sympify`,
`parse_expr` or `eval`: each of them runs Python that hides in a formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sympy
from sympy import Add, Expr, Integer, Mul, Pow, Rational, Symbol

from rewards.math.tokens import FUNCTIONS, ParseError, Token

MAX_DEPTH = 50
MAX_TOKENS = 500
MAX_NUMBER_DIGITS = 400
MAX_LOG10 = 1e4
MAX_FACTORIAL = 1000
MAX_SYMBOLIC_EXPONENT = 50
END = Token("end", "")

_UNARY: dict[str, Callable[..., Any]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh,
    "tanh": sympy.tanh, "ln": sympy.log, "log": sympy.log, "exp": sympy.exp, "abs": sympy.Abs,
}  # fmt: skip
_INVERSES = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan}
_CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo}
_ADD = ("+", "-")
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}


class FormulaParser:
    """Reads one expression from tokens, from `position` on; containers are read by `rewards.math.answers`."""

    def __init__(self, tokens: list[Token]) -> None:
        if len(tokens) > MAX_TOKENS:
            raise ParseError(f"a formula may have {MAX_TOKENS} tokens, got {len(tokens)}")
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    @property
    def next(self) -> Token:
        """The token that comes next."""
        return self.tokens[self.position] if self.position < len(self.tokens) else END

    def is_next(self, *signs: str) -> bool:
        """Whether one of these signs comes next."""
        return self.next.kind == "sign" and self.next.text in signs

    def take(self) -> Token:
        """The next token, consumed."""
        token = self.next
        self.position += 1
        return token

    def expect(self, sign: str) -> None:
        """Consume this sign or raise."""
        if not self.is_next(sign):
            raise ParseError(f"expected {sign!r}, got {self.next.text!r}")
        self.take()

    def whole(self) -> Expr:
        """The expression that all tokens form."""
        expression = self.sum()
        if self.next is not END:
            raise ParseError(f"{self.next.text!r} does not continue a formula")
        return expression

    def sum(self) -> Expr:
        """Terms with + and - between them."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError(f"a formula may be nested {MAX_DEPTH} deep")
        terms = [self._product()]
        while self.is_next(*_ADD):
            minus = self.take().text == "-"
            term = self._product()
            terms.append(Mul(Integer(-1), term, evaluate=False) if minus else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Add(*terms, evaluate=False)

    def _product(self) -> Expr:
        factors = [self._signed()]
        while True:
            if self.is_next("*"):
                self.take()
                factors.append(self._signed())
            elif self.is_next("/"):
                self.take()
                factors.append(Pow(self._signed(), Integer(-1), evaluate=False))
            elif self._starts_factor():
                self._append_implicit(factors)
            else:
                break
        return factors[0] if len(factors) == 1 else Mul(*factors, evaluate=False)

    def _append_implicit(self, factors: list[Expr]) -> None:
        """A factor without a sign; two numbers in a row are an error, and `1\\frac{1}{2}` is one and a half."""
        if self.next.kind == "number":
            raise ParseError("two numbers stand side by side")
        mixed = self.next == Token("command", "frac") and self.tokens[self.position - 1].kind == "number"
        factor = self._power()
        if mixed and isinstance(factors[-1], Integer) and factor.is_number:
            factors[-1] = Add(factors[-1], factor, evaluate=False)
        else:
            factors.append(factor)

    def _starts_factor(self) -> bool:
        token = self.next
        if token.kind == "command":
            return token.text in FUNCTIONS or token.text in _CONSTANTS or token.text == "frac" or _is_greek(token.text)
        return token.kind in ("number", "letter") or self.is_next("(", "{")

    def _signed(self) -> Expr:
        sign = 1
        while self.is_next(*_ADD):
            sign *= -1 if self.take().text == "-" else 1
        factor = self._power()
        return factor if sign > 0 else _negative(factor)

    def _power(self) -> Expr:
        base = self._postfix(self._atom())
        if self.is_next("^"):
            self.take()
            return self._postfix(power(base, self._exponent()))
        return base

    def _exponent(self) -> Expr:
        """What stands over the base: a group, a signed token, or (as in plain text) a tower of powers."""
        if self.is_next("-", "+"):
            minus = self.take().text == "-"
            exponent = self._power()
            return _negative(exponent) if minus else exponent
        return self._power()

    def _postfix(self, value: Expr) -> Expr:
        while self.is_next("!", "%", "\u00b0"):
            sign = self.take().text
            if sign == "!":
                value = _factorial(value)
            else:
                factor = Rational(1, 100) if sign == "%" else Mul(sympy.pi, Rational(1, 180), evaluate=False)
                value = Mul(value, factor, evaluate=False)
        return value

    def _atom(self) -> Expr:
        token = self.take()
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "letter":
            return self._symbol(token.text)
        if token.kind == "command":
            return self._command(token.text)
        if token.kind == "sign" and token.text in _CLOSING:
            inside = self.sum()
            self.expect(_CLOSING[token.text])
            return sympy.Abs(inside, evaluate=False) if token.text == "|" else inside
        raise ParseError(f"a formula does not continue with {token.text or 'its end'!r}")

    def _symbol(self, name: str) -> Expr:
        if self.is_next("_"):
            self.take()
            name += "_" + self._subscript()
        elif name == "e":
            return sympy.E
        elif name == "i":
            return sympy.I
        return Symbol(name)

    def _subscript(self) -> str:
        if not self.is_next("{"):
            return self.take().text
        self.take()
        parts = []
        while not self.is_next("}"):
            if self.next is END:
                raise ParseError("a subscript is not closed")
            parts.append(self.take().text)
        self.take()
        return "".join(parts)

    def _command(self, name: str) -> Expr:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name == "frac":
            above, below = self._argument(), self._argument()
            return Mul(above, Pow(below, Integer(-1), evaluate=False), evaluate=False)
        if name == "binom":
            return _binomial(self._argument(), self._argument())
        if name == "sqrt":
            return self._root()
        if name in _UNARY:
            return self._function(name)
        if _is_greek(name):
            return self._symbol(name)
        raise ParseError(f"{name!r} is not known")

    def _argument(self) -> Expr:
        """A braced group, or one token: `\\frac12` is a half."""
        token = self.next
        if token.kind == "number" and len(token.text) > 1 and token.text.isdecimal():
            self.tokens[self.position : self.position + 1] = [Token("number", digit) for digit in token.text]
        return self._atom()

    def _root(self) -> Expr:
        index: Expr = Integer(2)
        if self.is_next("["):
            self.take()
            index = self.sum()
            self.expect("]")
        return Pow(self._argument(), Pow(index, Integer(-1), evaluate=False), evaluate=False)

    def _function(self, name: str) -> Expr:
        function, exponent, base = _UNARY[name], None, None
        if name == "log" and self.is_next("_"):
            self.take()
            base = self._argument()
        if self.is_next("^"):
            self.take()
            exponent = self._argument() if not self.is_next("-") else self._exponent()
        if exponent == Integer(-1) and name in _INVERSES:
            function, exponent = _INVERSES[name], None
        value = function(self._function_argument(), evaluate=False)
        if base is not None:
            value = Mul(value, Pow(sympy.log(base, evaluate=False), Integer(-1), evaluate=False), evaluate=False)
        return value if exponent is None else power(value, exponent)

    def _function_argument(self) -> Expr:
        """A bracketed group, or the factors up to the next sign or function: `sin 2x cos y`."""
        if self.is_next("(", "{", "|"):
            return self._power()
        factors = [self._signed()]
        while self._starts_factor() and self.next.text not in FUNCTIONS and not self.is_next("("):
            self._append_implicit(factors)
        return factors[0] if len(factors) == 1 else Mul(*factors, evaluate=False)


def _is_greek(name: str) -> bool:
    return name in {"alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "phi", "omega", "sigma", "rho", "tau"}


def _negative(value: Expr) -> Expr:
    return -value if isinstance(value, Rational) else Mul(Integer(-1), value, evaluate=False)


def _number(text: str) -> Expr:
    if len(text) > MAX_NUMBER_DIGITS:
        raise ParseError(f"a number may have {MAX_NUMBER_DIGITS} digits, got {len(text)}")
    whole, _, decimals = text.partition(".")
    return Rational(int((whole or "0") + decimals), 10 ** len(decimals))


def power(base: Expr, exponent: Expr) -> Expr:
    """`base ** exponent`, unevaluated; raises `ParseError` where its value would be too large to write down."""
    if exponent.is_number:
        size = abs(_approximate(exponent))
        if not base.is_number:
            if size > MAX_SYMBOLIC_EXPONENT:
                raise ParseError(f"an exponent of an unknown may be {MAX_SYMBOLIC_EXPONENT}, got {size:g}")
        elif size > 1 and size * abs(math.log10(abs(_approximate(base)) or 1.0)) > MAX_LOG10:
            raise ParseError(f"a power may have {MAX_LOG10:g} digits")
    return Pow(base, exponent, evaluate=False)


def _approximate(value: Expr) -> complex:
    """A float near `value`; raises `ParseError` where it has none."""
    try:
        return complex(value.evalf(5))
    except (TypeError, OverflowError, ValueError) as error:
        raise ParseError("a number is too large or undefined") from error


def _factorial(value: Expr) -> Expr:
    if not isinstance(value, Integer) or not 0 <= int(value) <= MAX_FACTORIAL:
        raise ParseError(f"a factorial may be of an integer up to {MAX_FACTORIAL}")
    return sympy.factorial(value, evaluate=False)


def _binomial(above: Expr, below: Expr) -> Expr:
    if not all(isinstance(value, Integer) and 0 <= int(value) <= MAX_FACTORIAL for value in (above, below)):
        raise ParseError(f"a binomial may be of integers up to {MAX_FACTORIAL}")
    return sympy.binomial(above, below, evaluate=False)
