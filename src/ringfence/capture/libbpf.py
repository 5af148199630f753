"""libbpf, through ctypes: opens an object file, relocates it to this kernel (CO-RE), loads it.

Only what it made is used afterwards, by `bpf`: an heir of a crashed process has no libbpf object, only pins.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

import numpy as np
from numpy.typing import NDArray

from ringfence.model.problems import Problem


class Object:
    """An object file in libbpf's hands: open, adjust, load, take descriptors, close."""

    def __init__(self, content: bytes, name: str) -> None:
        self._lib = library()
        self._name = name
        self._content = content
        handle = self._lib.bpf_object__open_mem(content, len(content), None)
        if not handle:
            raise Problem("kernel program cannot be read", name, os.strerror(ctypes.get_errno()))
        self._handle = ctypes.c_void_p(handle)

    def set_entries(self, map_name: str, entries: int) -> None:
        """How many entries a map will have."""
        self._lib.bpf_map__set_max_entries(self._map(map_name), entries)

    def variables(self, section: str) -> NDArray[np.uint8]:
        """The initial content of `.rodata` or `.bss`; writable until the object is loaded."""
        size = ctypes.c_size_t()
        address = self._lib.bpf_map__initial_value(self._map(section), ctypes.byref(size))
        pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))
        return np.ctypeslib.as_array(pointer, (size.value,))

    def load(self) -> None:
        """Create the maps and load the programs. Raises OSError with the kernel's errno."""
        result = self._lib.bpf_object__load(self._handle)
        if result:
            raise OSError(-result, f"{self._name}: {os.strerror(-result)}")

    def map(self, name: str) -> int:
        """A descriptor of ours for one map."""
        return os.dup(self._lib.bpf_map__fd(self._map(name)))

    def program(self, name: str) -> int:
        """A descriptor of ours for one program."""
        handle = self._lib.bpf_object__find_program_by_name(self._handle, name.encode())
        return os.dup(self._lib.bpf_program__fd(ctypes.c_void_p(handle)))

    def skip(self, name: str) -> None:
        """Leave a program out when loading: this kernel has not what it needs."""
        handle = self._lib.bpf_object__find_program_by_name(self._handle, name.encode())
        self._lib.bpf_program__set_autoload(ctypes.c_void_p(handle), ctypes.c_bool(False))

    def close(self) -> None:
        """Give libbpf's own memory and descriptors back."""
        if self._handle:
            self._lib.bpf_object__close(self._handle)
            self._handle = ctypes.c_void_p()

    def _map(self, name: str) -> ctypes.c_void_p:
        handle = self._lib.bpf_object__find_map_by_name(self._handle, name.encode())
        if not handle:
            raise Problem("kernel program has no such map", f"{self._name}: {name}", "rebuild the object")
        return ctypes.c_void_p(handle)


_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_SILENT = _PRINT(lambda level, text, arguments: 0)
_RESULTS = {
    "bpf_object__open_mem": ctypes.c_void_p,
    "bpf_object__find_map_by_name": ctypes.c_void_p,
    "bpf_object__find_program_by_name": ctypes.c_void_p,
    "bpf_map__initial_value": ctypes.c_void_p,
    "bpf_object__close": None,
    "ring_buffer__new": ctypes.c_void_p,
    "ring_buffer__free": None,
}


def library() -> ctypes.CDLL:
    """The library. Raises Problem when it is missing."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError:
        raise Problem(
            "libbpf is missing", "libbpf.so.1", "install it (Debian: apt-get install libbpf1)"
        ) from None
    for name, result in _RESULTS.items():
        getattr(lib, name).restype = result
    lib.bpf_object__open_mem.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
    lib.libbpf_set_print(_SILENT)
    with contextlib.suppress(AttributeError):
        lib.libbpf_set_strict_mode(0x1F)
    return lib
