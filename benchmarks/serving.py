"""Measure requests/s and latency of a served model: by number of replicas, or compared with other servers.

    python benchmarks/serving.py --replicas 1,2                              # the champion with 1, then 2 replicas
    python benchmarks/serving.py --url http://127.0.0.1:8000 --images photos/   # a server that runs already
    python benchmarks/serving.py --peers                                     # compare with FastAPI, LitServe and others
    python benchmarks/serving.py --peers --model photos/1 --images photos/ --name photographs

Without --peers this is `raycls bench` (its --help lists every option): the page and the plot go to benchmarks/results/.
With --peers the results go to OUTPUT/servers/NAME.json (default: benchmarks/results), and the page OUTPUT/servers.md is
rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from harness import results_page, servers_page, serving_peers

from raycls import command, progress, registry
from raycls.benchmark.images import write_images
from raycls.cli import main as raycls
from raycls.data.versions import open_dataset
from raycls.models.card import load_card

HERE = Path(__file__).parent
RESULTS, PROGRAMS = HERE / "results", HERE / "peers" / "serving"
IMAGES = 1000  # images of the test split that are sent without --images


def compare(arguments: list[str]) -> None:
    """Compare raycls with its peers, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [peer.name for peer in serving_peers.PEERS]
    parser.add_argument(
        "--peers", nargs="*", metavar="NAME", help=f"which peers: {', '.join(names)} (default: all)"
    )
    parser.add_argument("--model", help="NAME/VERSION (default: the latest champion)")
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of images to send (default: the test split of the model's dataset)",
    )
    parser.add_argument(
        "--name", default="small", choices=list(servers_page.SECTIONS), help="name of the results"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="a round measures every server once (default: 3)"
    )
    parser.add_argument("--seconds", type=float, default=3, help="length of each load (default: 3)")
    parser.add_argument(
        "--config", type=Path, default=Path("serve_config.yaml"), help="raycls's configuration file"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    if unknown := set(options.peers) - set(names):
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; the peers are: {', '.join(names)}")

    version = registry.resolve(options.model)
    card = load_card(registry.checkpoint(version))
    with tempfile.TemporaryDirectory() as folder:
        images = options.images or Path(folder)
        if options.images is None:
            write_images(open_dataset(card.dataset), images, IMAGES)
        rounds = serving_peers.compare(
            version,
            images,
            programs=PROGRAMS,
            config=options.config,
            peers=options.peers or names,
            rounds=options.rounds,
            seconds=options.seconds,
        )
        arguments_used = {
            "network": card.network,
            "image_size": card.image_size,
            "seconds": options.seconds,
            "engine": registry.engine_to_serve(version),
        }
        growing = (results_page.document(options.name, arguments_used, rows) for rows in rounds)
        file, document = results_page.keep_last(options.output, "servers", growing)
    progress.say(f"wrote {file} and {servers_page.write(options.output)}")
    print(json.dumps(document))


if __name__ == "__main__":
    if "--peers" in sys.argv:
        command.run(compare)
    else:
        raycls(["bench", "--json", "--output", str(RESULTS), *sys.argv[1:]])
