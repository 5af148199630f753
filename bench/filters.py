"""How fast saved filters answer over a large cluster, and what a change costs, against cel-python asked pod by pod.

    .venv/bin/python bench/filters.py [--pods 150000] [--filters 1000]

A: a population of `--pods` pods of 3,000 workloads in 200 namespaces on 5,000 nodes. Each filter is asked once cold
(its tables are made), then warm (minimum and maximum of 5), then with 1,000 changed pods since the last question.
B: the same filters by cel-python's evaluator over a sample of 300 pods, extrapolated to all of them; both must agree
on the sample. C: `--filters` saved filters kept current, each with its policy object: time per change, mean of 5,000.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from collections.abc import Callable, Iterable

import msgspec

from ringfence.inventory.filters import FIELDS, Filter, Memberships, Population, parse, parse_any
from ringfence.model.objects import ContainerPort, Namespace, Node, Object, Pod

NAMESPACES, NODES, WORKLOADS = 200, 5_000, 3_000
SAMPLE, CHANGES = 300, 5_000

TYPICAL = (
    'namespace == "ns-3" && labels["app"] == "app-3"',
    'labels["tier"] in ["web", "db"] && namespace_labels["team"] == "t3" && !host_network',
    'images.exists(i, i.registry == "registry.example" && i.tag.startsWith("1.")) && phase == "Running"',
    'name.startsWith("app-1") && node_labels["zone"] == "z1"',
    "app in (app-7, app-8), tier!=web, !canary",
)


def pod(number: int) -> Pod:
    """One pod; its facts are those of its workload, but for name, node, address, phase and one annotation."""
    kind = number % WORKLOADS
    app = f"app-{kind}"
    return Pod(
        uid=f"{number:08x}-0000-4000-8000-000000000000",
        namespace=f"ns-{kind % NAMESPACES}",
        name=f"{app}-{kind:x}-{number:06x}",
        node=f"node-{number % NODES}",
        addresses=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",),
        labels=(("app", app), ("pod-template-hash", f"{kind:x}"), ("tier", ("web", "db", "cache")[kind % 3])),
        annotations=(("cni/podIP", f"{number}"),),
        workload=f"Deployment/{app}",
        ports=(ContainerPort(8080, "TCP", "http"),),
        phase="Running" if number % 50 else "Pending",
        ready=bool(number % 50),
        service_account=app,
        images=(f"registry.example/{app}:1.{kind % 9}",),
    )


def places() -> list[Object]:
    """The namespaces and nodes."""
    spaces = [
        Namespace(uid=f"ns{n}", name=f"ns-{n}", labels=(("team", f"t{n % 20}"),)) for n in range(NAMESPACES)
    ]
    return [
        *spaces,
        *(Node(uid=f"n{n}", name=f"node-{n}", labels=(("zone", f"z{n % 3}"),)) for n in range(NODES)),
    ]


def saved(number: int) -> str:
    """One of many saved filters, of the forms that people save."""
    space, app, team = f"ns-{number % NAMESPACES}", f"app-{number}", f"t{number % 20}"
    return (
        f'namespace == "{space}" && labels["tier"] == "web"',
        f'labels["app"] == "{app}"',
        f'labels["app"] in ["{app}", "app-{number + 1}"] && namespace_labels["team"] == "{team}"',
        f'namespace == "{space}" && name.startsWith("{app}-") && ready',
        f'workload == "Deployment/{app}" && node_labels["zone"] == "z1" || images.exists(i, i.tag == "2.{number}")',
    )[number % 5]


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def by_evaluator(
    population: Population, asked: Filter, keys: list[tuple[str, str, str]]
) -> tuple[float, int]:
    """Seconds that cel-python takes for these rows, facts ready made, and how many it holds."""
    import celpy

    environment = celpy.Environment()
    program = environment.program(environment.compile(asked.text))
    known = []
    for key in keys:
        facts = zip(FIELDS, population.facts(population.row(key) or 0), strict=True)
        plain = {field.name: list(v) if isinstance(v, tuple) else v for field, v in facts if v is not None}
        known.append({name: celpy.json_to_cel(value) for name, value in plain.items()})
    held = 0
    start = time.perf_counter()
    for one in known:
        with contextlib.suppress(celpy.CELEvalError):
            held += bool(program.evaluate(one))
    return time.perf_counter() - start, held


def ask(population: Population, pods: list[Pod], text: str) -> None:
    """One line of the first table."""
    asked = parse_any(text)
    cold = seconds(lambda: population.select(asked))
    warm = [seconds(lambda: population.select(asked)) for _ in range(5)]
    for one in pods[:1000]:
        population.put("c", msgspec.structs.replace(one, phase="Failed"))
    after = seconds(lambda: population.select(asked))
    for one in pods[:1000]:
        population.put("c", one)
    step = len(pods) // SAMPLE
    keys = [("c", "Pod", one.uid) for one in pods[::step][:SAMPLE]]
    taken, held = by_evaluator(population, asked, keys)
    selection = population.select(asked)
    mine = set(selection.keys())
    assert held == sum(key in mine for key in keys), "cel-python disagrees"
    peer = taken / SAMPLE * len(pods)
    print(
        f"{len(selection):>7} held  cold {cold * 1e3:7.1f}  warm {min(warm) * 1e3:.2f}-{max(warm) * 1e3:.2f}"
        f"  after 1,000 changes {after * 1e3:.2f} ms  cel-python {peer:6.1f} s (extrapolated)"
        f"  ratio {peer / min(warm):,.0f}  {text}"
    )


def change(memberships: Memberships, what: str, values: Iterable[Object]) -> None:
    """One line of the second table."""
    values = list(values)
    told = 0
    start = time.perf_counter()
    for value in values:
        told += len(memberships.put("c", value))
    each = (time.perf_counter() - start) / len(values)
    print(f"{each * 1e6:9.1f} us a change  {told:>6} memberships changed  {what}")


def keep(population: Population, pods: list[Pod], filters: int) -> None:
    """The second table: filters kept current."""
    memberships = Memberships(population)
    print(
        f"{seconds(lambda: [memberships.define(f'f{n}', parse(saved(n))) for n in range(filters)]):.2f} s to save"
    )
    print(f"{seconds(lambda: memberships.members('f0')):.2f} s until all are current")
    sizes: list[int] = []
    taken = seconds(lambda: sizes.extend(len(memberships.addresses(name)) for name in memberships.names()))
    print(f"{taken:.2f} s for {filters} policy objects of {sum(sizes):,} addresses")
    some = pods[:CHANGES]
    change(memberships, "said again, nothing new", some)
    change(
        memberships,
        "phase and readiness",
        [msgspec.structs.replace(p, phase="Failed", ready=False) for p in some],
    )
    change(
        memberships,
        "back again, another address",
        [msgspec.structs.replace(p, addresses=("10.9.9.9",)) for p in some],
    )
    gone = seconds(lambda: memberships.apply([("c", "Pod", one.uid, None) for one in some]))
    print(f"{gone / len(some) * 1e6:9.1f} us a change  pods deleted, in one batch")
    change(memberships, "pods created, of known templates", some)
    fresh = [msgspec.structs.replace(p, labels=(("app", f"new-{n}"),)) for n, p in enumerate(some[:500])]
    change(memberships, "labels nobody had before", fresh)
    spaces = [Namespace(uid=f"ns{n}", name=f"ns-{n}", labels=(("team", "t1"),)) for n in range(50)]
    change(memberships, f"a namespace's label, {len(pods) // NAMESPACES} pods each", spaces)
    nodes = [Node(uid=f"n{n}", name=f"node-{n}", labels=(("zone", "z9"),)) for n in range(500)]
    change(memberships, f"a node's label, {len(pods) // NODES} pods each", nodes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pods", type=int, default=150_000)
    parser.add_argument("--filters", type=int, default=1_000)
    given = parser.parse_args()
    print(f"{seconds(lambda: parse('true')):.2f} s for the first filter, which loads the grammar")
    pods = [pod(number) for number in range(given.pods)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    population = Population()
    taken = seconds(lambda: [population.put("c", value) for value in (*places(), *pods)])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{taken:.2f} s and {grown:.0f} MiB to load {given.pods:,} pods and their places\n")
    for text in TYPICAL:
        ask(population, pods, text)
    print()
    keep(population, pods, given.filters)


if __name__ == "__main__":
    main()
