"""Operators: what is computed. Each family has a plain-torch reference and tuned versions per device."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules


def operators() -> dict[str, dict[str, list[str]]]:
    """All operators of all families with the kernels registered for each type of device; see `registry.operators`."""
    from npukv.ops import registry

    for family in iter_modules(__path__, f"{__name__}."):
        if family.ispkg:
            import_module(family.name)
    return registry.operators()
