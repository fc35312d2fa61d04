"""The value of a Python expression that a model wrote, without running any of it.

The expression is parsed and its tree walked here: literals, arithmetic, comparisons, boolean logic, subscripts,
containers, comprehensions and the functions of ``operations.py`` exist, nothing else does. There are no attributes (but
of ``math``), so that there is no way from a value to what made it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from selfinstruct.verifiers.counting import CHARS, DEPTH, NODES, SHOWN, Count, Once, Refused
from selfinstruct.verifiers.operations import BINARY, COMPARE, FUNCTIONS, MATH, unary

__all__ = ["evaluate"]


def evaluate(source: str) -> Any:
    """The value: None, a bool, an int, a float, a string, or a list, tuple, set, dict or range of such.

    Raises:
        Refused: It has none, or is no expression, or one of more than is allowed here.
    """
    tree = _tree(source)
    try:
        value = _Evaluator().value(tree.body, {})
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise Refused(f"{type(error).__name__}: {str(error)[:SHOWN]}") from None
    if isinstance(value, Once):
        raise Refused("it gives an iterator, not a value")
    return value


def _tree(source: str) -> ast.Expression:
    """The tree of an expression, nothing in it that is not known here."""
    if len(source) > CHARS:
        raise Refused(f"it has {len(source):,} characters, more than {CHARS:,}")
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, OverflowError):
        raise Refused("no Python expression") from None
    except (RecursionError, MemoryError):  # the parser's own stack
        raise Refused(f"nested deeper than {DEPTH} levels") from None
    level: list[ast.AST] = [tree.body]
    nodes = 0
    for _ in range(DEPTH):
        nodes += len(level)
        if nodes > NODES:
            raise Refused(f"it has more than {NODES:,} parts")
        for node in level:
            _admit(node)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise Refused(f"nested deeper than {DEPTH} levels")


_KNOWN = (
    ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Tuple, ast.Set, ast.Dict,
    ast.Subscript, ast.Slice, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension, ast.Name,
    ast.Call, ast.keyword, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def _admit(node: ast.AST) -> None:
    if isinstance(node, ast.Attribute):
        if not (isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in MATH):
            raise Refused(f"the attribute {node.attr[:SHOWN]!r} is not allowed")
    elif not isinstance(node, _KNOWN) or isinstance(node, ast.MatMult):
        raise Refused(f"{type(node).__name__} is not allowed")
    elif isinstance(node, ast.Constant) and type(node.value) not in (bool, int, float, str, type(None)):
        raise Refused(f"a {type(node.value).__name__} is not allowed")
    elif isinstance(node, ast.comprehension) and node.is_async:
        raise Refused("async is not allowed")
    elif None in ([one.arg for one in node.keywords] if isinstance(node, ast.Call) else getattr(node, "keys", ())):
        raise Refused("** is not allowed")


_Names = dict[str, Any]


class _Evaluator(Count):
    """One evaluation: a method for each kind of node."""

    def value(self, node: ast.AST, names: _Names) -> Any:
        """The value of a node, where some names are bound by comprehensions around it."""
        self.spend(0)
        if type(node) not in _NODES:
            raise Refused(f"{type(node).__name__} is not allowed here")
        return _NODES[type(node)](self, node, names)

    def constant(self, node: Any, _: _Names) -> Any:
        return self.made(node.value)

    def name(self, node: Any, names: _Names) -> Any:
        if node.id not in names:
            raise Refused(f"the name {node.id[:SHOWN]!r} is not known")
        return names[node.id]

    def attribute(self, node: Any, names: _Names) -> Any:
        found = MATH[node.attr]
        if "math" in names or callable(found):
            raise Refused(f"math.{node.attr} is not allowed here")
        return found

    def binary(self, node: Any, names: _Names) -> Any:
        left, right = self.value(node.left, names), self.value(node.right, names)
        return self.made(BINARY[type(node.op)](self, left, right))

    def unary(self, node: Any, names: _Names) -> Any:
        value = self.value(node.operand, names)
        if isinstance(node.op, ast.Not):
            return not self.truth(value)
        return self.made(unary(node.op, value))

    def boolean(self, node: Any, names: _Names) -> Any:
        stop = isinstance(node.op, ast.Or)
        for one in node.values:
            found = self.value(one, names)
            if self.truth(found) is stop:
                return found
        return found

    def comparison(self, node: Any, names: _Names) -> bool:
        left = self.value(node.left, names)
        for op, other in zip(node.ops, node.comparators, strict=True):
            right = self.value(other, names)
            if not self.compared(op, left, right):
                return False
            left = right
        return True

    def compared(self, op: ast.cmpop, left: Any, right: Any) -> bool:
        if isinstance(left, Once) or isinstance(right, Once):
            raise Refused("an iterator is not allowed here")
        self.spend(self.weight(left) + self.weight(right))
        singletons = [one for one in (left, right) if one is None or isinstance(one, bool)]
        if isinstance(op, (ast.Is, ast.IsNot)) and not singletons:
            raise Refused("'is' compares with None, True and False only")
        return bool(COMPARE[type(op)](left, right))

    def choice(self, node: Any, names: _Names) -> Any:
        return self.value(node.body if self.truth(self.value(node.test, names)) else node.orelse, names)

    def sequence(self, node: Any, names: _Names) -> Any:
        found = [self.value(one, names) for one in node.elts]
        if any(isinstance(one, Once) for one in found):
            raise Refused("an iterator is not allowed here")
        if isinstance(node, ast.Set):
            return self.of_set(found)
        return self.made(tuple(found) if isinstance(node, ast.Tuple) else found)

    def dictionary(self, node: Any, names: _Names) -> Any:
        both = zip(node.keys, node.values, strict=True)
        return self.of_pairs([(self.value(key, names), self.value(one, names)) for key, one in both])

    def of_pairs(self, pairs: list[Any]) -> Any:
        if any(isinstance(one, Once) for pair in pairs for one in pair):
            raise Refused("an iterator is not allowed here")
        self.keys([key for key, _ in pairs])
        return self.made(dict(pairs))

    def of_set(self, items: list[Any]) -> Any:
        self.keys(items)
        return self.made(set(items))

    def part(self, node: Any, names: _Names) -> Any:
        value = self.value(node.value, names)
        if not isinstance(value, (str, list, tuple, dict, range)):
            raise TypeError(f"{type(value).__name__!r} object has no items to choose from")
        if isinstance(node.slice, ast.Slice):
            given = (node.slice.lower, node.slice.upper, node.slice.step)
            return self.made(value[slice(*[None if one is None else self.value(one, names) for one in given])])
        key = self.value(node.slice, names)
        if isinstance(key, Once):
            raise Refused("an iterator is not allowed here")
        self.spend(self.weight(key) + (len(value) // 16 if isinstance(value, dict) else 0))
        return value[key]

    # --- comprehensions ---

    def list_comprehension(self, node: Any, names: _Names) -> Any:
        return self.made(self.taken(self.rounds(node.elt, node.generators, names)))

    def set_comprehension(self, node: Any, names: _Names) -> Any:
        return self.of_set(self.taken(self.rounds(node.elt, node.generators, names)))

    def dict_comprehension(self, node: Any, names: _Names) -> Any:
        pair = ast.Tuple([node.key, node.value], ast.Load())
        return self.of_pairs(self.taken(self.rounds(pair, node.generators, names)))

    def generator(self, node: Any, names: _Names) -> Any:
        return Once(self.rounds(node.elt, node.generators, names))

    def rounds(self, wanted: ast.AST, loops: list[ast.comprehension], names: _Names) -> Iterator[Any]:
        """The values of an expression for each round of loops within loops."""
        if not loops:
            found = self.value(wanted, names)
            if isinstance(found, Once):
                raise Refused("an iterator is not allowed here")
            yield found
            return
        loop, *inner = loops
        given = self.value(loop.iter, names)
        # A range may be left early; anything else is there already.
        for one in given if isinstance(given, range) else self.items(given):
            self.spend(1)
            bound = dict(names)
            self.bind(loop.target, one, bound)
            if all(self.truth(self.value(test, bound)) for test in loop.ifs):
                yield from self.rounds(wanted, inner, bound)

    def bind(self, target: ast.AST, value: Any, names: _Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = self.items(value)
            if len(values) != len(target.elts):
                raise ValueError(f"{len(values)} values for {len(target.elts)} names")
            for one, part in zip(target.elts, values, strict=True):
                self.bind(one, part, names)
        else:
            raise Refused("a loop binds names only")

    # --- functions ---

    def call(self, node: Any, names: _Names) -> Any:
        function: Callable[..., Any] | None = None
        if isinstance(node.func, ast.Name) and node.func.id not in names:
            function = FUNCTIONS.get(node.func.id)
        elif isinstance(node.func, ast.Attribute) and "math" not in names:
            found = MATH[node.func.attr]
            function = found if callable(found) else None
        if function is None:
            raise Refused(f"{ast.unparse(node.func)[:SHOWN]} is no function that is allowed")
        given = [self.value(one, names) for one in node.args]
        named = {one.arg: self.value(one.value, names) for one in node.keywords}
        self.spend(sum(self.weight(one) for one in given))
        return self.made(function(self, *given, **named))


_NODES: dict[type, Callable[[_Evaluator, Any, _Names], Any]] = {
    ast.Constant: _Evaluator.constant, ast.Name: _Evaluator.name, ast.Attribute: _Evaluator.attribute,
    ast.BinOp: _Evaluator.binary, ast.UnaryOp: _Evaluator.unary, ast.BoolOp: _Evaluator.boolean,
    ast.Compare: _Evaluator.comparison, ast.IfExp: _Evaluator.choice, ast.List: _Evaluator.sequence,
    ast.Tuple: _Evaluator.sequence, ast.Set: _Evaluator.sequence, ast.Dict: _Evaluator.dictionary,
    ast.Subscript: _Evaluator.part, ast.ListComp: _Evaluator.list_comprehension,
    ast.SetComp: _Evaluator.set_comprehension, ast.DictComp: _Evaluator.dict_comprehension,
    ast.GeneratorExp: _Evaluator.generator, ast.Call: _Evaluator.call,
}  # fmt: skip
