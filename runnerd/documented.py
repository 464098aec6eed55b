"""The docstrings under the fields of a class, from its source: Python itself does not keep them."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from types import ModuleType


@cache
def documented(type_: type) -> Mapping[str, str]:
    """What stands under each of the class's own fields, in one line; nothing where there is no source."""
    module = sys.modules.get(type_.__module__)
    class_ = _classes(module).get(type_.__name__) if module else None
    return dict(_fields(class_)) if class_ else {}


@cache
def _classes(module: ModuleType) -> Mapping[str, ast.ClassDef]:
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # no source, as for a module that was made at run time
        return {}
    return {node.name: node for node in reversed([*ast.walk(tree)]) if isinstance(node, ast.ClassDef)}  # of two of a name, the outer one


def _fields(class_: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, below in pairwise(class_.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                yield node.target.id, " ".join(text.split())
