"""A filter as people write it (pcap-filter(7)) into instructions the kernel runs, by libpcap or by tcpdump."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import threading

from ringfence.model.problems import Problem

LIBRARIES = ("libpcap.so.1", "libpcap.so.0.8", "libpcap.so")
LONGEST = 4096
"""Octets of a filter's text, and instructions the kernel takes (BPF_MAXINSNS)."""
SNAPLEN = 262_144
INSTRUCTION = struct.Struct("=HBBI")
"""struct sock_filter (linux/filter.h): code, jt, jf, k."""
NOTHING = INSTRUCTION.pack(0x06, 0, 0, 0)
"""`ret #0`: keeps no packet."""
_NAMES = {1: "EN10MB", 101: "RAW"}
_SECONDS = 10.0
_lock = threading.Lock()


class NoCompiler(Problem):
    """Nothing here can compile a filter."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def compiled(text: str, link: int, library: str | None = None) -> bytes:
    """sock_filter instructions of a filter for a link type (LINKTYPE_*). Raises Problem.

    `library` is a path of libpcap; by default it is looked for, and tcpdump is asked where it is not there.
    """
    if len(text.encode()) > LONGEST or "\0" in text:
        raise Problem("this filter is too long", "the filter", f"use {LONGEST} octets at most, without NUL")
    for name in LIBRARIES if library is None else (library,):
        try:
            return _by_library(ctypes.CDLL(name), text, link)
        except OSError:
            continue
    return _by_tcpdump(text, link)


def _by_library(pcap: ctypes.CDLL, text: str, link: int) -> bytes:
    pcap.pcap_open_dead.restype = ctypes.c_void_p
    pcap.pcap_geterr.restype = ctypes.c_char_p
    pcap.pcap_geterr.argtypes = pcap.pcap_close.argtypes = (ctypes.c_void_p,)
    pcap.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    )
    program = _Program()
    # Before 1.8 libpcap's compiler was not for several threads.
    with _lock:
        # DLT_RAW is 12 on Linux; LINKTYPE_ETHERNET is DLT_EN10MB.
        handle = pcap.pcap_open_dead(12 if link == 101 else link, SNAPLEN)
        try:
            if pcap.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, 0xFFFFFFFF):
                raise _bad(text, (pcap.pcap_geterr(handle) or b"").decode(errors="replace"))
            octets = ctypes.string_at(program.instructions or 0, program.length * INSTRUCTION.size)
            pcap.pcap_freecode(ctypes.byref(program))
        finally:
            pcap.pcap_close(handle)
    return octets


def _by_tcpdump(text: str, link: int) -> bytes:
    tcpdump = shutil.which("tcpdump")
    if tcpdump is None:
        raise NoCompiler(
            "cannot compile a filter", "neither libpcap nor tcpdump is here", "install one, or give no filter"
        )
    argv = [tcpdump, "-ddd", "-y", _NAMES[link], "-s", str(SNAPLEN), "--", text]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Problem(
            "cannot compile a filter", f"tcpdump: {error}", "try again, or give no filter"
        ) from None
    if done.returncode:
        words = (done.stderr.strip().splitlines() or [""])[-1]
        raise _bad(text, words.removeprefix("tcpdump: "))
    lines = done.stdout.split("\n")[1:]
    return b"".join(INSTRUCTION.pack(*map(int, line.split())) for line in lines if line.strip())


def _bad(text: str, why: str) -> Problem:
    return Problem(f"bad filter ({why})", text[:200], "write it as for tcpdump: pcap-filter(7)")
