"""SIGKILL at random moments: nothing acknowledged is lost, and the final bytes equal an unkilled run's."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.rng import Rng, derive
from selfinstruct.engine.plan import recorded_plan
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import Reader
from tests.cli import command, dataset, environment, run_cli
from tests.conftest import Promise
from tests.loopback import Loopback
from tests.scripted import SETTINGS, STRATEGIES, reply

HASH_SEEDS = ("0", "4242")
PATIENCE_S = 90.0  # a process that runs longer is killed, and its test fails


# Shared with the other tests of this folder: processes, and the content of a ledger.


class Nursery:
    """A process that has imported everything and forks a child for each command.

    A child therefore spends its time on the run and not on imports. It still has its own process id, files and lock,
    and executes the command line starting with its arguments.
    """

    def __init__(self, hash_seed: str = "0") -> None:
        script = "from tests.crash.test_kill import nurse; nurse()"
        self.process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment(PYTHONHASHSEED=hash_seed))  # fmt: skip

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def run(self, log: Path, *args: object, code: int = 0) -> str:
        """Run ``selfinstruct ARGS`` to its end, expect an exit code, return what it printed."""
        return Life(self, log, *args).end(code)


class Life:
    """One child of a nursery; its output goes to the file ``log``."""

    def __init__(self, nursery: Nursery, log: Path, *args: object) -> None:
        self._nursery, self._log, self._lock, self._over = nursery.process, log, threading.Lock(), False
        self._nursery.stdin.write(json.dumps([str(log), *map(str, args)]) + "\n")
        self._nursery.stdin.flush()
        self._pid = int(self._nursery.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, from any thread; does nothing if the process has ended."""
        with self._lock:
            if not self._over:  # until then the nursery keeps the process entry, so that the id is not reused
                os.kill(self._pid, number)

    def wait(self) -> int:
        """Return the exit code; -9 after SIGKILL."""
        watch = threading.Timer(PATIENCE_S, self.kill)
        watch.start()
        code = int(self._nursery.stdout.readline())
        watch.cancel()
        with self._lock:
            self._over = True
        return code

    def end(self, code: int = 0) -> str:
        ended, printed = self.wait(), self._log.read_text()
        assert ended == code, f"exit {ended}, expected {code}:\n{printed}"
        assert "Traceback" not in printed
        return printed


def nurse() -> None:
    """Run the nursery: for each line of JSON fork a child, print its id, and later its exit code."""
    import httpx2  # noqa: F401  (imported lazily by the command line)
    import openai  # noqa: F401

    import selfinstruct.cli.generate  # noqa: F401
    from selfinstruct.cli import main

    for line in sys.stdin:
        log, *args = json.loads(line)
        if not (pid := os.fork()):
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), target, target)):
                os.dup2(descriptor, number)
            sys.argv = ["selfinstruct", *args]
            main()
            sys.exit()
        print(pid, flush=True)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        if not sys.stdin.buffer.peek(1):  # blocks until the next command or the end: by then no one sends signals
            return
        os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def nurseries() -> Iterator[list[Nursery]]:
    """One for each hash seed."""
    with Nursery(HASH_SEEDS[0]) as first, Nursery(HASH_SEEDS[1]) as second:
        yield [first, second]


def options(strategy: str, url: str, rows: int, *more: object) -> list[object]:
    settings = {"strategy": strategy, **SETTINGS[strategy]}
    if strategy == "mix":
        settings["adapt"] = True
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    return ["--backend", "openai", "--model", "scripted", "--base-url", url, "--api", "completion", "-n", rows, "-q",
            *given, *more]  # fmt: skip


@cache
def numbers() -> dict[int, int]:
    """Return request numbers by sampling seed, for a run with seed 0."""
    return {derive("request", 0, number): number for number in range(10_000)}


def number_of(body: dict[str, Any]) -> int:
    return numbers()[body["seed"]]


def out_of_order(body: dict[str, Any]) -> float:
    """Return a delay of up to 20 ms that depends on the body alone, so that completions overtake each other."""
    return 0.02 * Rng("delay", body["seed"]).random()


def made(run: Path) -> tuple[bytes, bytes]:
    """Return the bytes of the dataset and of the manifest."""
    [rows] = (run / "dataset").glob("*.jsonl")
    return rows.read_bytes(), (run / "dataset" / "manifest.json").read_bytes()


def commits(run: Path, columns: str = "k, body", table: str = "outcomes") -> dict[int, Any]:
    """Return every outcome on disk, by number; the file must be intact."""
    if not (run / "run.sqlite").exists():
        return {}
    ledger = sqlite3.connect(f"file:{run / 'run.sqlite'}?mode=ro", uri=True)
    try:
        assert ledger.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not ledger.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            return {}
        return dict(ledger.execute(f"SELECT {columns} FROM {table}"))
    finally:
        ledger.close()


# Kills of a run against a server.


class Model:
    """The scripted model, which also triggers a kill.

    Args:
        moody: Whether a repeated request gets a different completion.

    Attributes:
        replies: Every completion so far, by request number.
    """

    def __init__(self, *, moody: bool = False) -> None:
        self.replies: dict[int, list[str]] = {}
        self._moody = moody
        self._lock = threading.Lock()
        self._left, self._pause_s, self._end = 0, 0.0, lambda: None

    def schedule_kill(self, answers: int, pause_s: float, end: Callable[[], None]) -> None:
        """Call ``end`` ``pause_s`` seconds after the next ``answers`` completions; 0 starts the pause now."""
        with self._lock:
            self._left, self._pause_s, self._end = answers, pause_s, end
        if not answers:
            threading.Timer(pause_s, end).start()

    def __call__(self, body: dict[str, Any]) -> str:
        with self._lock:
            replies = self.replies.setdefault(number_of(body), [])
            mood = f"{len(replies)} " if self._moody and replies else ""
            replies.append(reply({"prompt": mood + body["prompt"]}))
            self._left -= 1
            if self._left == 0:
                threading.Timer(self._pause_s, self._end).start()
            return replies[-1]


class Killed:
    """A run that is killed repeatedly and checked after each kill.

    Attributes:
        kills: Number of kills so far.
        inside: Kills that hit the loop: the process had sent something and was not exporting yet.
        ahead: Outcomes on disk at a kill that were certainly not processed, because an earlier one was missing.
        stored: Outcomes on disk after the last kill.
        again: Requests that were sent by more than one process.
    """

    def __init__(self, run: Path, nursery: Nursery, model: Model, server: Loopback, args: list[object]) -> None:
        self.run, self.nursery, self.model, self.server = run, nursery, model, server
        self.args = ["generate", run, *args]
        self.kills = self.inside = self.ahead = self.again = 0
        self.stored: dict[int, bytes] = {}
        self._log = run.with_suffix(".log")

    def kill(self, answers: int, pause_s: float, *, stuck_s: float = 0.0) -> bool:
        """Start a process and kill it after ``answers`` completions; return False if the run ended before.

        Args:
            answers: Completions until the kill.
            pause_s: Seconds between the last of them and the kill.
            stuck_s: Seconds before the kill during which another process locks the ledger, so that no commit succeeds:
                long enough to expose a run that does not wait for its commits.
        """
        before = len(self.server.arrived)
        life = Life(self.nursery, self._log, *self.args)

        def end_stuck() -> None:
            with closing(sqlite3.connect(self.run / "run.sqlite", isolation_level=None)) as ledger:
                ledger.execute("BEGIN IMMEDIATE")
                time.sleep(stuck_s)
                life.kill()

        self.model.schedule_kill(answers, pause_s, end_stuck if stuck_s else life.kill)
        return self._died(life, before)

    def kill_in_the_export(self) -> bool:
        """Start a process and kill it once the dataset folder appears; return False if the run ended before."""
        before = len(self.server.arrived)
        life, over = Life(self.nursery, self._log, *self.args), threading.Event()

        def watch() -> None:
            while not over.wait(0.0002):
                if (self.run / "dataset").exists():
                    life.kill()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            return self._died(life, before)
        finally:
            over.set()
            watcher.join()

    def finish(self) -> None:
        before = len(self.server.arrived)
        self.nursery.run(self._log, *self.args)
        self._check(before)

    def _died(self, life: Life, before: int) -> bool:
        code = life.wait()
        assert code in (0, -signal.SIGKILL), self._log.read_text()
        sent = len(self.server.arrived) > before
        self._check(before)
        if code == 0:
            return False
        self.kills += 1
        self.inside += sent and not (self.run / "dataset").exists()
        return True

    def _check(self, before: int) -> None:
        """Check the invariants after a process has ended.

        Args:
            before: Number of requests that had arrived when the process started.
        """
        arrived = [number_of(request.body) for request in list(self.server.arrived)]
        sent = set(arrived[before:])
        assert not sent & self.stored.keys(), "a request was sent again whose outcome had been stored"
        outcomes = commits(self.run)
        assert self.stored.items() <= outcomes.items(), "an acknowledged completion was lost or altered"
        for number in outcomes.keys() - self.stored.keys():
            assert json.loads(outcomes[number])["choices"][0][0] in self.model.replies[number], (
                "not what the server sent"
            )
        self.again += len(sent & set(arrived[:before]))
        self.stored = outcomes
        sends = commits(self.run, "k, COUNT(*)", "sends GROUP BY k")
        unsent = [number for number, count in Counter(arrived).items() if count > sends.get(number, 0)]
        assert not unsent, f"{unsent} arrived, and the ledger has no record of their sends"
        if not sends:
            return
        with Reader(self.run) as reader:
            state = RunState.from_ledger(recorded_plan(reader), reader)
        assert max(sends) < state.scheduler.numbered, "a request depends on an outcome that was not stored"
        self.ahead += len(state.waiting) if not state.done else 0


KINDS = ("stuck", "loop", "loop", "loop", "stuck", "loop", "loop", "start")  # the last kill of each run hits the export


def kill_often(tmp_path: Path, strategy: str, nurseries: list[Nursery], *, kills: int, rows: int, most: int,
               width: int, dice: random.Random, moody: bool = False) -> Counter[str]:  # fmt: skip
    """Kill runs of one strategy, each up to ``most`` times, until there are ``kills`` kills.

    Returns:
        Counts over all runs, named as in ``Killed``.
    """
    counts: Counter[str] = Counter()
    with Loopback(Model(), delay=out_of_order) as server:
        line = options(strategy, server.url, rows, "--concurrency", width)
        nurseries[0].run(tmp_path / "log", "generate", tmp_path / "whole", *line)
    total = len(commits(tmp_path / "whole"))
    while counts["kills"] < kills:
        counts["runs"] += 1
        run, model = tmp_path / f"killed-{counts['runs']}", Model(moody=moody)
        with Loopback(model, delay=out_of_order) as server:
            line = options(strategy, server.url, rows, "--concurrency", width)
            killed = Killed(run, nurseries[counts["runs"] % 2], model, server, line)
            wanted = min(most, kills - counts["kills"])
            more = True
            while more and killed.kills < wanted - 1:
                kind, answers = KINDS[killed.kills % len(KINDS)], 1 + dice.randrange(max(1, 3 * total // (2 * most)))
                if kind == "start":  # while the process opens and reads the ledger
                    more = killed.kill(0, dice.uniform(0.0, 0.3))
                elif kind == "stuck":
                    more = killed.kill(answers, 0.0, stuck_s=0.15)
                else:
                    more = killed.kill(answers, dice.choice([0.0, 0.03]))
            if more:
                killed.kill_in_the_export()
            killed.finish()
        check_the_end(killed, tmp_path / "whole", rows, moody=moody)
        counts += Counter(kills=killed.kills, inside=killed.inside, ahead=killed.ahead, again=killed.again,
                         stored=len(killed.stored))  # fmt: skip
        print(f"  {strategy} {counts['runs']}: {killed.kills} kills, {killed.inside} in the loop, {len(killed.stored)} "
              f"completions, {killed.ahead} of them stored before their turn, {killed.again} sent again")  # fmt: skip
    return counts


def check_the_end(killed: Killed, whole: Path, rows: int, *, moody: bool) -> None:
    with Reader(killed.run) as reader:
        ids = [row.id for row in RunState.from_ledger(recorded_plan(reader), reader).rows]
    lines = dataset(killed.run).splitlines()
    assert len(set(ids)) == len(ids) == len(set(lines)) == len(lines) == rows
    if moody:  # only a replay has the same completions
        whole = killed.run.with_suffix(".replayed")
        killed.nursery.run(killed.run.with_suffix(".log"), "generate", whole, "--from", killed.run, "-n", rows)
    assert made(killed.run) == made(whole)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "mix"])
def test_a_few_kills_change_no_byte(tmp_path: Path, strategy: str, nurseries: list[Nursery]) -> None:
    counts = kill_often(
        tmp_path,
        strategy,
        nurseries,
        kills=3,
        rows={"alpaca": 80, "mix": 60}.get(strategy, 20),
        most=3,
        width=64,
        dice=random.Random(1),
    )
    assert counts["kills"] == 3
    assert counts["inside"] > 0


def test_a_request_with_a_stored_outcome_is_never_sent_again(tmp_path: Path, nurseries: list[Nursery]) -> None:
    kill_often(tmp_path, "alpaca", nurseries, kills=3, rows=80, most=3, width=64, dice=random.Random(2), moody=True)


@pytest.mark.prove
def test_two_hundred_kills_change_no_byte(tmp_path: Path, nurseries: list[Nursery], promise: Promise) -> None:
    counts, dice, began = Counter(), random.Random(0), time.monotonic()
    shares = [200 // len(STRATEGIES) + (place < 200 % len(STRATEGIES)) for place in range(len(STRATEGIES))]
    for strategy, kills in zip(STRATEGIES, shares, strict=True):
        folder = tmp_path / strategy
        folder.mkdir()
        rows = {"alpaca": 500}.get(strategy, 80)
        counts += kill_often(folder, strategy, nurseries, kills=kills, rows=rows, most=20, width=64, dice=dice)
    print(f"  {time.monotonic() - began:.0f} s")
    assert counts["kills"] == 200
    assert counts["inside"] >= 150
    assert counts["ahead"] > 0, "no completion was ever stored before its turn"
    promise(
        "crashes",
        f"{counts['kills']} kills of {counts['runs']} runs ({', '.join(STRATEGIES)}; concurrency 64), "
        f"{counts['inside']} in the loop: 0 of {counts['stored']:,} completions lost, altered or requested again "
        f"({counts['ahead']:,} were stored before their turn), no row id twice, "
        "dataset and manifest equal to an unkilled run's",
    )


@pytest.mark.prove
def test_forty_kills_with_a_model_that_varies_repeated_completions(
    tmp_path: Path, nurseries: list[Nursery], promise: Promise
) -> None:
    counts = Counter()
    for strategy in STRATEGIES:
        folder = tmp_path / strategy
        folder.mkdir()
        counts += kill_often(folder, strategy, nurseries, kills=20, rows=60, most=20, width=64, moody=True,
                            dice=random.Random(3))  # fmt: skip
    promise(
        "crashes",
        f"{counts['kills']} kills with a model that varies repeated completions ({counts['again']} requests were "
        "repeated): the dataset follows from the completions in the ledger",
    )


# Kills of a replay: no server, and a separate interpreter for each process.


def ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_and_resume(run: Path, args: list[object], *, kills: int, longest_s: float, seed: str) -> int:
    """Kill the command ``kills`` times, each after a random time, then let it finish.

    Returns:
        The number of kills that hit the loop, after commits of that process.
    """
    dice = random.Random(int(seed) + 1)
    environ, inside, stored = environment(PYTHONHASHSEED=seed), 0, {}
    for number in range(1, kills + 1):
        process = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
        # Every fifth kill may hit the start; for the others the time starts at the first commit of the process.
        while number % 5 and len(commits(run)) <= len(stored) and not ended(process, within=0.02):
            pass
        if not ended(process, within=dice.uniform(0.0, longest_s)):
            process.send_signal(signal.SIGKILL)
        process.communicate()
        outcomes = commits(run)
        assert stored.items() <= outcomes.items(), "an acknowledged completion was lost or altered"
        inside += process.returncode == -signal.SIGKILL and len(outcomes) > len(stored)
        stored = outcomes
    run_cli(*args, env={"PYTHONHASHSEED": seed})
    assert stored.items() <= commits(run).items()
    return inside


@pytest.mark.prove
def test_twenty_kills_of_a_replay_change_no_byte(tmp_path: Path) -> None:
    source, rows = tmp_path / "source", 300
    with Loopback(reply) as server:
        run_cli("generate", source, *options("self-instruct", server.url, rows, "--concurrency", 64))
    more = ["--from", source, "-n", rows, "--concurrency", 16, "--set", "replay.pace=0.3"]
    run_cli("generate", tmp_path / "whole", *more)
    assert made(tmp_path / "whole") == made(source)
    for seed in HASH_SEEDS:
        run = tmp_path / f"killed-{seed}"
        inside = kill_and_resume(run, ["generate", run, *more], kills=20, longest_s=0.6, seed=seed)
        print(f"  PYTHONHASHSEED={seed}: {inside} of 20 kills inside the loop")
        assert inside >= 15
        assert made(run) == made(source)


# Kills at the start and at the end.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_before_processing_sends_nothing_again(tmp_path: Path, strategy: str, nurseries: list[Nursery]) -> None:
    """All outcomes are stored and none is processed: the next start processes them and sends nothing."""
    run = tmp_path / "a"
    with Loopback(reply) as server:
        args = ("generate", run, *options(strategy, server.url, 20))
        nurseries[0].run(tmp_path / "log", *args)
        before = made(run)
        for file in (run / "dataset").iterdir():
            file.unlink()
        sent = len(server.arrived)
        nurseries[1].run(tmp_path / "log", *args)
        assert len(server.arrived) == sent
        assert made(run) == before


def test_a_kill_before_the_first_commit_leaves_a_usable_directory(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "run.sqlite").touch()
    (run / "run.lock").write_text("99999\n")
    assert "holds no run" in run_cli("status", run, code=1)
    with Loopback(reply) as server:
        run_cli("generate", run, *options("self-instruct", server.url, 3))
    assert len(dataset(run).splitlines()) == 3
