"""Retrain a model in rounds with new pictures, one round with wrong labels, and look whom each round makes champion.

    python benchmarks/retraining.py --source photos/ --name emotions

A part of the pictures of a folder of class folders makes the first version and the first champion. The others come in
ROUNDS parts, which somebody uploads and an administrator accepts. In round WRONG_ROUND a fifth of them has a wrong
label, and nobody notices. Each round is `raycls retrain --then promote`. The page has what each round decided, and how
right its champion is on the pictures of `gate` of the first dataset version, which every round shares. The results go
to OUTPUT/retraining/NAME.json (default: benchmarks/results), and the page OUTPUT/retraining.md is rebuilt. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from harness import results_page
from harness.results_page import Document, Row, share, table

from raycls import command, home, progress, registry
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import BenchmarkError, UsageError
from raycls.lifecycle import intake, retraining, review
from raycls.lifecycle.retraining import Retraining, Wanted
from raycls.lifecycle.uploads import Uploads
from raycls.training.evaluation import evaluate

HERE = Path(__file__).parent
ROUNDS, WRONG_ROUND, WRONG = 5, 3, 0.2
SHARES = "0.5,0.1,0.3,0.1"  # a large gate: it decides
SENDER = "annotator"
HEAD = """\
# Retraining in rounds

`benchmarks/retraining.py` made this page. Each round adds pictures and runs `raycls retrain --then promote`. The
accuracies are those on the pictures of `gate` of the first dataset version, which take no part in any training.
"""


def raycls(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raycls", *words], env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"raycls {' '.join(words)} failed: {done.stderr[-2000:]}")


def measure(source: Path, name: str, size: int, preset: str, new: int, seed: int) -> Iterator[list[Row]]:
    """Yield the rows so far: round 0 is the first champion. new: pictures of all rounds together."""
    random = np.random.default_rng(seed)
    files = sorted(path for path in source.glob("*/*") if path.is_file())
    if len(files) <= 2 * new:
        raise UsageError(
            f"{source} has {len(files)} pictures: --new {new} leaves too few for a first version"
        )
    order = random.permutation(len(files))
    first = home.home() / "first"
    for index in order[new:]:
        copy = first / files[index].parent.name / files[index].name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index], copy)
    classes = sorted({path.parent.name for path in files})
    with progress.bar("the first version"):
        raycls("data", "prepare", str(first), "--name", name, "--size", str(size), "--shares", SHARES)
        raycls("train", name, "--preset", preset)
        raycls("promote", name, "1")
    rows: list[Row] = [{"round": 0, "champion": 1, "champion_accuracy": accuracy(name, 1)}]
    yield rows
    for number, part in enumerate(np.array_split(order[:new], ROUNDS), start=1):
        labels = [files[index].parent.name for index in part]
        wrong = round(WRONG * len(part)) if number == WRONG_ROUND else 0
        for i in range(wrong):
            labels[i] = str(random.choice([each for each in classes if each != labels[i]]))
        taken = send(name, [files[index] for index in part], labels)
        with progress.bar(f"round {number} of {ROUNDS}"):
            record = retraining.begin(
                Wanted(model=name, then="promote", preset=preset, trust=(SENDER,)),
                by="benchmark",
                in_jobs=False,
            )
            raycls("retrain", "run", record.id)
        rows.append({"round": number, "taken": taken, "wrong": wrong, **figures(name, record)})
        yield rows


def send(name: str, pictures: list[Path], labels: list[str]) -> int:
    """Put the pictures into the review queue and accept them. Return how many were new."""
    uploads, taken = Uploads(), 0
    for path, label in zip(pictures, labels, strict=True):
        answer = intake.add(uploads, name, [(path.name, path.read_bytes())], label=label, sender=SENDER)
        shas = [each.sha256 for each in answer.taken]
        review.accept(uploads, name, shas, by="eve")
        taken += len(shas)
    return taken


def figures(name: str, record: Retraining) -> Row:
    done = retraining.RETRAININGS.load(record.id).done
    found = done["compare"]
    version = registry.resolve(done["train"]["model"])
    champion = registry.champion(name)
    assert champion is not None
    return {
        "added": done["data"]["added"],
        "version": int(version.version),
        "accuracy": accuracy(name, int(version.version)),
        "verdict": found["verdict"],
        "reason": found["reason"],
        "gain": found["gains"]["accuracy"],
        "pictures": found["pictures"],
        "decision": done["decide"]["decision"],
        "champion": int(champion.version),
        "champion_accuracy": accuracy(name, int(champion.version)),
    }


def accuracy(name: str, version: int) -> float:
    """Return the version's accuracy on the gate that every round shares."""
    predictor = Predictor.load(registry.checkpoint(registry.resolve(f"{name}/{version}")))
    return evaluate(predictor, open_dataset(f"{name}@1"), "gate").accuracy


def section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = []
    for row in document["rows"]:
        if row["round"] == 0:
            first = share(row["champion_accuracy"])
            lines.append(("0", "", "", first, "", "", "first champion", row["champion"], first))
            continue
        gain = row["gain"]
        lines.append(
            (
                row["round"],
                f"{row['added']}" + (f", of which {row['wrong']} wrong" if row["wrong"] else ""),
                row["version"],
                share(row["accuracy"]),
                f"{100 * gain['estimate']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})",
                row["verdict"],
                row["decision"],
                row["champion"],
                share(row["champion_accuracy"]),
            )
        )
    head = (
        "round",
        "pictures added",
        "new version",
        "its accuracy",
        "gain at the gate, points (95%)",
        "verdict",
        "decision",
        "champion afterwards",
        "its accuracy",
    )
    accuracies = [row["champion_accuracy"] for row in document["rows"]]
    fell = sum(after < before for before, after in itertools.pairwise(accuracies))
    arguments = document["arguments"]
    facts = (
        f"Measured {document['date']} (UTC), preset `{arguments['preset']}`, {arguments['size']} pixels, "
        f"{arguments['new']} new pictures. The champion became worse in {fell} of {ROUNDS} rounds."
    )
    return f"## {document['name']}\n\n{facts}\n\n{table(head, lines)}"


def sections(documents: dict[str, Document]) -> str:
    """Return the parts of all names that begin alike: the page knows a section by the name before the first -."""
    return "\n".join(section({name: document}) for name, document in documents.items())


def main(arguments: list[str]) -> None:
    """Measure one folder, rebuild the page and print the rows. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--name", required=True, help="name of the dataset, for the page")
    parser.add_argument("--size", type=int, default=32, help="pixels (default: 32)")
    parser.add_argument("--preset", default="quick", help="(default: quick)")
    parser.add_argument("--new", type=int, default=200, help="pictures of all rounds together (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    facts = {"preset": options.preset, "size": options.size, "new": options.new, "seed": options.seed}
    with tempfile.TemporaryDirectory(prefix="raycls-rounds-") as folder, home.elsewhere(Path(folder)):
        growing = (
            results_page.document(options.name, facts, rows)
            for rows in measure(
                options.source, options.name, options.size, options.preset, options.new, options.seed
            )
        )
        file, last = results_page.keep_last(options.output, "retraining", growing)
    names = sorted(path.stem for path in (options.output / "retraining").glob("*.json"))
    page = results_page.write(
        options.output, "retraining", HEAD, {name.partition("-")[0]: sections for name in names}
    )
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(last))


if __name__ == "__main__":
    command.run(main)
