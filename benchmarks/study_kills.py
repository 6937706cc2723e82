"""Kill a study at random moments, and compare it with the same study that runs undisturbed.

    python benchmarks/study_kills.py --kills 20 --seed 0

Each kill hits the driver, a trial's process or the whole cluster (all processes of Ray). When the driver is gone, the
study is resumed. At the end, Optuna's storage and MLflow must hold every trial exactly once, with every epoch exactly
once and the same values as the undisturbed study. All files are in a temporary RAYCLS_HOME. The program prints a line
for each kill and a summary. Exit code 1: something was lost.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from raycls import progress, registry, tracking
from raycls.data.prepare import prepare
from raycls.errors import StudyError
from raycls.tuning import record
from raycls.tuning.spec import Trial

SPACE = "lr: {choices: [0.06, 0.12, 0.24, 0.48]}\nnetwork.dropout: {choices: [0.0, 0.1, 0.2]}\n"
OPTIONS = ["--preset", "smoke", "--set", "epochs=16", "--set", "batch_size=16", "--set", "precision=fp32"]
SEARCH = ["--search", "grid", "--scheduler", "none"]
EPOCHS = 16
GIVE_UP_S = 150  # a driver notices the loss of its cluster after about a minute


def start(folder: Path, log: Path, *arguments: str) -> psutil.Popen:
    """Start `raycls tune digits` with its own Ray, in its own session, and return the process."""
    command = [sys.executable, "-m", "raycls", "tune", "digits", *arguments]
    with log.open("ab") as output:
        return psutil.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
        )


def epochs_of(study: str) -> int:
    with suppress(StudyError):
        return sum(trial.epochs for trial in record.read(study))
    return 0


def ray_processes(driver: psutil.Process, trials_only: bool) -> list[psutil.Process]:
    found = []
    for process in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if not trials_only or command.startswith("ray::trial"):
                found.append(process)
    return found


def strike(driver: psutil.Process, victim: str) -> bool:
    """Send SIGKILL to the victim; return False if there is none at the moment."""
    if victim == "driver":
        driver.kill()
        return True
    victims = ray_processes(driver, victim == "trial")
    for process in victims[-1:] if victim == "trial" else victims:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return bool(victims)


def ended(driver: psutil.Process, seconds: float) -> bool:
    with suppress(psutil.TimeoutExpired):
        driver.wait(seconds)
        return True
    return False


def finish(folder: Path, study: str, log: Path) -> None:
    """Resume the study until it is finished, at most three times."""
    for _ in range(3):
        process = start(folder, log, "--resume", study)
        if ended(process, 900) and finished(study):
            return
    raise SystemExit(f"study {study} is not finished after three attempts; its log is {log}")


def finished(study: str) -> bool:
    found = tracking.find_runs("digits", f"tags.kind = 'study' and attributes.run_name = '{study}'")
    return bool(found) and found[0].info.status == "FINISHED"


def curves(study: str) -> dict[int, list[tuple[int, float]]]:
    """Return each trial's validation losses in MLflow, by trial number. Raises SystemExit if a trial has two runs."""
    found = tracking.find_runs("digits", f"tags.kind = 'trial' and tags.study = '{study}'")
    table: dict[int, list[tuple[int, float]]] = {}
    for run in found:
        number = int(run.data.tags["trial"])
        if number in table:
            raise SystemExit(f"trial {number} of {study} has two MLflow runs")
        points = tracking.client().get_metric_history(run.info.run_id, "val_loss")
        table[number] = [(point.step, point.value) for point in points]
    return table


def faults(study: str, trials: tuple[Trial, ...], alone: tuple[Trial, ...]) -> list[str]:
    """Return the differences between the killed study's trials and those of the undisturbed study."""
    found = []
    if [trial.number for trial in trials] != list(range(len(alone))):
        found.append(f"the trials are {[trial.number for trial in trials]}")
    found += [f"trial {trial.number} is {trial.state}" for trial in trials if trial.state != "done"]
    drawn, expected = curves(study), curves("alone")
    for trial, other in zip(trials, alone, strict=False):
        if trial.values != other.values:
            found.append(f"trial {trial.number} has other values")
        if [step for step, _ in drawn.get(trial.number, [])] != list(range(1, EPOCHS + 1)):
            found.append(f"trial {trial.number} has the epochs {[s for s, _ in drawn.get(trial.number, [])]}")
        elif drawn[trial.number] != expected[trial.number]:
            found.append(f"trial {trial.number} has another curve")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="raycls-kills-") as home:
        os.environ |= {"RAYCLS_HOME": home, "RAY_ADDRESS": "local"}
        folder, log = Path(home), Path(home) / "log"
        prepare("digits")
        (folder / "space.yaml").write_text(SPACE)
        new = [*OPTIONS, *SEARCH, "--space", "space.yaml"]
        with progress.bar("the undisturbed study"):
            if not ended(
                start(folder, log, *new, "--study", "alone", "--model", "alone"), 900
            ) or not finished("alone"):
                raise SystemExit(log.read_text())
        alone = record.read("alone")
        kill(folder, log, new, rng, options.kills)
        finish(folder, "killed", log)
        lost = faults("killed", record.read("killed"), alone)
        best = [
            max(trials, key=lambda t: (t.score or 0, -t.number)) for trials in (alone, record.read("killed"))
        ]
        print(
            f"{len(alone)} trials; best trial of the undisturbed study: #{best[0].number}, "
            f"of the killed study: #{best[1].number}"
        )
        models = [v for v in registry.list_models() if v.name == "killed"]
        if len(models) != 1:
            lost.append(f"{len(models)} models were registered")
        print("nothing is lost" if not lost else "LOST: " + "; ".join(lost))
        sys.exit(1 if lost else 0)


def kill(folder: Path, log: Path, new: list[str], rng: random.Random, kills: int) -> None:
    """Start the study and kill a victim `kills` times, at random moments over the whole study."""
    driver: psutil.Popen | None = None
    total = 12 * EPOCHS
    for count in range(1, kills + 1):
        if driver is None or driver.poll() is not None:
            begun = tracking.find_runs("digits", "tags.kind = 'study' and attributes.run_name = 'killed'")
            arguments = ["--resume", "killed"] if begun else [*new, "--study", "killed", "--model", "killed"]
            driver = start(folder, log, *arguments)
        # A moment between the start of the process and the end of 1/kills of the study.
        target = epochs_of("killed") + rng.randint(0, max(1, total // kills))
        delay = rng.uniform(0, 6)
        waited = time.monotonic()
        while epochs_of("killed") < target and time.monotonic() - waited < 60 and driver.poll() is None:
            time.sleep(0.05)
        time.sleep(delay / 10 if rng.random() < 0.7 else delay)
        victim = rng.choice(["driver", "trial", "cluster"])
        before = epochs_of("killed")
        struck = driver.poll() is None and strike(driver, victim)
        if victim != "trial" and struck and not ended(driver, GIVE_UP_S):
            print(
                f"kill {count}: after {GIVE_UP_S} s, the driver has not noticed the loss of its cluster",
                flush=True,
            )
            driver.kill()
            driver.wait(10)
        print(
            f"kill {count}: {victim} at {before} of {total} epochs{'' if struck else ' (nothing to kill)'}",
            flush=True,
        )
    if driver and driver.poll() is None:
        driver.send_signal(signal.SIGINT)
        ended(driver, 60)


if __name__ == "__main__":
    main()
