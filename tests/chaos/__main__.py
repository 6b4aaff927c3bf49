"""``python -m tests.chaos --seed S --minutes M [--runs N]``: trials of seeds from S on, until time or number is up."""

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import drawn
from tests.chaos.trial import Trial

log = logging.getLogger("chaos")


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    words.add_argument("--seed", type=int, default=0, help="of the first trial; the next ones follow")
    words.add_argument("--minutes", type=float, default=10.0, help="no trial is begun after these")
    words.add_argument("--runs", type=int, default=10**9, help="at most")
    words.add_argument("--brief", action="store_true", help="fewer and shorter faults, one command each")
    words.add_argument("--keep", type=Path, help="folder for the trials; those that hold are removed")
    chosen = words.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    place, deadline = chosen.keep or Path(tempfile.mkdtemp()), time.monotonic() + 60 * chosen.minutes
    begun, failed = 0, []
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        if time.monotonic() > deadline:
            break
        begun += 1
        failed += [] if held(seed, chosen.brief, place / f"trial-{seed}") else [seed]
    log.info("%d trials, failed: %s", begun, failed or "none")
    return 1 if failed else 0


def held(seed: int, brief: bool, folder: Path) -> bool:
    plan, begun = drawn(seed, brief), time.monotonic()
    what = " ".join((plan.way, plan.topology, plan.durability, plan.payload, *(each.action for each in plan.faults)))
    try:
        rounds = Trial(plan, folder).hold()
    except AssertionError as error:
        log.error("seed %d: %s\n%s\nsee %s", seed, what, error, folder)
        return False
    log.info("seed %d: %s; rounds %s in %.0f s", seed, what, list(rounds.values()), time.monotonic() - begun)
    shutil.rmtree(folder)
    return True


if __name__ == "__main__":
    sys.exit(main())
