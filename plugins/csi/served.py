"""What is not advertised is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from plugins.core.errors import Unimplemented

T = TypeVar("T", bound=type)


def only_own_methods(servicer: T) -> T:
    """Let every method of the generated class that a servicer neither has nor inherits answer UNIMPLEMENTED."""
    generated = next(cls for cls in servicer.__mro__ if cls.__name__.endswith("Servicer"))
    for name, method in vars(generated).items():
        if callable(method) and not name.startswith("_") and getattr(servicer, name) is method:
            setattr(servicer, name, _refusal(name))
    return servicer


def _refusal(name: str) -> Callable[[Any, Any, Any], NoReturn]:
    def refuse(self: Any, request: Any, context: Any) -> NoReturn:
        raise Unimplemented(f"{name} is not served by this driver")

    return refuse
