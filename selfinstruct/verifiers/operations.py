"""Operators and functions of an evaluated expression: each sees that its result is not too large before it makes it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from selfinstruct.verifiers.counting import BITS, DIGITS, Count, Once, Refused, limit

__all__ = ["BINARY", "COMPARE", "FUNCTIONS", "MATH", "unary"]

_NUMBER = (int, float)  # a bool is an int
_NUMERAL = 4_000  # characters of a text that int() reads


# --- operators: each sees that its result is not too large before it makes it ---


def _numbers(left: Any, right: Any) -> bool:
    return isinstance(left, _NUMBER) and isinstance(right, _NUMBER)


def _arithmetic(function: Callable[[Any, Any], Any]) -> Callable[[Count, Any, Any], Any]:
    def operation(run: Count, left: Any, right: Any) -> Any:
        if isinstance(left, set) and isinstance(right, set) and function in _OF_SETS:
            run.spend(run.weight(left) + run.weight(right))
            return function(left, right)
        if not _numbers(left, right):
            raise TypeError(f"unsupported operands: {type(left).__name__!r} and {type(right).__name__!r}")
        run.spend(run.weight(left) * run.weight(right) // 4)
        return function(left, right)

    return operation


_OF_SETS = (operator.sub, operator.and_, operator.or_, operator.xor)


def _add(run: Count, left: Any, right: Any) -> Any:
    if not _numbers(left, right):
        if type(left) is not type(right) or not isinstance(left, (str, list, tuple)):
            raise TypeError(f"unsupported operands: {type(left).__name__!r} and {type(right).__name__!r}")
        limit(len(left) + len(right))
    run.spend(run.weight(left) + run.weight(right))
    return left + right


def _multiply(run: Count, left: Any, right: Any) -> Any:
    if isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple)):
        many, times = (left, right) if isinstance(left, (str, list, tuple)) else (right, left)
        if not isinstance(times, int):
            raise TypeError(f"can't multiply by a {type(times).__name__!r}")
        limit(max(len(many), run.weight(many)) * max(times, 0))
        run.spend(len(many) * max(times, 0) // 16)
        return many * times
    return _arithmetic(operator.mul)(run, left, right)


def _power(run: Count, base: Any, exponent: Any, modulus: Any = None) -> Any:
    if not _numbers(base, exponent):
        raise TypeError(f"unsupported operands: {type(base).__name__!r} and {type(exponent).__name__!r}")
    if modulus is not None:
        if not all(isinstance(one, int) for one in (base, exponent, modulus)):
            raise TypeError("pow() with three arguments takes integers")
        run.spend((1 + exponent.bit_length()) * run.weight(modulus) ** 2 // 4)
        return pow(base, exponent, modulus)
    if isinstance(base, int) and isinstance(exponent, int):
        bits = abs(base).bit_length()
        if exponent > 0 and bits > 1 and (bits - 1) * exponent > BITS:
            raise Refused(f"an integer of more than {BITS:,} bits")
        run.spend((bits * max(exponent, 0) // 256) ** 2 // 4)
    return base**exponent


def _shift(function: Callable[[int, int], int]) -> Callable[[Count, Any, Any], Any]:
    def operation(run: Count, left: Any, right: Any) -> Any:
        if not (isinstance(left, int) and isinstance(right, int)):
            raise TypeError("only integers are shifted")
        if function is operator.lshift and left and left.bit_length() + right > BITS:
            raise Refused(f"an integer of more than {BITS:,} bits")
        run.spend(run.weight(left))
        return function(left, right)

    return operation


BINARY: dict[type, Callable[[Count, Any, Any], Any]] = {
    ast.Add: _add,
    ast.Sub: _arithmetic(operator.sub),
    ast.Mult: _multiply,
    ast.Div: _arithmetic(operator.truediv),
    ast.FloorDiv: _arithmetic(operator.floordiv),
    ast.Mod: _arithmetic(operator.mod),
    ast.Pow: _power,
    ast.LShift: _shift(operator.lshift),
    ast.RShift: _shift(operator.rshift),
    ast.BitAnd: _arithmetic(operator.and_),
    ast.BitOr: _arithmetic(operator.or_),
    ast.BitXor: _arithmetic(operator.xor),
}


def _within(one: Any, many: Any) -> bool:
    if isinstance(many, range) and not isinstance(one, int):  # Python would look at every number of it
        return isinstance(one, float) and one.is_integer() and int(one) in many
    return one in many


COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: _within, ast.NotIn: lambda one, many: not _within(one, many),
}  # fmt: skip


def unary(op: ast.unaryop, value: Any) -> Any:
    """A signed number, or an inverted one."""
    if not isinstance(value, _NUMBER) or (isinstance(op, ast.Invert) and not isinstance(value, int)):
        raise TypeError(f"bad operand type: {type(value).__name__!r}")
    if isinstance(op, ast.Invert):
        return ~int(value)
    return -value if isinstance(op, ast.USub) else +value


# --- functions ---


def _number(value: Any) -> Any:
    if not isinstance(value, _NUMBER):
        raise TypeError(f"a number is expected, not a {type(value).__name__!r}")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"an integer is expected, not a {type(value).__name__!r}")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Once):
        raise Refused("an iterator is not allowed here")
    return value


def _len(_: Count, value: Any, /) -> int:
    return len(_plain(value))


def _sum(run: Count, items: Any, /, start: Any = 0) -> Any:
    # From left to right, each step rounded: what Python's own sum() does with floats depends on its version.
    if isinstance(start, str):
        raise TypeError("sum() takes no strings")
    if isinstance(items, set) and not isinstance(start, _NUMBER):
        raise Refused("a set has no order: use sorted()")
    for one in run.items(items, ordered=False, sort=True):
        start = run.made(_add(run, start, one))
    return start


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(run: Count, *given: Any, **named: Any) -> Any:
        if not set(named) <= {"default"}:
            raise Refused("only default= is allowed here")
        if len(given) == 1:
            items = run.items(given[0], ordered=False, sort=True)
            run.spend(sum(run.weight(one) for one in items))
            return function(items, **named)
        return function(*map(_plain, given))

    return extreme


def _round(_: Count, number: Any, ndigits: Any = None) -> Any:
    if ndigits is not None and abs(_whole(ndigits)) > DIGITS:
        raise Refused(f"round() to more than {DIGITS} digits")
    return round(_number(number), ndigits)


def _sorted(run: Count, items: Any, /, *, reverse: Any = False) -> list[Any]:
    found = run.items(items, ordered=False, sort=True)
    run.spend(sum(run.weight(one) for one in found) * (1 + len(found).bit_length()))
    return sorted(found, reverse=bool(reverse))


def _range(_: Count, *bounds: Any) -> range:
    return range(*map(_whole, bounds))


def _int(_: Count, value: Any = 0, /, base: Any = None) -> int:
    if isinstance(value, str):
        if len(value) > _NUMERAL:
            raise Refused(f"a numeral of more than {_NUMERAL:,} characters")
        return int(value) if base is None else int(value, _whole(base))
    if base is not None:
        raise TypeError("int() takes a base with text only")
    return int(_number(value))


def _float(_: Count, value: Any = 0.0, /) -> float:
    return float(value if isinstance(value, str) else _number(value))


def _str(_: Count, value: Any = "", /) -> str:
    if not isinstance(value, (str, int, float, type(None))):
        raise Refused(f"str() of a {type(value).__name__} is not allowed")
    return str(value)


def _list(run: Count, items: Any = (), /) -> list[Any]:
    return run.items(items)


def _tuple(run: Count, items: Any = (), /) -> tuple[Any, ...]:
    return tuple(run.items(items))


def _set(run: Count, items: Any = (), /) -> set[Any]:
    found = run.items(items, ordered=False)
    run.keys(found)
    return set(found)


def _dict(run: Count, items: Any = (), /) -> dict[Any, Any]:
    if isinstance(items, dict):
        run.spend(len(items))
        return dict(items)
    pairs = [run.items(pair) for pair in run.items(items)]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("dict() takes pairs")
    run.keys([key for key, _ in pairs])
    return dict(pairs)


def _any(run: Count, items: Any, /) -> bool:
    return any(run.truth(one) for one in _each(run, items))


def _all(run: Count, items: Any, /) -> bool:
    return all(run.truth(one) for one in _each(run, items))


def _each(run: Count, items: Any) -> Any:
    """As ``run.items``, but one after the other: what is left out may have no value."""
    return items.items if isinstance(items, Once) else run.items(items, ordered=False)


def _zip(run: Count, *many: Any) -> Once:
    return Once([run.made(row) for row in zip(*[run.items(one) for one in many], strict=False)])


def _enumerate(run: Count, items: Any, start: Any = 0) -> Once:
    return Once([run.made(pair) for pair in enumerate(run.items(items), _whole(start))])


def _reversed(run: Count, items: Any, /) -> Once:
    if isinstance(items, Once):
        raise TypeError("an iterator can't be reversed")
    return Once(run.items(items)[::-1])


def _divmod(run: Count, left: Any, right: Any, /) -> tuple[Any, Any]:
    return BINARY[ast.FloorDiv](run, left, right), BINARY[ast.Mod](run, left, right)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda _, value, /: abs(_number(value)), "all": _all, "any": _any,
    "bool": lambda run, value=False, /: run.truth(value), "dict": _dict, "divmod": _divmod, "enumerate": _enumerate,
    "float": _float, "int": _int, "len": _len, "list": _list, "max": _extreme(max), "min": _extreme(min),
    "pow": lambda run, base, exp, mod=None: _power(run, base, exp, mod), "range": _range, "reversed": _reversed,
    "round": _round, "set": _set, "sorted": _sorted, "str": _str, "sum": _sum, "tuple": _tuple, "zip": _zip,
}  # fmt: skip


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(_: Count, *given: Any) -> Any:
        return function(*map(_number, given))

    return checked


def _factorial(run: Count, value: Any, /) -> int:
    if _whole(value) > BITS // 8:  # 1,250! has 11,000 bits
        raise Refused(f"an integer of more than {BITS:,} bits")
    run.spend(max(value, 0))
    return math.factorial(value)


def _comb(run: Count, n: Any, k: Any, /) -> int:
    _product(run, _whole(n), min(_whole(k), n - k))
    return math.comb(n, k)


def _perm(run: Count, n: Any, k: Any = None, /) -> int:
    _product(run, _whole(n), n if k is None else min(_whole(k), n))
    return math.perm(n, k)


def _product(run: Count, n: int, factors: int) -> None:
    """Refuse a product of so many factors up to n, if it could be too large."""
    if factors * n.bit_length() > 2 * BITS:
        raise Refused(f"an integer of more than {BITS:,} bits")
    run.spend(max(factors, 0))


def _folded(function: Callable[[int, int], int]) -> Callable[..., Any]:
    def folded(run: Count, *given: Any) -> int:
        found = function(*map(_whole, given[:1])) if given else function()  # type: ignore[call-arg]
        for one in given[1:]:
            run.spend(run.weight(found) * run.weight(one))
            found = run.made(function(found, _whole(one)))
        return found

    return folded


def _prod(run: Count, items: Any, /, *, start: Any = 1) -> Any:
    for one in run.items(items, ordered=False, sort=True):
        start = run.made(_multiply(run, _number(start), _number(one)))
    return start


def _fsum(run: Count, items: Any, /) -> float:
    return math.fsum(map(_number, run.items(items, ordered=False, sort=True)))


def _isclose(_: Count, left: Any, right: Any, /, *, rel_tol: Any = 1e-9, abs_tol: Any = 0.0) -> bool:
    return math.isclose(*map(_number, (left, right)), rel_tol=_number(rel_tol), abs_tol=_number(abs_tol))


_PLAIN = (
    math.acos, math.asin, math.atan, math.atan2, math.ceil, math.copysign, math.cos, math.cosh, math.degrees, math.exp,
    math.fabs, math.floor, math.fmod, math.hypot, math.isfinite, math.isinf, math.isqrt, math.log, math.log10,
    math.log2, math.pow, math.radians, math.sin, math.sinh, math.sqrt, math.tan, math.tanh, math.trunc,
)  # fmt: skip

MATH: dict[str, Any] = {
    **{one.__name__: _of_numbers(one) for one in _PLAIN},
    "comb": _comb, "factorial": _factorial, "fsum": _fsum, "gcd": _folded(math.gcd), "isclose": _isclose,
    "lcm": _folded(math.lcm), "perm": _perm, "prod": _prod,
    "e": math.e, "inf": math.inf, "pi": math.pi, "tau": math.tau,
}  # fmt: skip
