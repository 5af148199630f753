"""Filters: CEL over endpoints, with its exact three-valued meaning.

Comes in: the text of a filter, or a Kubernetes label selector; the values of `model.objects`. Goes out: which
endpoints a filter holds, and how that set changes. Refuses to know: where objects come from, what filters are for.
"""

from ringfence.inventory.filters.addresses import Addresses, Changed
from ringfence.inventory.filters.facts import Key
from ringfence.inventory.filters.fields import FIELDS, Field, Type
from ringfence.inventory.filters.filter import Filter, parse
from ringfence.inventory.filters.memberships import Delta, Deltas, Memberships
from ringfence.inventory.filters.population import Population, Selection
from ringfence.inventory.filters.preview import Preview, Why, preview, why, why_row
from ringfence.inventory.filters.selectors import from_selector, parse_any

__all__ = [
    "FIELDS",
    "Addresses",
    "Changed",
    "Delta",
    "Deltas",
    "Field",
    "Filter",
    "Key",
    "Memberships",
    "Population",
    "Preview",
    "Selection",
    "Type",
    "Why",
    "from_selector",
    "parse",
    "parse_any",
    "preview",
    "why",
    "why_row",
]
