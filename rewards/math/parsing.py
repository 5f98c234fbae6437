"""LaTeX and plain formulas to sympy, by recursive descent over our own tokens.

Nodes are built with `evaluate=False` under budgets of depth, size and magnitude. Model text never reaches `sympify`,
`parse_expr` or `eval`: each of them runs Python that hides in a formula.
"""

from __future__ import annotations

import re

import sympy
from sympy import Add, Expr, Integer, Mul, Pow, Rational, Symbol

from rewards.math.budgets import MAX_DEPTH, MAX_TOKENS, binomial, factorial, literal, power
from rewards.math.functions import CONSTANTS, GREEK, INVERSES, ROUNDED, UNARY
from rewards.math.tokens import DECORATIONS, FUNCTIONS, ParseError, Token, UnfinishedError

END = Token("end", "")

_ADD = ("+", "-")
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}
_DERIVATIVE = re.compile(r"\{?d(?:\^\{?\d+\}?)?[a-zA-Z]?\}?\{?d[a-zA-Z]")
"""The start of the arguments of `\\frac{d}{dx}`."""


class FormulaParser:
    """Reads one expression from tokens, from `position` on; containers are read by `rewards.math.answers`."""

    def __init__(self, tokens: list[Token]) -> None:
        if len(tokens) > MAX_TOKENS:
            raise ParseError(f"a formula may have {MAX_TOKENS} tokens, got {len(tokens)}")
        self.tokens = list(tokens)
        self.position = 0
        self.depth = 0
        self.open_bars = 0

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

    def expect(self, text: str, kind: str = "sign") -> None:
        """Consume this token or raise."""
        if self.next != Token(kind, text):
            raise ParseError(f"expected {text!r}, got {self.next.text!r}")
        self.take()

    def whole(self) -> Expr:
        """The expression that all tokens form."""
        expression = self.sum()
        if self.next is not END:
            raise ParseError(f"{self.next.text!r} does not continue a formula")
        return expression

    def sum(self) -> Expr:
        """Terms with + and - between them."""
        terms = [self._product()]
        while self.is_next(*_ADD):
            minus = self.take().text == "-"
            term = self._product()
            terms.append(Mul(Integer(-1), term, evaluate=False) if minus else term)
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
                if self._starts_factor() and not all(_is_literal(factor) for factor in factors):
                    raise ParseError("what stands behind a divisor may be above or below the line")
            elif self._starts_factor():
                self._append_implicit(factors)
            else:
                break
        return factors[0] if len(factors) == 1 else Mul(*factors, evaluate=False)

    def _append_implicit(self, factors: list[Expr]) -> None:
        """A factor without a sign; `1\\frac{1}{2}` and `1 1/2` are one and a half, other numbers in a row an error."""
        after_number = self.tokens[self.position - 1].kind == "number" and isinstance(factors[-1], Integer)
        if self.next.kind in ("number", "repeating"):
            part = self._plain_fraction() if after_number else None
            if part is None:
                raise ParseError("two numbers stand side by side")
        else:
            mixed = after_number and self.next == Token("command", "frac")
            part = self._power()
            if not (mixed and _is_proper(part)):
                factors.append(part)
                return
        part = Mul(Integer(-1), part, evaluate=False) if factors[-1].is_negative else part
        factors[-1] = Add(factors[-1], part, evaluate=False)

    def _plain_fraction(self) -> Expr | None:
        """The `1/2` of `3 1/2`."""
        above, slash, below = (self.tokens[self.position : self.position + 3] + [END] * 3)[:3]
        numbers = [above.text, below.text] if (above.kind, slash.text, below.kind) == ("number", "/", "number") else []
        if not numbers or not all(text.isdecimal() for text in numbers) or int(above.text) >= int(below.text):
            return None
        self.position += 3
        return Rational(int(above.text), int(below.text))

    def _starts_factor(self) -> bool:
        token = self.next
        if token.kind == "command":
            known = token.text in FUNCTIONS or token.text in CONSTANTS or token.text in ROUNDED
            return known or token.text == "frac" or token.text in GREEK or token.text in DECORATIONS
        if token.kind in ("number", "repeating", "letter", "roman"):
            return True
        return self.is_next("(", "{") or (self.is_next("|") and not self.open_bars)

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
        self._go_deeper()
        minus = self.is_next(*_ADD) and self.take().text == "-"
        exponent = self._power()
        self.depth -= 1
        return _negative(exponent) if minus else exponent

    def _go_deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ParseError(f"a formula may be nested {MAX_DEPTH} deep")

    def _postfix(self, value: Expr) -> Expr:
        while self.is_next("!", "%", "\u00b0") or self.next.kind == "scale":
            token = self.take()
            if token.text == "!":
                if self.is_next("!"):
                    raise ParseError("double factorials are not read")
                value = factorial(value)
                continue
            scale = Integer(int(token.text)) if token.kind == "scale" else Rational(1, 100)
            degree = Mul(sympy.pi, Rational(1, 180), evaluate=False)
            value = Mul(value, degree if token.text == "\u00b0" else scale, evaluate=False)
        return value

    def _atom(self) -> Expr:
        self._go_deeper()
        token = self.take()
        if token.kind in ("number", "repeating"):
            value = self._numeral(token.text)
        elif token.kind in ("letter", "roman"):
            value = self._symbol(token.text)
        elif token.kind == "command":
            value = self._command(token.text)
        elif token.kind == "sign" and token.text in _CLOSING:
            value = self._bracketed(token.text)
        else:
            raise ParseError(f"a formula does not continue with {token.text or 'its end'!r}")
        self.depth -= 1
        return value

    def _numeral(self, digits: str) -> Expr:
        """A number; one in another base, `204_5`, stands for itself."""
        if self.is_next("_"):
            self.take()
            return Symbol(f"{digits}_{self._subscript()}")
        return literal(digits)

    def _bracketed(self, opening: str) -> Expr:
        self.open_bars += opening == "|"
        inside = self.sum()
        self.open_bars -= opening == "|"
        self.expect(_CLOSING[opening])
        return sympy.Abs(inside, evaluate=False) if opening == "|" else inside

    def _symbol(self, name: str) -> Expr:
        constant = {"e": sympy.E, "i": sympy.I}.get(name)
        if self.is_next("_"):
            self.take()
            name, constant = f"{name}_{self._subscript()}", None
        while self.is_next("'"):
            name, constant = name + self.take().text, None
        if self._is_applied(name):
            return Symbol(f"{name}({self._atom()})")  # of whatever it is a function, `f(2x)` is not `2 f(x)`
        return Symbol(name) if constant is None else constant

    def _is_applied(self, name: str) -> bool:
        """Whether a letter is a function here rather than a factor; `P` and `E` are, of events."""
        if not self.is_next("("):
            return False
        inside = self.tokens[self.position + 1] if self.position + 1 < len(self.tokens) else END
        return name[0] in "fghFG" or (name in ("P", "E") and inside.kind == "letter" and inside.text.isupper())

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
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name == "frac":
            return self._fraction()
        if name == "binom":
            return binomial(self._argument(), self._argument())
        if name == "sqrt":
            return self._root()
        if name == "exp":
            return power(sympy.E, self._function_argument())
        if name in UNARY:
            return self._function(name)
        if name in ROUNDED:
            closing, function = ROUNDED[name]
            inside = self.sum()
            self.expect(closing, "command")
            return function(inside, evaluate=False)
        if name in GREEK:
            return self._symbol(name)
        if name in DECORATIONS:
            return self._decorated(DECORATIONS[name])
        raise ParseError(f"{name!r} is not known")

    def _decorated(self, sign: str) -> Expr:
        r"""An unknown of its own, whatever the sign above it means: `\overline{z+w}`, `\hat\theta`."""
        inside = self._atom()
        if inside.is_number:
            raise ParseError(f"a number under a {sign} is not read")
        return self._symbol(f"{sign} {inside}")

    def _fraction(self) -> Expr:
        if _DERIVATIVE.match("".join(token.text for token in self.tokens[self.position : self.position + 12])):
            raise UnfinishedError("a derivative is still to be worked out")
        above, below = self._argument(), self._argument()
        return Mul(above, Pow(below, Integer(-1), evaluate=False), evaluate=False)

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
        return power(self._argument(), Pow(index, Integer(-1), evaluate=False))

    def _function(self, name: str) -> Expr:
        function, exponent, base = UNARY[name], None, Integer(10) if name == "lg" else None
        if name == "log" and self.is_next("_"):
            self.take()
            base = self._argument()
        if self.is_next("^"):
            self.take()
            exponent = self._exponent() if self.is_next("-") else self._argument()
        if exponent == Integer(-1) and name in INVERSES:
            function, exponent = INVERSES[name], None
        value = function(self._function_argument(), evaluate=False)
        if base is not None:
            value = Mul(value, Pow(sympy.log(base, evaluate=False), Integer(-1), evaluate=False), evaluate=False)
        return value if exponent is None else power(value, exponent)

    def _function_argument(self) -> Expr:
        """A bracketed group, or the factors up to the next sign or function: `sin 2x cos y`."""
        if self.is_next("(", "{", "|"):
            return self._atom()
        factors = [self._signed()]
        while self._starts_factor() and self.next.text not in FUNCTIONS and not self.is_next("("):
            self._append_implicit(factors)
        return factors[0] if len(factors) == 1 else Mul(*factors, evaluate=False)


def _negative(value: Expr) -> Expr:
    if value is sympy.oo:
        return -sympy.oo
    return -value if isinstance(value, Rational) else Mul(Integer(-1), value, evaluate=False)


def _is_literal(factor: Expr) -> bool:
    """Whether a factor or divisor is a plain number: `1/2 x` is half of x, but `a/bc` may be either."""
    return isinstance(factor.base if isinstance(factor, Pow) else factor, Rational)


def _is_proper(part: Expr) -> bool:
    """Whether a fraction is one of plain integers below 1: `3\\frac{1}{2}`, and not `3\\frac{\\sqrt{2}}{2}`."""
    above, below = part.as_numer_denom()
    return isinstance(above, Integer) and isinstance(below, Integer) and above < below
