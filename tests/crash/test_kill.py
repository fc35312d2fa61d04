"""SIGKILL at random moments: nothing acknowledged is lost, and the final bytes are those of a run never stopped."""

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
PATIENCE_S = 90.0  # after which a life that does not end is killed, and its test fails


# What the other tests of this folder use too: processes, and what stands in a ledger.


class Nursery:
    """Where runs are born: a process that has imported everything forks one for each command.

    So a life is as long as its run, not as its imports. It has a process id, files and a lock of its own all the same,
    and is the command line from its arguments on.
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
    """One process, from its birth in a nursery; what it prints goes to the file ``log``."""

    def __init__(self, nursery: Nursery, log: Path, *args: object) -> None:
        self._nursery, self._log, self._lock, self._over = nursery.process, log, threading.Lock(), False
        self._nursery.stdin.write(json.dumps([str(log), *map(str, args)]) + "\n")
        self._nursery.stdin.flush()
        self._pid = int(self._nursery.stdout.readline())

    def kill(self, number: int = signal.SIGKILL) -> None:
        """From any thread; harmless when it is over."""
        with self._lock:
            if not self._over:  # until then the nursery keeps the process's entry: the id is nobody else's
                os.kill(self._pid, number)

    def wait(self) -> int:
        """Its exit code; that of a kill is -9."""
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
    """The nursery's own process: for each line of JSON a child; its id, and its exit code when it is over."""
    import httpx2  # noqa: F401  (what the command line imports only when it is needed)
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
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(found.si_status if found.si_code == os.CLD_EXITED else -found.si_status, flush=True)
        if not sys.stdin.buffer.peek(1):  # the next command, or the end: whoever may kill has heard of it by then
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
    """The number of a request, by the sampling seed that its body tells (of a run with seed 0)."""
    return {derive("request", 0, number): number for number in range(10_000)}


def number_of(body: dict[str, Any]) -> int:
    return numbers()[body["seed"]]


def out_of_order(body: dict[str, Any]) -> float:
    """A delay of up to 20 ms that depends on the body alone: answers overtake each other, in each run alike."""
    return 0.02 * Rng("delay", body["seed"]).random()


def made(run: Path) -> tuple[bytes, bytes]:
    """The bytes that a run is about: its dataset and the manifest."""
    [rows] = (run / "dataset").glob("*.jsonl")
    return rows.read_bytes(), (run / "dataset" / "manifest.json").read_bytes()


def commits(run: Path, columns: str = "k, body", table: str = "outcomes") -> dict[int, Any]:
    """Every outcome that is on disk, by number; the file must be whole."""
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
    """The scripted model, and the moment of a kill.

    Args:
        moody: It never says the same twice: asked again, it gives another answer.

    Attributes:
        said: Every answer so far, by number of the request.
    """

    def __init__(self, *, moody: bool = False) -> None:
        self.said: dict[int, list[str]] = {}
        self._moody = moody
        self._lock = threading.Lock()
        self._left, self._pause_s, self._end = 0, 0.0, lambda: None

    def doom(self, answers: int, pause_s: float, end: Callable[[], None]) -> None:
        """Call ``end`` that long after the ``answers``-th answer from now on; 0 begins now."""
        with self._lock:
            self._left, self._pause_s, self._end = answers, pause_s, end
        if not answers:
            threading.Timer(pause_s, end).start()

    def __call__(self, body: dict[str, Any]) -> str:
        with self._lock:
            said = self.said.setdefault(number_of(body), [])
            mood = f"{len(said)} " if self._moody and said else ""
            said.append(reply({"prompt": mood + body["prompt"]}))
            self._left -= 1
            if self._left == 0:
                threading.Timer(self._pause_s, self._end).start()
            return said[-1]


class Killed:
    """A run that is killed again and again, and looked at after each kill.

    Attributes:
        kills: How many so far.
        inside: Those that hit the loop: the life had sent something and was not yet at its end.
        ahead: Outcomes that were on disk at a kill and surely not judged, for one before them was missing.
        stored: Outcomes on disk after the last kill.
        again: Requests that were sent by more than one life.
    """

    def __init__(self, run: Path, nursery: Nursery, model: Model, server: Loopback, args: list[object]) -> None:
        self.run, self.nursery, self.model, self.server = run, nursery, model, server
        self.args = ["generate", run, *args]
        self.kills = self.inside = self.ahead = self.again = 0
        self.stored: dict[int, bytes] = {}
        self._log = run.with_suffix(".log")

    def kill(self, answers: int, pause_s: float, *, stuck_s: float = 0.0) -> bool:
        """Live, and die after so many answers; False if the run was over before.

        Args:
            stuck_s: For so long before the end somebody else locks the ledger, and no commit succeeds: time enough for
                a run that does not wait for its commits.
        """
        before = len(self.server.arrived)
        life = Life(self.nursery, self._log, *self.args)

        def end_stuck() -> None:
            with closing(sqlite3.connect(self.run / "run.sqlite", isolation_level=None)) as ledger:
                ledger.execute("BEGIN IMMEDIATE")
                time.sleep(stuck_s)
                life.kill()

        self.model.doom(answers, pause_s, end_stuck if stuck_s else life.kill)
        return self._died(life, before)

    def kill_in_the_export(self) -> bool:
        """Live until the dataset's folder appears, and die then; False if the run was over before."""
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
        """What must hold at each kill.

        Args:
            before: How many requests had arrived when this life began.
        """
        arrived = [number_of(one.body) for one in list(self.server.arrived)]
        asked = set(arrived[before:])
        assert not asked & self.stored.keys(), "a request was sent again whose outcome had been stored"
        found = commits(self.run)
        assert self.stored.items() <= found.items(), "an acknowledged completion was lost or altered"
        for number in found.keys() - self.stored.keys():
            assert json.loads(found[number])["choices"][0][0] in self.model.said[number], "not what the server said"
        self.again += len(asked & set(arrived[:before]))
        self.stored = found
        sends = commits(self.run, "k, COUNT(*)", "sends GROUP BY k")
        unsent = [number for number, count in Counter(arrived).items() if count > sends.get(number, 0)]
        assert not unsent, f"{unsent} arrived, and the ledger does not know that they were sent"
        if not sends:
            return
        with Reader(self.run) as reader:
            state = RunState.from_ledger(recorded_plan(reader), reader)
        assert max(sends) < state.scheduler.numbered, "a request rests on an outcome that was not stored"
        self.ahead += len(state.waiting) if not state.done else 0


KINDS = ("stuck", "loop", "loop", "loop", "stuck", "loop", "loop", "start")  # and the last of each run in the export


def kill_often(tmp_path: Path, strategy: str, nurseries: list[Nursery], *, kills: int, rows: int, most: int,
               width: int, dice: random.Random, moody: bool = False) -> Counter[str]:  # fmt: skip
    """Kill runs of one strategy, each up to ``most`` times, until there are so many kills.

    Returns:
        Counts over all of them, named as in ``Killed``.
    """
    found: Counter[str] = Counter()
    with Loopback(Model(), delay=out_of_order) as server:
        line = options(strategy, server.url, rows, "--concurrency", width)
        nurseries[0].run(tmp_path / "log", "generate", tmp_path / "whole", *line)
    total = len(commits(tmp_path / "whole"))
    while found["kills"] < kills:
        found["runs"] += 1
        run, model = tmp_path / f"killed-{found['runs']}", Model(moody=moody)
        with Loopback(model, delay=out_of_order) as server:
            line = options(strategy, server.url, rows, "--concurrency", width)
            killed = Killed(run, nurseries[found["runs"] % 2], model, server, line)
            wanted = min(most, kills - found["kills"])
            more = True
            while more and killed.kills < wanted - 1:
                kind, answers = KINDS[killed.kills % len(KINDS)], 1 + dice.randrange(max(1, 3 * total // (2 * most)))
                if kind == "start":  # while it opens the ledger and reads it
                    more = killed.kill(0, dice.uniform(0.0, 0.3))
                elif kind == "stuck":
                    more = killed.kill(answers, 0.0, stuck_s=0.15)
                else:
                    more = killed.kill(answers, dice.choice([0.0, 0.03]))
            if more:
                killed.kill_in_the_export()
            killed.finish()
        check_the_end(killed, tmp_path / "whole", rows, moody=moody)
        found += Counter(kills=killed.kills, inside=killed.inside, ahead=killed.ahead, again=killed.again,
                         stored=len(killed.stored))  # fmt: skip
        print(f"  {strategy} {found['runs']}: {killed.kills} kills, {killed.inside} in the loop, {len(killed.stored)} "
              f"completions, {killed.ahead} times one waited for its verdict, {killed.again} sent again")  # fmt: skip
    return found


def check_the_end(killed: Killed, whole: Path, rows: int, *, moody: bool) -> None:
    with Reader(killed.run) as reader:
        ids = [row.id for row in RunState.from_ledger(recorded_plan(reader), reader).rows]
    lines = dataset(killed.run).splitlines()
    assert len(set(ids)) == len(ids) == len(set(lines)) == len(lines) == rows
    if moody:  # no other run has these answers; one that replays them was never stopped
        whole = killed.run.with_suffix(".replayed")
        killed.nursery.run(killed.run.with_suffix(".log"), "generate", whole, "--from", killed.run, "-n", rows)
    assert made(killed.run) == made(whole)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "mix"])
def test_a_few_kills_change_no_byte(tmp_path: Path, strategy: str, nurseries: list[Nursery]) -> None:
    found = kill_often(
        tmp_path,
        strategy,
        nurseries,
        kills=3,
        rows={"alpaca": 80, "mix": 60}.get(strategy, 20),
        most=3,
        width=64,
        dice=random.Random(1),
    )
    assert found["kills"] == 3
    assert found["inside"] > 0


def test_a_model_that_never_says_the_same_twice_is_not_asked_twice(tmp_path: Path, nurseries: list[Nursery]) -> None:
    kill_often(tmp_path, "alpaca", nurseries, kills=3, rows=80, most=3, width=64, dice=random.Random(2), moody=True)


@pytest.mark.prove
def test_two_hundred_kills_change_no_byte(tmp_path: Path, nurseries: list[Nursery], promise: Promise) -> None:
    found, dice, began = Counter(), random.Random(0), time.monotonic()
    shares = [200 // len(STRATEGIES) + (place < 200 % len(STRATEGIES)) for place in range(len(STRATEGIES))]
    for strategy, kills in zip(STRATEGIES, shares, strict=True):
        folder = tmp_path / strategy
        folder.mkdir()
        rows = {"alpaca": 500}.get(strategy, 80)
        found += kill_often(folder, strategy, nurseries, kills=kills, rows=rows, most=20, width=64, dice=dice)
    print(f"  {time.monotonic() - began:.0f} s")
    assert found["kills"] == 200
    assert found["inside"] >= 150
    assert found["ahead"] > 0, "no completion ever waited for its verdict"
    promise(
        "crashes",
        f"{found['kills']} kills of {found['runs']} runs ({', '.join(STRATEGIES)}; concurrency 64), {found['inside']} "
        f"in the loop: 0 of {found['stored']:,} completions lost, altered or asked for again ({found['ahead']:,} were "
        "stored before their verdict was due), no row id twice, dataset and manifest equal to the run never stopped",
    )


@pytest.mark.prove
def test_forty_kills_under_a_model_that_never_says_the_same_twice(
    tmp_path: Path, nurseries: list[Nursery], promise: Promise
) -> None:
    found = Counter()
    for strategy in STRATEGIES:
        folder = tmp_path / strategy
        folder.mkdir()
        found += kill_often(folder, strategy, nurseries, kills=20, rows=60, most=20, width=64, moody=True,
                            dice=random.Random(3))  # fmt: skip
    promise(
        "crashes",
        f"{found['kills']} kills under a model that answers otherwise when asked again ({found['again']} requests "
        "were): the dataset is what the ledger's answers give",
    )


# Kills of a run that replays another: no server, and each life with an interpreter of its own.


def ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_and_resume(run: Path, args: list[object], *, kills: int, longest_s: float, seed: str) -> int:
    """Kill the command ``kills`` times, each after a random while, then let it finish.

    Returns:
        How many kills hit the loop at work: after commits of that life, before its end.
    """
    dice = random.Random(int(seed) + 1)
    environ, inside, known = environment(PYTHONHASHSEED=seed), 0, {}
    for number in range(1, kills + 1):
        process = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
        # Each fifth kill may hit the start; for the others the clock begins at this life's first commit.
        while number % 5 and len(commits(run)) <= len(known) and not ended(process, within=0.02):
            pass
        if not ended(process, within=dice.uniform(0.0, longest_s)):
            process.send_signal(signal.SIGKILL)
        process.communicate()
        found = commits(run)
        assert known.items() <= found.items(), "an acknowledged completion was lost or altered"
        at_work = process.returncode == -signal.SIGKILL and len(found) > len(known)
        inside += at_work
        known = found
    run_cli(*args, env={"PYTHONHASHSEED": seed})
    assert known.items() <= commits(run).items()
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


# The two ends of a life.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kill_between_completion_and_verdict_asks_nothing_again(
    tmp_path: Path, strategy: str, nurseries: list[Nursery]
) -> None:
    """All outcomes are in the ledger, none is judged: the next start judges them and sends nothing for them."""
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


def test_a_kill_before_the_first_commit_leaves_a_directory_that_can_be_used(tmp_path: Path) -> None:
    run = tmp_path / "a"
    run.mkdir()
    (run / "run.sqlite").touch()
    (run / "run.lock").write_text("99999\n")
    assert "holds no run" in run_cli("status", run, code=1)
    with Loopback(reply) as server:
        run_cli("generate", run, *options("self-instruct", server.url, 3))
    assert len(dataset(run).splitlines()) == 3
