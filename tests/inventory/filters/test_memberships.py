"""Members kept current change by change are those found from scratch, whatever the order of changes."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ringfence.inventory.filters import Memberships, Population, parse
from ringfence.inventory.filters import grouping as grouping_module
from ringfence.model.objects import External, Namespace, Node, Pod, Service, Workload

TEXTS = [
    'labels["app"] == "web"',
    'labels["tier"] != "db" && namespace == "a"',
    '"tier" in labels',
    "size(labels) == 1",
    'namespace_labels["team"] == "x"',
    '!("team" in namespace_labels)',
    'node_labels["zone"] == "z1"',
    'name.startsWith("p1") && labels["app"] == "web"',
    'name == "p1" || labels["app"] == "db"',
    "ready",
    'phase == "Running" && namespace_labels["team"] == "x"',
    'has(node) && node == "n1"',
    'addresses.exists(a, cidr("10.0.0.0/30").containsIP(a))',
    'kind == "external" && labels["app"] == "web"',
    'images.exists(i, i.tag == "1")',
    "true",
    'selector["app"] == "web"',
    'annotations["note"] == "x" ? ready : host_network',
    'name == labels["app"]',
]
CLUSTERS = st.sampled_from(["c1", "c2"])


def labels(keys: tuple[str, ...], values: tuple[str, ...]) -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    pairs = st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=2)
    return pairs.map(lambda found: tuple(sorted(found.items())))


ADDRESSES = st.lists(st.sampled_from([f"10.0.0.{n}" for n in range(6)]), max_size=2).map(tuple)
LABELS = labels(("app", "tier"), ("web", "db", "p1"))
PODS = st.builds(
    Pod,
    uid=st.sampled_from(["u1", "u2", "u3", "u4"]),
    namespace=st.sampled_from(["a", "b"]),
    name=st.sampled_from(["p1", "p12", "web"]),
    node=st.sampled_from([None, "n1", "n2"]),
    addresses=ADDRESSES,
    host_network=st.booleans(),
    labels=LABELS,
    annotations=labels(("note",), ("x", "y")),
    phase=st.sampled_from(["Running", "Pending"]),
    images=st.sampled_from([(), ("web:1",), ("web:2", "db:1")]),
    ready=st.sampled_from([None, True, False]),
)
OBJECTS = st.one_of(
    PODS,
    PODS,
    st.builds(
        Service,
        uid=st.sampled_from(["s1", "s2"]),
        namespace=st.sampled_from(["a", "b"]),
        name=st.just("p1"),
        cluster_ips=ADDRESSES,
        load_balancer_ips=ADDRESSES,
        labels=LABELS,
        selector=LABELS,
    ),
    st.builds(
        Node,
        uid=st.sampled_from(["n1", "n2", "n3"]),
        name=st.sampled_from(["n1", "n2"]),
        addresses=ADDRESSES,
        labels=labels(("zone", "app"), ("z1", "z2", "web")),
    ),
    st.builds(
        Namespace,
        uid=st.sampled_from(["a", "b", "c"]),
        name=st.sampled_from(["a", "b"]),
        labels=labels(("team", "other"), ("x", "y")),
    ),
    st.builds(
        External,
        uid=st.sampled_from(["e1", "e2"]),
        catalog=st.just("c"),
        network=st.sampled_from(["10.0.0.0/29", "10.0.0.1/32"]),
        name=st.just("web"),
        labels=LABELS,
    ),
)


def kind_of(value: object) -> str:
    return type(value).__name__


def expected_addresses(members, now):
    found: Counter[str] = Counter()
    for key in members:
        value = now[key]
        if isinstance(value, External):
            found["10.0.0.1" if value.network == "10.0.0.1/32" else value.network] += 1
        elif isinstance(value, Service):
            found.update(set(value.cluster_ips + value.external_ips + value.load_balancer_ips))
        else:
            found.update(set(value.addresses))
    return frozenset(found)


class Changes(RuleBasedStateMachine):
    """Random puts, drops, definitions; after each the state is compared with one made from scratch."""

    def __init__(self) -> None:
        super().__init__()
        self.memberships = Memberships()
        self.now: dict[tuple[str, str, str], object] = {}
        self.filters: dict[str, str] = {}
        self.members: dict[str, set] = {}
        self.policy: dict[str, tuple[int, frozenset[str]]] = {}

    @rule(cluster=CLUSTERS, value=OBJECTS)
    def put(self, cluster, value):
        cluster = "" if isinstance(value, External) else cluster
        self.now[cluster, kind_of(value), value.uid] = value
        self.told(self.memberships.put(cluster, value))

    @rule(data=st.data())
    def drop(self, data):
        if self.now:
            key = data.draw(st.sampled_from(sorted(self.now)))
            del self.now[key]
            self.told(self.memberships.drop(*key))

    @rule(changes=st.lists(st.tuples(CLUSTERS, OBJECTS, st.booleans()), max_size=6))
    def apply(self, changes):
        batch = []
        for cluster, value, gone in changes:
            key = ("" if isinstance(value, External) else cluster, kind_of(value), value.uid)
            batch.append((*key, None if gone else value))
            if gone:
                self.now.pop(key, None)
            else:
                self.now[key] = value
        self.told(self.memberships.apply(batch))

    @rule(name=st.sampled_from("fgh"), text=st.sampled_from(TEXTS))
    def define(self, name, text):
        self.filters[name] = text
        self.memberships.define(name, parse(text))
        self.members[name] = set(self.memberships.members(name))

    @rule(name=st.sampled_from("fgh"))
    def forget(self, name):
        self.filters.pop(name, None)
        self.members.pop(name, None)
        self.policy.pop(name, None)
        self.memberships.forget(name)

    def told(self, deltas):
        for name, delta in deltas.items():
            joined, left = set(delta.joined), set(delta.left)
            assert not joined & self.members[name]
            assert left <= self.members[name]
            self.members[name] = (self.members[name] | joined) - left

    @invariant()
    def as_from_scratch(self):
        fresh = Population([(cluster, value) for (cluster, _, _), value in reversed(self.now.items())])
        for name, text in self.filters.items():
            keys = fresh.select(parse(text)).keys()
            assert self.memberships.members(name) == keys
            assert self.members[name] == set(keys)
            assert self.memberships.population.select(parse(text)).keys() == keys
            self.same_addresses(name, keys)
        for key in self.now:
            held = {name for name, keys in self.members.items() if key in keys}
            assert self.memberships.holding(key) == held

    def same_addresses(self, name, keys):
        policy = self.memberships.addresses(name)
        assert policy.addresses == expected_addresses(keys, self.now)
        assert list(policy) == sorted(policy.addresses)
        if name in self.policy:
            generation, before = self.policy[name]
            assert (policy.generation > generation) or policy.addresses == before
            changed = policy.since(generation)
            assert changed.added == policy.addresses - before
            assert changed.removed == before - policy.addresses
        self.policy[name] = (policy.generation, policy.addresses)


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(
    st.lists(st.tuples(CLUSTERS, PODS), max_size=12), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6)
)
@settings(max_examples=60, deadline=None)
def test_filters_saved_before_or_after_the_rows_are_the_same(puts, texts):
    early, late = Memberships(), Memberships()
    for number, text in enumerate(texts):
        early.define(str(number), parse(text))
    for cluster, value in puts:
        early.put(cluster, value)
        late.put(cluster, value)
    for number, text in enumerate(texts):
        late.define(str(number), parse(text))
    for number in range(len(texts)):
        assert early.members(str(number)) == late.members(str(number))


def pod(number: int, **more) -> Pod:
    given = {"labels": (("app", "web"),), "addresses": (f"10.0.0.{number}",), "namespace": "a"} | more
    return Pod(uid=f"u{number}", name=f"p{number}", **given)


def test_a_change_within_a_batch_that_undoes_itself_is_not_told():
    memberships = Memberships()
    memberships.define("web", parse('labels["app"] == "web"'))
    assert memberships.apply([("c", "Pod", "u1", pod(1)), ("c", "Pod", "u1", None)]) == {}
    assert memberships.put("c", pod(1))["web"].joined == (("c", "Pod", "u1"),)
    assert memberships.put("c", pod(1)) == {}


def test_an_address_that_moves_between_members_is_not_told_to_have_gone():
    memberships = Memberships()
    memberships.define("web", parse('labels["app"] == "web"'))
    memberships.put("c", pod(1))
    policy = memberships.addresses("web")
    generation = policy.generation
    memberships.put("c", pod(2, addresses=("10.0.0.1",)))
    memberships.drop("c", "Pod", "u1")
    assert policy.generation == generation
    memberships.put("c", pod(2, addresses=()))
    assert policy.since(generation).removed == {"10.0.0.1"}
    assert memberships.addresses("web") is policy


def test_a_change_asks_only_the_filters_that_read_what_changed(monkeypatch):
    memberships = Memberships()
    memberships.define("labels", parse('labels["app"] == "web"'))
    memberships.define("namespace", parse('namespace_labels["team"] == "x"'))
    memberships.define("name", parse('name == "p1"'))
    memberships.define("decided", parse('namespace == "b" && name == "p1"'))
    memberships.put("c", Namespace(uid="n", name="a"))
    memberships.put("c", pod(1))
    memberships.put("c", pod(2))
    asked: list[str] = []
    filter_type = type(memberships.filter("name"))
    real = filter_type.value

    def value(self, facts):
        asked.append(self.text)
        return real(self, facts)

    monkeypatch.setattr(filter_type, "value", value)
    memberships.put("c", pod(1, phase="Running"))
    assert asked == []
    memberships.put("c", Namespace(uid="n", name="a", labels=(("team", "x"),)))
    # Both pods are of one group: it is asked once.
    assert asked == ['namespace_labels["team"] == "x"']
    asked.clear()
    memberships.put("c", pod(3))
    assert asked == ['name == "p1"']
    asked.clear()
    memberships.put("c", pod(3, annotations=(("note", "x"),)))
    assert asked == []


def test_groups_without_rows_are_let_go(monkeypatch):
    monkeypatch.setattr(grouping_module, "EMPTY", 4)
    memberships = Memberships()
    memberships.define("job", parse('labels["job"] == "x" && workload_kind == "Pod"'))
    for number in range(200):
        memberships.put("c", pod(number, labels=(("job", f"j{number}"),)))
        memberships.drop("c", "Pod", f"u{number}")
    assert len(list(memberships._grouping.groups())) <= 5
    # Nor do the names of the dead stay.
    assert len(memberships.population.distinct("name")) < 20


def test_kinds_that_are_no_rows_are_passed_over():
    memberships = Memberships()
    memberships.define("all", parse("true"))
    assert memberships.put("c", Workload(uid="w", kind="Deployment", namespace="a", name="web")) == {}
    assert memberships.drop("c", "Pod", "never") == {}
    assert memberships.members("all") == []


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        Memberships().members("nothing")


def test_a_policy_object_that_is_read_too_late_says_so(monkeypatch):
    monkeypatch.setattr("ringfence.inventory.filters.addresses.KEPT", 4)
    memberships = Memberships()
    memberships.define("web", parse("true"))
    policy = memberships.addresses("web")
    for number in range(40):
        memberships.put("c", pod(1, addresses=(f"10.0.1.{number}",)))
    assert policy.since(0) is None
    assert policy.since(policy.generation + 1) is None
    assert (
        policy.since(policy.generation - 1).added == {"10.0.1.39"}
        or policy.since(policy.generation - 1).removed
    )


def test_values_are_held_only_while_rows_have_them():
    population = Population()
    for number in range(300):
        value = pod(number)
        population.put("c", value)
        population.put("c", msgspec.structs.replace(value, phase="Running"))
        population.drop("c", "Pod", value.uid)
    assert population.size == 1
    assert len(population) == 0
    assert len(population.distinct("addresses")) == 2


def test_labels_of_a_place_count_also_while_no_filter_reads_them() -> None:
    memberships = Memberships()
    memberships.define("f", parse('namespace_labels["team"] == "x"'))
    for cluster in ("c1", "c2"):
        memberships.put(cluster, Pod(uid="u", namespace="a", name="p"))
    memberships.forget("f")
    memberships.put("c1", Namespace(uid="a", name="a", labels=()))
    memberships.define("f", parse('!("team" in namespace_labels)'))
    assert memberships.members("f") == [("c1", "Pod", "u")]
