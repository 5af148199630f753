"""The fields a filter may ask, their types and their meaning: the one list of them.

`FIELDS` is what the checker, the columns and the reference page are made from. A fact that a row does not have
is absent: reading it is an error, and `has()` of it is false.
"""

from __future__ import annotations

import msgspec


class Type(msgspec.Struct, frozen=True):
    """A CEL type. `item` is a list's element or a map's value; `members` are an object's parts."""

    name: str
    item: Type | None = None
    members: tuple[tuple[str, Type], ...] = ()

    def __str__(self) -> str:
        if self.name == "list" and self.item:
            return f"list of {self.item}"
        return self.name


BOOL = Type("bool")
INT = Type("int")
STRING = Type("string")
IP = Type("ip")
CIDR = Type("cidr")
NOTHING = Type("nothing")
"""The element of an empty list: it goes with every type."""

MAP = Type("map", STRING)
STRINGS = Type("list", STRING)
IMAGE = Type(
    "image",
    members=(
        ("reference", STRING),
        ("registry", STRING),
        ("repository", STRING),
        ("tag", STRING),
        ("digest", STRING),
    ),
)
PORT = Type("port", members=(("port", INT), ("protocol", STRING), ("name", STRING)))


class Field(msgspec.Struct, frozen=True):
    """One field. `kinds` are the kinds of rows that can have it.

    `shared` fields have the same value for all pods of one template; the others differ from row to row.
    """

    name: str
    type: Type
    kinds: tuple[str, ...]
    meaning: str
    shared: bool = True


ALL = ("pod", "service", "node", "external")
OBJECTS = ("pod", "service", "node")

FIELDS: tuple[Field, ...] = (
    Field("kind", STRING, ALL, "`pod`, `service`, `node` or `external`"),
    Field("cluster", STRING, OBJECTS, "name of the cluster; externals belong to none"),
    Field("namespace", STRING, ("pod", "service"), "namespace"),
    Field("name", STRING, ALL, "name of the object, or of an external's entry", shared=False),
    Field("uid", STRING, ALL, "UID of the object; `catalog/network` for externals", shared=False),
    Field(
        "workload",
        STRING,
        ("pod", "node"),
        "root owner as `Kind/name`, e.g. `Deployment/web`; a bare pod is `Pod/name`, a node `Node/name`",
    ),
    Field("workload_kind", STRING, ("pod", "node"), "the part of `workload` before the slash"),
    Field("workload_name", STRING, ("pod", "node"), "the part of `workload` after the slash"),
    Field("node", STRING, ("pod", "node"), "node the pod was scheduled on; a node's own name", shared=False),
    Field("service_account", STRING, ("pod",), "name of the service account"),
    Field(
        "phase", STRING, ("pod",), "`Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`", shared=False
    ),
    Field("ready", BOOL, ("pod",), "the Ready condition, where the pod has one", shared=False),
    Field("host_network", BOOL, ("pod",), "whether the pod uses its node's network"),
    Field("labels", MAP, ALL, "the object's own labels; empty where it has none"),
    Field("annotations", MAP, OBJECTS, "the object's own annotations; empty where it has none"),
    Field("namespace_labels", MAP, ("pod", "service"), "labels of its namespace, where that is known"),
    Field("node_labels", MAP, ("pod", "node"), "labels of its node, where that is known", shared=False),
    Field("addresses", STRINGS, OBJECTS, "its addresses; empty while it has none", shared=False),
    Field(
        "images",
        Type("list", IMAGE),
        ("pod",),
        "container images: reference, registry, repository, tag, digest; parts that a reference lacks are absent",
    ),
    Field(
        "ports",
        Type("list", PORT),
        ("pod", "service"),
        "declared ports: port, protocol, name (absent where it has none)",
    ),
    Field("service_type", STRING, ("service",), "`ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`"),
    Field("selector", MAP, ("service",), "the service's selector; empty where it has none"),
    Field("catalog", STRING, ("external",), "the uploaded list the entry came with"),
    Field("network", STRING, ("external",), "the entry's network, e.g. `203.0.113.0/24`"),
)

NUMBER: dict[str, int] = {field.name: position for position, field in enumerate(FIELDS)}
"""Position of each field in a row of facts."""

BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}
MAPS = frozenset(field.name for field in FIELDS if field.type == MAP)
