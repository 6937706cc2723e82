"""Measure which requests a cluster of three hosts loses when a part of it fails or changes.

    python benchmarks/cluster.py                    # all of it, some twenty minutes; as root, with PostgreSQL and Redis
    python benchmarks/cluster.py kill head          # some of it

Ray's head and two nodes are hosts in namespaces (benchmarks/harness/three_hosts.py), with PostgreSQL, Redis and S3
beside them. A client sends 200 requests/s to the address of a node that stays. The results go to
OUTPUT/cluster/cluster.json and OUTPUT/cluster.md (default: benchmarks/results). The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import cluster_life, results_page
from harness.results_page import Document, Section, table
from harness.three_hosts import BIN, DASHBOARD, RATE, Cluster, Second, cluster

from raycls import command, progress

HERE = Path(__file__).parent
CALM_S, SECONDS = 6, 40  # of load before something happens, and in all
FULL = 0.95  # of the rate counts as all of it

Row = dict[str, Any]


def disturbed(found: Cluster, what: str, goal: str, act: Callable[[], None], seconds: int = SECONDS) -> Row:
    """Return what a client loses while something happens. It asks the first node, which stays."""
    with progress.bar(what), found.load(seconds, found.nodes[0]) as answers:
        time.sleep(CALM_S)
        at = time.time()
        act()
        acted = time.time() - at
    errors: Counter[str] = Counter()
    for second in answers:
        errors.update(second["errors"])
    return {
        "what": what,
        "goal": goal,
        "requests": sum(second["answered"] for second in answers) + errors.total(),
        "failed": errors.total(),
        "errors": dict(errors),
        "acted_s": acted,
        "back_s": back(answers, at),
    }


def back(answers: list[Second], at: float) -> float | None:
    """Return the seconds from `at` to the end of the last second that was not whole; 0 for none, None for still not."""
    worse = [second for second in answers if second["began"] > at - 1 and not whole(second)]
    if not worse:
        return 0.0
    return None if worse[-1] is answers[-1] else worse[-1]["ended"] - at


def whole(second: Second) -> bool:
    return not second["errors"] and second["answered"] >= FULL * RATE


def node_again(found: Cluster) -> None:
    """Start Ray on the second node again, and have it serve."""
    found.start_node(found.nodes[1])
    cluster_life.spread(found)


def kill(found: Cluster) -> Row:
    row = disturbed(found, "a node killed", "those inside it; back in 30 s", found.nodes[1].kill)
    node_again(found)
    return row


def cut(found: Cluster) -> Row:
    node = found.nodes[1]
    row = disturbed(found, "a node cut off: its link is down", "those inside it; back in 30 s", node.cut)
    node.join()
    node.kill()  # what Ray has given up
    node_again(found)
    return row


def drain(found: Cluster) -> Row:
    node, identifier = found.nodes[1], found.node_id(found.nodes[1])

    def act() -> None:
        command = [
            str(BIN / "ray"),
            "drain-node",
            "--node-id",
            identifier,
            "--deadline-remaining-seconds",
            "60",
        ]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "maintenance"]
        found.head.run(command)
        left = partial(found.replicas, also_ending=True)
        found.until(lambda: node.address not in left(), "the node's replicas have moved", 90)
        node.kill()

    row = disturbed(found, "a node drained, then ended", "0", act)
    node_again(found)
    return row


def head(found: Cluster) -> Row:
    def act() -> None:
        found.kill_head()
        time.sleep(3)
        found.start_head()

    row = disturbed(found, "the head killed, and back with Redis", "0", act, seconds=60)
    found.until(found.replicas, "Serve answers again")
    return row


def promote(found: Cluster) -> Row:
    def act() -> None:
        found.raycls("promote", "digits", "2", "--force", "--reason", "a copy", "--address", DASHBOARD)
        found.raycls("rollback", "digits", "--address", DASHBOARD)

    return disturbed(found, "promotion and rollback, replicas on both nodes", "0", act, seconds=90)


PARTS: dict[str, Callable[[Cluster], Row | list[Row]]] = {
    "life": cluster_life.life,
    "study": cluster_life.study,
    "bytes": cluster_life.dataset,
    "scale": cluster_life.scale,
    "promote": promote,
    "kill": kill,
    "cut": cut,
    "drain": drain,
    "head": head,
}


def prepare(found: Cluster) -> list[Row]:
    """Train two versions on two nodes, and serve the first. Return what was seen on the way."""
    with progress.bar("training on two nodes"):
        found.raycls("data", "prepare", "digits")
        found.raycls("data", "push", "digits")
        for seed in ("0", "1"):
            found.raycls("train", "digits", "--preset", "smoke", "--workers", "2", "--seed", seed)
    with progress.bar("serving"):
        found.raycls("promote", "digits", "1")
        found.token = found.raycls("tokens", "add", "camera", "--role", "predict").split()[-1]
        found.serve(min_replicas=4, max_replicas=4)  # an update starts four more beside them
    return [
        {
            "what": "each node answers for all replicas",
            "value": [found.predict(node) for node in found.nodes],
            "goal": [200, 200],
        },
    ]


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    seen = [
        (row["what"], _shown(row["value"]), _shown(row["goal"])) for row in document["rows"] if "value" in row
    ]
    lines = [
        (
            row["what"],
            f"{row['requests']:,}",
            ", ".join(f"{kind}: {count}" for kind, count in row["errors"].items()) or "**0**",
            row["goal"],
            "not" if row["back_s"] is None else f"{row['back_s']:.1f} s",
        )
        for row in document["rows"]
        if "value" not in row
    ]
    header = ("what happens", "requests", "failed", "goal", "all of the rate again after")
    return f"{document['date']} UTC.\n\n{table(('', 'seen', 'goal'), seen)}\n{table(header, lines)}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


HEAD = f"""\
# Three hosts

Ray's head and two nodes of two cores each, with four replicas, on hosts of their own: network and mount namespaces
of one machine, so that all share its cores. A client sends {RATE:.0f} requests/s to the address of a node that
stays; every answer but status 200 counts as failed.
"""
SECTIONS: dict[str, Section] = {"cluster": _section}


def main(arguments: list[str]) -> None:
    """Build the cluster, disturb it, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"{unknown[0]} is no part; the parts are {', '.join(PARTS)}")
    with cluster() as found:
        rows = prepare(found)
        for part in options.parts or PARTS:
            made = PARTS[part](found)
            rows += made if isinstance(made, list) else [made]
            print(json.dumps(made), file=sys.stderr)
            document = results_page.document("cluster", {"parts": options.parts}, rows)
            file = results_page.keep(
                options.output, "cluster", document
            )  # what was measured stays, if the next fails
    page = results_page.write(options.output, "cluster", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
