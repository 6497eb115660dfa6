"""Python's own parser on foreign text: never runs it, never raises, never warns."""

from __future__ import annotations

import ast
import warnings


def parse_python(code: str) -> ast.Module | None:
    """The syntax tree, or None for text that is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in generated code is no concern of our log
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # NUL bytes; nesting that no parser takes
            return None


def first_fault(code: str) -> int | None:
    """The 1-based line where the text stops being Python; None if it parses; 1 where no line can be named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(code)
        except SyntaxError as error:
            return error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 1
    return None


def is_python(code: str) -> bool:
    """Whether the text parses."""
    return parse_python(code) is not None
