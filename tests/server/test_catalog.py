"""Members follow the book: after any news, in any order and from many threads, they are what a fresh look says."""

from __future__ import annotations

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.inventory.filters.fields import NUMBER
from ringfence.model.objects import Change, External, Namespace, Node, Object, Pod
from ringfence.server.book import Book
from ringfence.server.catalog import Catalog
from ringfence.store.catalog import CatalogStore
from ringfence.store.facts import Facts

TEXTS = {
    "web": 'labels["app"] == "web"',
    "hot": 'namespace_labels["hot"] == "1"',
    "old": 'node_labels["old"] == "1" || kind == "external"',
    "held": 'addresses.exists(a, a == "10.0.0.1")',
}
LABELS = st.sampled_from([(), (("app", "web"),), (("hot", "1"),), (("old", "1"),)])

objects = st.one_of(
    st.builds(
        Pod,
        uid=st.sampled_from(["p1", "p2", "p3"]),
        namespace=st.sampled_from(["a", "b"]),
        name=st.just("p"),
        node=st.sampled_from([None, "n"]),
        addresses=st.sampled_from([(), ("10.0.0.1",)]),
        labels=LABELS,
    ),
    st.builds(Namespace, uid=st.sampled_from(["na", "nb"]), name=st.sampled_from(["a", "b"]), labels=LABELS),
    st.builds(Node, uid=st.just("n"), name=st.just("n"), labels=LABELS),
    st.builds(
        External,
        uid=st.just("x/10.0.0.0/8"),
        catalog=st.just("x"),
        network=st.just("10.0.0.0/8"),
        name=st.just("x"),
    ),
)


def change(value: Object, at: int, known: int, gone: bool) -> Change:
    cluster = "" if isinstance(value, External) else "c"
    body = msgspec.Raw(b"null" if gone else msgspec.json.encode(value))
    return Change(cluster, type(value).__name__, value.uid, at, known, body)


news = st.builds(change, objects, st.integers(0, 9), st.integers(0, 9), st.booleans())


def fresh(book: Book, folder: Path, texts: dict[str, str]) -> Catalog:
    facts = Facts(folder)
    facts.open()
    catalog = Catalog(CatalogStore(facts.engine), book, lambda: 100)
    for name, text in texts.items():
        catalog.save(name, text, "", "test", None)
    catalog.start()
    facts.close()
    return catalog


def members(catalog: Catalog) -> dict[str, list[str]]:
    return {name: [one.uid for one in catalog.members(name, None, None, 100).first] for name in TEXTS}


def looked_up(catalog: Catalog) -> dict[str, list[str]]:
    """The same by another way: the inventory of a time after all, read afresh."""
    return {name: [one.uid for one in catalog.members(name, 10**6, None, 100).first] for name in TEXTS}


def expected_addresses(catalog: Catalog, name: str) -> set[str]:
    with catalog.population(10**6) as population:
        keys = population.select(catalog.filter(name)).keys()
        rows = [population.facts(population.row(key)) for key in keys]
    held = {address for row in rows for address in row[NUMBER["addresses"]] or ()}
    return held | {row[NUMBER["network"]] for row in rows if row[NUMBER["network"]]}


@settings(max_examples=60, deadline=None)
@given(st.lists(news, max_size=25), st.integers(0, 25))
def test_after_any_news_members_are_what_a_fresh_look_says(changes, before):
    with TemporaryDirectory() as folder:
        book = Book()
        book.apply(changes[:before])
        catalog = fresh(book, Path(folder), TEXTS)
        for one in changes[before:]:
            book.apply([one])
        assert members(catalog) == looked_up(catalog)
        for name in TEXTS:
            assert set(catalog.addresses(name)[1]) == expected_addresses(catalog, name)


def test_news_from_many_threads_at_once(tmp_path):
    book = Book()
    catalog = fresh(book, tmp_path, TEXTS)

    def tell(worker: int) -> None:
        for number in range(200):
            labels = (("app", "web"),) if (number + worker) % 3 else ()
            pod = Pod(f"p{number % 17}", "a", "p", labels=labels)
            book.apply([change(pod, number, number * 10 + worker, number % 11 == 10)])

    workers = [threading.Thread(target=tell, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(50):
        members(catalog)
    for worker in workers:
        worker.join()
    assert members(catalog) == looked_up(catalog)
