"""Errors a user can act on. Every message says what was got, what was expected, and what to do."""


class NpukvError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""


class InputError(NpukvError, ValueError):
    """The text, the question or an option cannot be used as given. Raised before work starts."""


class ModelError(NpukvError, ValueError):
    """The model or its tokenizer cannot be loaded, or gave numbers that cannot be used."""


class DeviceError(NpukvError, RuntimeError):
    """The device asked for is unknown or not usable on this machine."""


class RunError(NpukvError, RuntimeError):
    """A run directory cannot be written, or belongs to another run."""
