"""Timing one step."""

import pytest

from npukv.backends.base import CaptureFailed
from npukv.backends.cpu import Cpu
from npukv.bench.timing import Timer


def test_a_step_that_cannot_be_captured_is_called() -> None:
    class Refusing(Cpu):
        def capture(self, step):  # type: ignore[no-untyped-def]
            def replay() -> None:
                raise CaptureFailed("it waits for the host")

            return replay

    called: list[int] = []
    samples = Timer(Refusing(), 5)(lambda: called.append(1))
    assert len(samples.seconds) == len(called) == 5
    assert samples.uncaptured == "it waits for the host"
    captured = Timer(Cpu(), 5)(lambda: called.append(1))
    assert captured.uncaptured == ""


def test_other_errors_are_the_steps_own() -> None:
    with pytest.raises(ValueError, match="shape"):
        Timer(Cpu(), 2)(lambda: (_ for _ in ()).throw(ValueError("shape")))
