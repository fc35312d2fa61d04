"""Expressions that try to get out, or to take for ever; and the process that they are evaluated in."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from selfinstruct.verifiers import verify
from selfinstruct.verifiers.counting import Refused
from selfinstruct.verifiers.evaluator import evaluate
from selfinstruct.verifiers.expression import close_worker, worker_id
from tests.abuse.hostile import ROOT
from tests.cli import environment

FIVE = {"kind": "python", "value": 5}

ESCAPES = (
    "__import__('os').system('id')",
    "().__class__.__bases__[0].__subclasses__()",
    "''.__class__.__mro__[1].__subclasses__()[40]('/etc/passwd').read()",
    "[].__class__",
    "(1).__class__",
    "(lambda: 1)()",
    "lambda: 1",
    "eval('1')",
    "exec('x = 1')",
    "compile('1', 'a', 'eval')",
    "open('/etc/passwd').read()",
    "input()",
    "print(5)",
    "globals()",
    "locals()",
    "vars()",
    "dir()",
    "getattr(1, 'real')",
    "setattr(1, 'a', 1)",
    "type(1)",
    "type('X', (), {})",
    "object()",
    "super()",
    "memoryview(b'a')",
    "bytes(5)",
    "bytearray(5)",
    "breakpoint()",
    "help()",
    "exit()",
    "id(1)",
    "hash(1)",
    "iter([1])",
    "next(iter([1]))",
    "map(str, [1])",
    "filter(None, [1])",
    "chr(5)",
    "format(1, '1000000000d')",
    "'{0.__class__}'.format(1)",
    "'{:>1000000000}'.format(1)",
    "'%1000000000d' % 1",
    "'%(a)s' % {'a': 1}",
    "f'{1}'",
    "f'{1:>1000000000}'",
    "f'{().__class__}'",
    "'a'.join(['b'])",
    "'a'.encode()",
    "[1].append(2)",
    "(5).sqrt(4)",
    "'a'.pi",
    "os.pi",
    "math.__dict__",
    "math.__loader__",
    "math.__class__",
    "math.sqrt.__self__",
    "math.sqrt.__call__(4)",
    "math",
    "math.sqrt",
    "len",
    "[len][0]([1])",
    "(len or sum)([1])",
    "sorted([1], key=len)",
    "max([1], key=print)",
    "{'a': len}['a']('b')",
    "[len for len in [5]][0](1)",
    "[math.pi for math in [5]]",
    "[x.real for x in [1]]",
    "[x for x.real in [1]]",
    "[x for x[0] in [1]]",
    "(x := 5)",
    "[x := 5]",
    "await x",
    "[x async for x in y]",
    "(yield 5)",
    "[*range(5)]",
    "{**{}}",
    "max(*[1, 2])",
    "dict(**{'a': 1})",
    "b'a'",
    "5j",
    "...",
    "1 @ 2",
    "import os",
    "x = 5",
    "del x",
    "5; 5",
    "__builtins__",
    "__name__",
    "self",
    "run",
    "Count",
    "(x for x in [1])",
    "(x for x in [1]).gi_frame",
    "range(5).start",
    "float('nan')",
    "math.inf - math.inf",
    "(-8) ** 0.5",
    "1 is 1",
    "[1] is [1]",
    "list({'a', 'b'})[0]",
    "str({'a', 'b'})",
    "[x for x in {'a', 'b'}]",
    "str([{'a', 'b'}])",
)

BOMBS = (
    "2**10**10",
    "2**2**2**2**2**2",
    "9**9**9**9",
    "'a' * 10**12",
    "[0] * 10**12",
    "'a' * 10**5 * 10**5",
    "list(range(10**12))",
    "sum(range(10**12))",
    "max(range(10**9))",
    "sorted(range(10**9))",
    "1.5 in range(10**12) or list(range(10**9))",
    "[x for x in range(10**12)]",
    "any(x < 0 for x in range(10**12))",
    "sum(1 for x in range(10**6) for y in range(10**6))",
    "math.factorial(10**9)",
    "math.comb(10**9, 10**8)",
    "math.perm(10**6)",
    "math.prod(range(1, 10**5))",
    "math.lcm(*range(1, 10**5))",
    "1 << 10**12",
    "pow(3, 10**3000, 7**3000)",
    "round(5, -10**9)",
    "int('9' * 10**5)",
    "10**3000 * 10**3000 * 10**3000",
    "{k * (2**61 - 1) for k in range(10**5)}",
    "{k * (2**61 - 1): 0 for k in range(10**4)}",
    "{(k * (2**61 - 1), 0) for k in range(10**4)}",
    "(" * 10_000 + ")" * 10_000,
    "-" * 9_999 + "1",
    "not " * 2_000 + "1",
    "1" + "+1" * 4_000,
    "[" * 5_000,
    "x" * 10_000_000,
    "9" * 5_000,
    "'" + "a" * 9_990 + "' * 1000",
    # Each level doubles what the last one holds, without holding it twice.
    "[" + "".join(f"[x{n}, x{n}] for x{n} in [" for n in range(20)) + "1" + "]" * 21,
    "[[b, b] for b in [[a, a] for a in [[0] * 40000]]]",
    "[[0] * 1000 for x in range(10**5)]",
    "['a' * 99999 for x in range(10**5)]",
    "[10**3000 + x for x in range(10**5)]",
    "sorted([[0] * 300 for x in range(300)] * 300)",
    "[0] * 1000 in [[0] * 1000] * 10**5",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_what_tries_to_get_out_is_refused(source: str) -> None:
    with pytest.raises(Refused):
        evaluate(source)


@pytest.mark.parametrize("source", BOMBS, ids=lambda one: one[:40])
def test_what_takes_for_ever_is_refused_at_once(source: str) -> None:
    """Within 20 s of CPU time for all of them: the kernel ends the worker at more than 60 s for one."""
    with pytest.raises(Refused):
        evaluate(source)


def test_all_of_them_are_wrong_answers_and_the_worker_lives_on() -> None:
    assert verify(FIVE, "5").kept
    before = worker_id()
    for source in (*ESCAPES, *BOMBS):
        found = verify(FIVE, source)
        assert (found.kept, found.reason) == (False, "wrong_answer"), source[:80]
        assert len(str(found.detail["found"])) < 300
    assert verify(FIVE, "2 + 3").kept
    assert worker_id() == before


def test_a_worker_that_is_killed_is_begun_again() -> None:
    assert verify(FIVE, "5").kept
    killed = worker_id()
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert verify(FIVE, "2 + 3").kept
    assert worker_id() not in (None, killed)
    assert not verify(FIVE, "2 + 4").kept


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for another process's limits")


@needs_linux
def test_the_worker_has_no_files_no_processes_no_environment_and_little_memory() -> None:
    verify(FIVE, "5")
    worker = worker_id()
    assert worker is not None
    for what, most in (("NOFILE", 0), ("FSIZE", 0), ("NPROC", 0), ("CORE", 0), ("AS", 2 << 30)):
        assert resource.prlimit(worker, getattr(resource, f"RLIMIT_{what}"))[0] == most, what
    assert 0 < resource.prlimit(worker, resource.RLIMIT_CPU)[0] < 200
    assert Path(f"/proc/{worker}/environ").read_bytes() == b""
    assert os.readlink(f"/proc/{worker}/cwd") == "/"
    opened = {os.readlink(f"/proc/{worker}/fd/{one}").split(":")[0] for one in os.listdir(f"/proc/{worker}/fd")}
    assert opened <= {"pipe", "/dev/null"}


@needs_linux
@pytest.mark.parametrize("what", ["CPU", "AS"])
def test_an_answer_that_the_worker_dies_of_is_asked_once_more(what: str) -> None:
    """Its limits are lowered from outside, to what the heaviest expressions need less than."""
    verify(FIVE, "5")
    worker = worker_id()
    assert worker is not None
    if what == "CPU":
        resource.prlimit(worker, resource.RLIMIT_CPU, (1, 1))
    else:
        used = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker, resource.RLIMIT_AS, (used, used))
    heavy = "sum([len([y for y in range(900)]) for x in range(100)]) + len(['a' * 9999 + str(x) for x in range(100)])"
    while worker_id() == worker:
        assert verify({"kind": "python", "value": 100 * 900 + 100}, heavy).kept


def test_an_answer_that_it_dies_of_twice_is_not_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from selfinstruct.verifiers import expression

    worker = tmp_path / "worker.py"
    worker.write_text("import os, signal, sys\nsys.stdin.readline()\nos.kill(os.getpid(), signal.SIGXCPU)\n")
    close_worker()
    with monkeypatch.context() as patched:
        patched.setattr(expression, "_WORKER", worker)
        found = verify(FIVE, "5")
    assert (found.kept, found.reason) == (False, "wrong_answer")
    assert found.detail["found"] == f"nothing: the process that evaluates it ended by signal {signal.SIGXCPU.value}"
    assert worker_id() is None
    assert verify(FIVE, "5").kept


PARENT = """
import sys
from selfinstruct.verifiers import verify
from selfinstruct.verifiers.expression import worker_id
assert verify({"kind": "python", "value": 5}, "5").kept
print(worker_id(), flush=True)
if sys.argv[1] == "wait":
    sys.stdin.read()
"""


@needs_linux
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_worker_ends_with_its_parent(end: str) -> None:
    line = [sys.executable, "-c", PARENT, "wait"]
    with subprocess.Popen(line, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        try:
            if end == "kill":
                parent.kill()
            else:
                parent.communicate()
            parent.wait()
            assert select.select([worker], [], [], 60)[0], "an orphan"
        finally:
            os.close(worker)


@needs_linux
def test_a_fork_has_a_worker_of_its_own() -> None:
    code = (
        PARENT
        + """
import os
mine = worker_id()
child = os.fork()
if child == 0:
    assert worker_id() is None
    five = {"kind": "python", "value": 5}
    right = verify(five, "2 + 3").kept and not verify(five, "6").kept
    os._exit(0 if right and worker_id() != mine else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert verify({"kind": "python", "value": 7}, "7").kept and worker_id() == mine
"""
    )
    line = [sys.executable, "-c", code, "go"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_share_one_worker() -> None:
    wrong: list[int] = []

    def ask(number: int) -> None:
        for place in range(30):
            value = number * 100 + place
            if not verify({"kind": "python", "value": value}, f"{number} * 100 + {place}").kept:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_the_verdict_is_the_same_in_two_workers() -> None:
    sources = [one for one in (*ESCAPES, *BOMBS) if len(one) < 5_000]
    told = []
    for _ in range(2):
        close_worker()
        told.append(json.dumps([dict(verify(FIVE, source).detail) for source in sources]))
    assert told[0] == told[1]
