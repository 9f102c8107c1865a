"""Define an operator once: schema, reference, shapes, and the kernels that serve it per type of device.

An operator is a torch custom operator (`torch.ops.npukv.<name>`), so that it traces, compiles and can be tested with
`torch.library.opcheck`. A call goes to the first kernel registered for the tensors' device whose check accepts the
arguments, else to the reference, which is plain torch and runs on every device.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch

NAMESPACE = "npukv"
REFERENCE = "reference"

Check = Callable[..., tuple[bool, str]]

_log = logging.getLogger("npukv")
_operators: dict[str, Operator] = globals().get("_operators", {})  # survives a reload of this module
_refused: set[tuple[str, str, str, str]] = set()
_strict: ContextVar[bool] = ContextVar("npukv_strict", default=False)


class OperatorError(RuntimeError):
    """An operator is unknown or defined wrongly, or strict mode forbids falling back to its reference."""


@dataclass(frozen=True)
class Kernel:
    """One way to compute an operator on one type of device."""

    name: str
    run: Callable[..., Any]
    check: Check


@dataclass(frozen=True)
class Choice:
    """Whether a kernel can serve some arguments, why (not), and whether it is the one that does."""

    kernel: str
    ok: bool
    reason: str
    chosen: bool


class Operator:
    """What `define` returns: call it like a function; `kernel` registers tuned versions."""

    def __init__(self, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
        parsed = torch._C.parse_schema(schema)
        namespace, _, self.name = parsed.name.rpartition("::")
        if namespace not in ("", NAMESPACE):
            raise OperatorError(f"got namespace {namespace!r} in {schema!r}, expected {NAMESPACE!r}")
        self.schema = parsed
        self.reference = reference
        self.kernels: dict[str, list[Kernel]] = {}
        self._names = [argument.name for argument in parsed.arguments]
        self._defaults = {a.name: a.default_value for a in parsed.arguments if a.has_default_value()}
        self._same_arguments(reference)
        self._same_arguments(fake)
        qualified = f"{NAMESPACE}::{self.name}"
        self._library = torch.library.Library(NAMESPACE, "FRAGMENT")
        self._library.define(schema.removeprefix(f"{NAMESPACE}::"), tags=(torch.Tag.pt2_compliant_tag,))
        self._library.impl(self.name, self._dispatch, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, fake, lib=self._library)
        self.overload = getattr(getattr(torch.ops, NAMESPACE), self.name).default

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.overload(*args, **kwargs)

    def kernel(
        self, device_type: str, name: str, check: Check | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a function of the operator's own arguments for tensors on one type of device.

        Args:
            device_type: as `torch.device.type` spells it. Kernels of one type are tried in the order registered.
            name: what `explain` calls it.
            check: takes the arguments, says (ok, reason); None = serves everything. Arguments at the end that equal
                the schema's defaults are not passed, so it needs the same defaults, or `*args`.
        """

        def register(run: Callable[..., Any]) -> Callable[..., Any]:
            self._same_arguments(run)
            self.kernels.setdefault(device_type, []).append(Kernel(name, run, check or _serves_everything))
            return run

        return register

    def kernel_by_name(
        self, device_type: str, name: str, check: Callable[[Any], tuple[bool, str]] | None = None
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
        """As `kernel`, for a function, and a check, of one thing that has all the operator's arguments by name."""

        def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
            @wraps(self.reference)
            def run(*args: Any, **kwargs: Any) -> Any:
                return function(self.arguments(args, kwargs))

            def checked(*args: Any, **kwargs: Any) -> tuple[bool, str]:
                return check(self.arguments(args, kwargs)) if check else _serves_everything()

            run.by_name = function  # type: ignore[attr-defined]
            self.kernel(device_type, name, checked)(run)
            return function

        return register

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> SimpleNamespace:
        """A call's arguments by name, defaults included."""
        return SimpleNamespace(**{**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs})

    def explain(self, *args: Any, **kwargs: Any) -> list[Choice]:
        """Every kernel for these arguments' device in the order tried, the reference last."""
        choices: list[Choice] = []
        for kernel in self.kernels.get(_device_type(args, kwargs), ()):
            ok, reason = kernel.check(*args, **kwargs)
            choices.append(Choice(kernel.name, ok, reason, ok and not any(choice.ok for choice in choices)))
        taken = any(choice.chosen for choice in choices)
        return [*choices, Choice(REFERENCE, True, "plain torch runs on every device", not taken)]

    def _dispatch(self, *args: Any, **kwargs: Any) -> Any:
        device_type = _device_type(args, kwargs)
        for kernel in self.kernels.get(device_type, ()):
            ok, reason = kernel.check(*args, **kwargs)
            if ok:
                return kernel.run(*args, **kwargs)
            _note_refusal(self.name, device_type, kernel.name, reason)
        if device_type in self.kernels and (_strict.get() or os.environ.get("NPUKV_STRICT") == "1"):
            refusals = "; ".join(
                f"{choice.kernel}: {choice.reason}" for choice in self.explain(*args, **kwargs) if not choice.ok
            )
            raise OperatorError(
                f"{self.name}: no tuned kernel for {device_type} takes these arguments ({refusals}), and strict mode "
                "forbids the reference: change the arguments, or leave strict mode (NPUKV_STRICT)"
            )
        return self.reference(*args, **kwargs)

    def _same_arguments(self, function: Callable[..., Any]) -> None:
        """torch drops trailing arguments that equal the schema's defaults: a function must know the same ones."""
        expected = [
            (a.name, a.default_value if a.has_default_value() else inspect.Parameter.empty)
            for a in self.schema.arguments
        ]
        got = [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
        if got != expected:
            raise OperatorError(
                f"{self.name}: {function.__qualname__} takes {got}, expected the schema's arguments and defaults "
                f"{expected}"
            )


def define(schema: str, *, reference: Callable[..., Any], fake: Callable[..., Any]) -> Operator:
    """Define an operator; defining a name again replaces it, its kernels included.

    Args:
        schema: as torch writes it, e.g. "npukv::hamming_scores(Tensor query_codes, Tensor key_codes) -> Tensor".
            An argument that the operator writes to is Tensor(a!).
        reference: plain torch, any device: the specification.
        fake: new, uninitialised tensors of the outputs' shapes and types.
    """
    name = torch._C.parse_schema(schema).name.rpartition("::")[2]
    if name in _operators:
        _operators.pop(name)._library._destroy()
    operator = Operator(schema, reference, fake)
    _operators[operator.name] = operator
    return operator


def explain(name: str, *args: Any, **kwargs: Any) -> list[Choice]:
    """Which kernel of an operator serves these arguments, and why; see `Operator.explain`."""
    if name not in _operators:
        raise OperatorError(f"got operator {name!r}, expected one of: {', '.join(sorted(_operators))}")
    return _operators[name].explain(*args, **kwargs)


def operators() -> dict[str, dict[str, list[str]]]:
    """{operator: {device type: kernels in the order tried}}; the reference serves every device and is not listed."""
    return {
        name: {device: [kernel.name for kernel in kernels] for device, kernels in operator.kernels.items()}
        for name, operator in sorted(_operators.items())
    }


@contextmanager
def strict() -> Iterator[None]:
    """Within, falling back to a reference where the device has a tuned kernel raises OperatorError."""
    token = _strict.set(True)
    try:
        yield
    finally:
        _strict.reset(token)


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """That of the first tensor, also inside a list."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            return value.device.type
        if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
            return value[0].device.type
    return "cpu"


def _serves_everything(*args: Any, **kwargs: Any) -> tuple[bool, str]:
    return True, "serves all shapes and types"


def _note_refusal(operator: str, device_type: str, kernel: str, reason: str) -> None:
    refusal = (operator, device_type, kernel, reason)
    if refusal not in _refused:
        _refused.add(refusal)
        _log.warning("%s on %s: the %s kernel cannot serve: %s", *refusal)
