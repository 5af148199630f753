"""What is told of filters that cannot judge an endpoint: where it could have been judged, with the reason."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.filters import Population, parse
from ringfence.inventory.previews import failures, previewed
from ringfence.model.objects import External, Node, Pod, Service

OBJECTS = [
    ("lab", Pod("1", "shop", "web", labels=(("app", "web"),))),
    ("lab", Pod("2", "shop", "bare")),
    ("lab", Node("3", "node1")),
    ("lab", Service("4", "shop", "web")),
    ("", External("x/1.2.3.0/24", "x", "1.2.3.0/24", "bank")),
]


def unjudged(text: str) -> list[str]:
    sample, reasons = failures(parse(text), Population(OBJECTS))
    assert [each.endpoint for each in reasons] == list(sample.first)
    return [one.name for one in sample.first]


def test_a_kind_that_never_has_the_field_is_no_error_to_tell():
    assert unjudged('namespace == "shop"') == []
    assert unjudged('labels["app"] == "web"') == ["bank", "node1", "bare", "web"]
    assert unjudged('namespace == "shop" && labels["app"] == "web"') == ["bare", "web"]
    assert unjudged('node == "node1"') == ["bare", "web"]
    assert unjudged("true") == []


def test_the_reason_stands_beside_the_endpoint():
    ((first, *_),) = [failures(parse('labels["app"] == "web"'), Population(OBJECTS))[1]]
    assert (first.endpoint.name, first.why.value, first.why.column) == ("bank", "error", 1)


TEXTS = st.sampled_from(
    ["true", "false", 'labels["app"] == "web"', 'namespace == "shop"', 'kind == "pod"', '"app" in labels']
)


@given(TEXTS, TEXTS, st.sets(st.sampled_from(range(len(OBJECTS)))), st.integers(1, 4))
def test_joins_and_leaves_lead_from_before_to_after(old, new, chosen, most):
    population = Population([OBJECTS[number] for number in sorted(chosen)])
    found = previewed(population, parse(old), parse(new), most)
    assert found.before + found.joins.count - found.leaves.count == found.after
    assert found.after == len(population.select(parse(new)))
    assert len(found.joins.first) == min(most, found.joins.count)
