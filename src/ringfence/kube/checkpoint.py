"""What a connector needs to go on after a restart, as octets. Pure.

Goals: no relist after a restart, and nothing lost by that: it holds where each watch was and a digest of everything
told until then, so it is true only when all that was acknowledged. It can be thrown away at any time: the state is
then asked for again. What ended meanwhile is not noticed in that case, so it is not thrown away lightly: only another
layout, damage (found by a checksum) or another cluster make it useless.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import zstandard

from ringfence.kube.decode import KINDS, Item, Owner
from ringfence.kube.ledger import Ledger
from ringfence.kube.owners import Ref
from ringfence.model.objects import Pod
from ringfence.model.problems import Problem

MAGIC = b"ringfence checkpoint 1\n"

LARGEST = 1 << 30
"""Octets of a checkpoint unpacked."""


class Restored(NamedTuple):
    """A ledger as it was, the version each kind was followed to, and which cluster that was."""

    ledger: Ledger
    versions: dict[str, str]
    identity: str


class _Controller(msgspec.Struct, array_like=True):
    namespace: str
    kind: str
    name: str
    owner: tuple[str, str] | None


class _Waiting(msgspec.Struct, array_like=True):
    pod: Pod
    owner: tuple[str, str] | None
    created: int | None


class _Saved(msgspec.Struct):
    cluster: str
    identity: str
    versions: dict[str, str]
    told: dict[str, dict[str, bytes]]
    controllers: dict[str, _Controller]
    waiting: list[_Waiting]


def pack(ledger: Ledger, versions: dict[str, str], identity: str) -> bytes:
    """The checkpoint, not yet compressed: quick, because nothing else may happen meanwhile."""
    known = ledger.owners.known
    waiting = [
        _Waiting(i.value, i.owner, i.created) for i in ledger.waiting.values() if isinstance(i.value, Pod)
    ]
    controllers = {uid: _Controller(*ref, known.get(ref)) for uid, ref in ledger.controllers.items()}
    saved = _Saved(ledger.cluster, identity, versions, ledger.told, controllers, waiting)
    return msgspec.msgpack.encode(saved)


def seal(packed: bytes) -> bytes:
    """Compressed, with a checksum. May run in a thread."""
    return MAGIC + bytes(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(packed))


def restore(body: bytes, cluster: str) -> Restored:
    """What a checkpoint holds. Raises Problem for one that is damaged, of another layout or another cluster."""
    where, fix = f"cluster {cluster}", "nothing to do: the state is asked for again"
    if not body.startswith(MAGIC):
        raise Problem("a checkpoint of another version of Ringfence", where, fix)
    try:
        plain = zstandard.ZstdDecompressor().decompress(body[len(MAGIC) :], max_output_size=LARGEST)
        saved = msgspec.msgpack.decode(plain, type=_Saved)
    except (zstandard.ZstdError, msgspec.MsgspecError, MemoryError) as error:
        raise Problem(f"a damaged checkpoint ({error})", where, fix) from None
    if saved.cluster != cluster:
        raise Problem(f"a checkpoint of cluster {saved.cluster}", where, fix)
    return Restored(_ledger(saved), {k: v for k, v in saved.versions.items() if k in KINDS}, saved.identity)


def _ledger(saved: _Saved) -> Ledger:
    ledger = Ledger(saved.cluster)
    ledger.told |= {kind: told for kind, told in saved.told.items() if kind in KINDS}
    for uid, each in saved.controllers.items():
        reference = Ref(each.namespace, each.kind, each.name)
        ledger.controllers[uid] = reference
        ledger.owners.known[reference] = Owner(*each.owner) if each.owner else None
    for held in saved.waiting:
        ledger.remember(Item(held.pod, Owner(*held.owner) if held.owner else None, held.created))
    return ledger
