"""What stands in for torch.npu: only what npukv uses, with torch_npu's signatures (compared with the contract)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from tests.ascend.simulated.build import library

#: What a card says it is. Not a real one's name: nothing measured here is of a real card.
NAME = "Simulated Ascend"
#: Bytes of a card without a limit of its own.
CAPACITY = 8 << 30
#: Cube cores it says it has; twice as many vector cores, as on arch 2201. No card has so few.
CORES = 3

_c = ctypes.PyDLL(str(library()))
for _name, _result, _arguments in (
    ("npu_live", ctypes.c_int64, [ctypes.c_int]),
    ("npu_peak", ctypes.c_int64, [ctypes.c_int]),
    ("npu_limit", ctypes.c_int64, [ctypes.c_int]),
    ("npu_set_limit", None, [ctypes.c_int, ctypes.c_int64]),
    ("npu_list", ctypes.c_char_p, [ctypes.c_char_p]),
    ("npu_calls", ctypes.c_char_p, []),
    ("npu_capture_begin", None, [ctypes.c_int64]),
    ("npu_replay", ctypes.c_char_p, [ctypes.c_int64]),
    ("npu_drop", None, [ctypes.c_int64]),
    ("npu_pause", ctypes.c_void_p, []),
    ("npu_resume", None, [ctypes.c_void_p]),
    ("npu_record", None, [ctypes.c_void_p]),
):
    getattr(_c, _name).restype = _result
    getattr(_c, _name).argtypes = _arguments

_Callback = ctypes.CFUNCTYPE(None)


def list_kernels(names: list[str]) -> None:
    """The aten operators that have a kernel; all others are errors."""
    for name in names:
        error = _c.npu_list(name.encode())
        if error is not None:
            raise RuntimeError(f"{name}: {error.decode()}")


def set_limit(bytes_: int | None, device: int = 0) -> None:
    """Memory of a card; None = no limit."""
    _c.npu_set_limit(device, -1 if bytes_ is None else bytes_)


def operator_calls() -> dict[str, int]:
    """How often each aten operator has run."""
    lines = _c.npu_calls().decode().splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def record(work: Callable[[], None]) -> None:
    """Make Python's own work part of the graph being captured; nothing where none is."""
    if not is_current_stream_capturing():
        return
    graph = NPUGraph._capturing

    def run() -> None:
        try:
            work()
        except Exception as error:  # C++ would swallow it
            graph._errors.append(error)

    callback = _Callback(run)
    graph._callbacks.append(callback)
    _c.npu_record(ctypes.cast(callback, ctypes.c_void_p))


@contextmanager
def unrecorded() -> Iterator[None]:
    """What happens within is neither recorded nor refused."""
    graph = _c.npu_pause()
    try:
        yield
    finally:
        _c.npu_resume(graph)


# ---- torch.npu: names and signatures of torch_npu ------------------------------------------------------------------


def is_available():
    return True


def is_initialized():
    return True


def device_count():
    return _cards


def current_device():
    return _c.npu_current()


def set_device(device):
    _c.npu_set_current(_index(device))


def get_device_name(device_name=None):
    return NAME


def is_bf16_supported(including_emulation=False):
    return True


def mem_get_info(device=None):
    limit = _c.npu_limit(_index(device))
    total = CAPACITY if limit < 0 else limit
    return total - memory_allocated(device), total


def memory_allocated(device=None):
    return _c.npu_live(_index(device))


def memory_reserved(device=None):
    return memory_allocated(device)  # nothing is kept back


def max_memory_allocated(device=None):
    return _c.npu_peak(_index(device))


def reset_peak_memory_stats(device=None):
    _c.npu_reset_peak(_index(device))


def empty_cache():
    pass


def synchronize(device=None):
    if is_current_stream_capturing():
        raise RuntimeError("synchronize is not permitted while a graph is captured on the NPU")


def manual_seed(seed):
    torch.default_generator.manual_seed(seed)


def manual_seed_all(seed):
    manual_seed(seed)  # all cards draw from the host's generator


def get_device_limit(device):
    return {"cube_core_num": CORES, "vector_core_num": 2 * CORES}


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16]


class Stream:
    """Work runs at once, whatever the stream: what is left is the bookkeeping."""

    def __new__(cls, device=None, priority=0, **kwargs):
        return super().__new__(cls)

    def wait_event(self, event):
        pass

    def wait_stream(self, stream):
        if not isinstance(stream, Stream):
            raise TypeError(f"got {type(stream).__name__}, expected a Stream")

    def record_event(self, event=None):
        return Event() if event is None else event

    def query(self):
        return True

    def synchronize(self):
        synchronize()


class Event:
    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        made = super().__new__(cls)
        made._recorded = False
        return made

    def record(self, stream=None):
        self._recorded = True

    def wait(self, stream=None):
        pass

    def query(self):
        return True

    def synchronize(self):
        if not self._recorded:
            raise RuntimeError("the event was never recorded")


_default_stream = Stream()
_stream = _default_stream


def current_stream(device=None):
    return _stream


def default_stream(device=None):
    return _default_stream


@contextmanager
def stream(stream):
    global _stream
    before, _stream = _stream, stream
    try:
        yield
    finally:
        _stream = before


def is_current_stream_capturing():
    return bool(_c.npu_is_capturing())


class NPUGraph:
    """Records the operators between capture_begin and capture_end; replay runs them on the same tensors."""

    _made = 0
    _capturing: Any = None

    def __new__(cls):
        return super().__new__(cls)

    def __init__(self):
        NPUGraph._made += 1
        self._number = NPUGraph._made
        self._callbacks: list[Any] = []
        self._errors: list[Exception] = []

    def capture_begin(self, pool=None, capture_error_mode="global"):
        if _stream is _default_stream:
            raise RuntimeError("a graph cannot be captured on the default stream of the NPU")
        if is_current_stream_capturing():
            raise RuntimeError("a graph is being captured on the NPU already")
        NPUGraph._capturing = self
        _c.npu_capture_begin(self._number)

    def capture_end(self):
        _c.npu_capture_end()
        NPUGraph._capturing = None

    def replay(self):
        error = _c.npu_replay(self._number)
        if error is not None:
            raise RuntimeError(error.decode())
        if self._errors:
            raise self._errors.pop()

    def reset(self):
        _c.npu_drop(self._number)

    def pool(self):
        return (0, 0)

    def __del__(self):
        _c.npu_drop(self._number)


class graph:
    def __init__(self, npu_graph, pool=None, stream=None, auto_dispatch_capture=False, capture_error_mode="global"):
        self._graph, self._pool, self._mode = npu_graph, pool, capture_error_mode
        self._context = globals()["stream"](Stream() if stream is None else stream)

    def __enter__(self):
        synchronize()
        self._context.__enter__()
        self._graph.capture_begin(self._pool, self._mode)

    def __exit__(self, *error):
        self._graph.capture_end()
        self._context.__exit__(*error)


#: What of this file is torch.npu's.
PUBLIC = (
    "is_available",
    "is_initialized",
    "device_count",
    "current_device",
    "set_device",
    "get_device_name",
    "is_bf16_supported",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "max_memory_allocated",
    "reset_peak_memory_stats",
    "empty_cache",
    "synchronize",
    "manual_seed",
    "manual_seed_all",
    "get_device_limit",
    "get_amp_supported_dtype",
    "Stream",
    "Event",
    "current_stream",
    "default_stream",
    "stream",
    "is_current_stream_capturing",
    "NPUGraph",
    "graph",
)

_cards = 1


def module(cards: int) -> ModuleType:
    """torch.npu; any other name is an AttributeError."""
    global _cards
    _cards = cards
    _c.npu_init(cards)
    made = ModuleType("torch.npu")
    for name in PUBLIC:
        setattr(made, name, globals()[name])
    made._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]
    made._lazy_init = lambda: None  # type: ignore[attr-defined]
    return made


def _index(device: Any) -> int:
    if device is None:
        return current_device()
    index = device if isinstance(device, int) else torch.device(device).index
    index = current_device() if index is None else index
    if not 0 <= index < _cards:
        raise AssertionError("Invalid device id")
    return index
