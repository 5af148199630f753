"""Whose questions count, and how much of strangers' texts a batch and a node's memory hold."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.flows import names as module
from ringfence.flows.heard import ANSWER, HELLO, MESSAGE, NO_TAP, Heard, own, plain_key
from ringfence.flows.names import Asking, Names, name
from ringfence.flows.terms import ENTRY, Dictionaries, fitted, size_of
from ringfence.model.addresses import pack
from ringfence.model.batches import TlsInfo
from ringfence.model.columns import SIGHTING, structured

IS_POD = np.array([True, False])
NODE, POD, OTHER = "10.88.0.11", "10.244.1.5", "10.244.2.9"
LOCAL = tuple(np.array([half], np.uint64) for half in pack(NODE))
NOBODY = np.zeros(0, np.uint64)


def said(*rows: tuple[str, int, int]) -> Heard:
    """`(asker, port, tap)`: a question each, and an answer beside it."""
    messages, answers = np.zeros(len(rows), MESSAGE), np.zeros(len(rows), ANSWER)
    for index, (asker, port, tap) in enumerate(rows):
        for table in (messages, answers):
            table["consumer_hi"][index], table["consumer_lo"][index] = pack(asker)
            table["tap"][index] = tap
        messages["consumer_port"][index], answers["message"][index] = port, index
    messages["provider_port"], messages["protocol"] = 53, 17
    return Heard(messages, answers, names=("n",))


def ports(heard: Heard) -> list[int]:
    assert len(heard.messages) == len(heard.answers)
    return [int(port) for port in heard.messages["consumer_port"]]


def test_at_its_own_taps_only_the_nodes_own_questions_count() -> None:
    heard = said((POD, 1, 0), (POD, 2, 1), (OTHER, 3, 1), (NODE, 4, 1), (NODE, 5, 0), (POD, 6, 7))
    kept = own(heard, IS_POD, LOCAL, NOBODY)
    assert ports(kept) == [1, 4, 5]
    # At the tap of the pod that answers the node it is still the node that asked.
    assert kept.messages["tap"].tolist() == kept.answers["tap"].tolist() == [0, NO_TAP, NO_TAP]
    # Each answer came with its own message, also where those before it are gone.
    assert kept.answers["message"].tolist() == [0, 1, 2]
    assert heard.messages["tap"].tolist() == [0, 1, 1, 1, 0, 7]


def test_a_pods_question_under_the_nodes_address_is_not_the_nodes() -> None:
    heard = said((NODE, 1, 1), (NODE, 2, 1))
    lent = plain_key(heard.messages)[:1]
    assert ports(own(heard, IS_POD, LOCAL, lent)) == [2]


def test_nothing_said() -> None:
    assert own(Heard(), IS_POD, LOCAL, NOBODY) == Heard()


def test_a_dictionary_has_its_bounds() -> None:
    terms = Dictionaries(tuple("n" * 100 for _ in range(5)), (TlsInfo("a", ("h2",)), TlsInfo("b")))
    for most, octets, kept in ((3, 1 << 20, 3), (99, 2 * (ENTRY + 100), 2), (0, 99, 0), (99, 1 << 20, 5)):
        table = structured(SIGHTING, 8)
        table["names"], table["tls"] = [0, 1, 2, 3, 4, 5, 5, 0], [2, 0, 0, 0, 0, 0, 0, 1]
        given, cut = fitted(table, terms, most, octets)
        assert len(given.names) == kept
        assert table["names"].tolist() == [n if n <= kept else 0 for n in [0, 1, 2, 3, 4, 5, 5, 0]]
        lost = sum(n > kept for n in [0, 1, 2, 3, 4, 5, 5, 0])
        assert cut == lost + sum(n > len(given.tls) for n in (2, 1))


def test_memory_of_strangers_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The older half goes, names of live conversations and TLS facts too."""
    monkeypatch.setattr(module, "MOST_OCTETS", 100_000)
    monkeypatch.setattr(module, "MOST", 4096)
    known, second = Names(), 1_000_000_000
    for window in range(8):
        count = 400
        answers = np.zeros(count, ANSWER)
        answers["consumer_lo"], answers["address_lo"] = 1, np.arange(count) + window * count
        answers["name"], answers["ttl"], answers["time"] = np.arange(count), 600, window * second
        hellos = np.zeros(count, HELLO)
        hellos["consumer_port"], hellos["tls"], hellos["time"] = np.arange(count), np.arange(count), window
        texts = tuple(f"{window}-{index}".ljust(200, "x") for index in range(count))
        heard = Heard(answers=answers, hellos=hellos, names=texts, tls=tuple(TlsInfo(text) for text in texts))
        table = structured(SIGHTING, count)
        table["consumer_lo"], table["provider_lo"], table["protocol"] = 1, answers["address_lo"], 6
        table["first"], table["consumer_port"] = window * second + 1, np.arange(count)
        who, begins = np.zeros(count, np.uint32), np.ones(count, np.bool_)
        order = np.argsort(plain_key(table))
        asking = Asking(table[order], plain_key(table)[order], who, begins)
        dictionaries, known = name(asking, heard, np.zeros(1, np.uint32), known, window * second)
        assert len(dictionaries.names) == count, "what this window needs is told before it is forgotten"
        terms = [*known.texts.values(), *known.infos.values()]
        assert 0 < sum(map(size_of, terms)) <= 100_000
        assert set(known.learnt["name"].tolist()) <= set(known.texts)
        assert set(known.given["names"].tolist()) <= {0, *known.texts}
        assert set(known.given["tls"].tolist()) <= {0, *known.infos}
    assert max(known.learnt["latest"]) == 7 * second


def test_who_only_borrows_an_address_learnt_nothing_by_it() -> None:
    answers = np.zeros(1, ANSWER)
    answers["consumer_lo"], answers["address_lo"], answers["ttl"] = 1, 9, 600
    table = structured(SIGHTING, 2)
    table["consumer_lo"], table["provider_lo"], table["protocol"], table["first"] = 1, 9, 6, 5
    table["consumer_port"] = (1, 2)
    table = table[np.argsort(plain_key(table))]
    borrowed = table["consumer_port"] == 2
    asking = Asking(table, plain_key(table), np.zeros(2, np.uint32), np.ones(2, np.bool_), borrowed)
    name(asking, Heard(answers=answers, names=("db",)), np.zeros(1, np.uint32), Names(), 5)
    assert dict(zip(table["consumer_port"].tolist(), table["names"].tolist(), strict=True)) == {1: 1, 2: 0}
