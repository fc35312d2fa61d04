"""Answers and specifications that try to escape from the sandbox, to exhaust the machine, or to run forever."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from selfinstruct.verifiers import check_verifier, verify
from tests.abuse.hostile import ROOT
from tests.cli import environment

FIVE = {"kind": "python", "value": 5}
TESTS = {"kind": "tests", "tests": "assert solve() == 5", "seconds": 0.3}
RIGHT = "def solve():\n    return 5"

EXPRESSIONS = (
    # Ways out.
    "__import__('os').system('id')",
    "().__class__.__bases__[0].__subclasses__()",
    "(lambda: 1).__globals__",
    "open('/etc/passwd').read()",
    "eval('__import__(\"os\")')",
    "exec('import os')",
    "globals()",
    "getattr(1, '__class__')",
    "'{0.__class__}'.format(1)",
    "f'{().__class__}'",
    "math.__loader__",
    "breakpoint()",
    "input()",
    "exit()",
    "(yield 5)",
    "await x",
    "b'a'",
    "5j",
    "...",
    # Bombs.
    "2**10**10",
    "10**10**8",
    "9**9**9**9",
    "'a' * 10**12",
    "[0] * 10**12",
    "'a' * 10**5 * 10**5",
    "list(range(10**12))",
    "sorted(range(10**9))",
    "[x for x in range(10**12)]",
    "math.perm(10**6)",
    "1 << 10**12",
    "1 << 10**7",
    "pow(3, 10**3000, 7**3000)",
    "int('9' * 10**5)",
    "'%1000000000d' % 1",
    "'{:>1000000000}'.format(1)",
    "f'{1:>1000000000}'",
    "(" * 9_000 + ")" * 9_000,
    "-" * 9_990 + "1",
    "not " * 2_000 + "1",
    "1" + "+1" * 4_000,
    "[" * 5_000,
    "x" * 10_000_000,
    # Each level doubles the size of the value without doubling its memory.
    "[" + "".join(f"[x{n}, x{n}] for x{n} in [" for n in range(30)) + "1" + "]" * 31,
    "(lambda f: f(f))(lambda f: f(f))",
    "sorted([[0] * 300 for x in range(300)] * 300)",
    "\ud800",
    "\x00",
)
SHARED = "x = [1] * 10\nfor _ in range(12):\n    x = [x] * 10\n"  # 10**13 items in 1 KB
CLASS = "class Evil:\n    def __init__(self, n=0):\n        self.n = n\n"

PROGRAMS = (
    # Ways out.
    "import os\nos.system('id')",
    "import subprocess",
    "import socket",
    "import ctypes",
    "import urllib.request",
    "open('/etc/passwd').read()",
    "open('/tmp/selfinstruct-escaped', 'w').write('x')",
    "from pathlib import Path\nPath('/etc/passwd').read_text()",
    "from pathlib import Path\nPath('/tmp/selfinstruct-escaped').write_text('x')",
    "import os\nos.listdir('/')",
    "import os\nos.environ['PATH']",
    "import os\nos.kill(os.getppid(), 9)",
    "import sys\nsys.exit(0)",
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "exec('import os\\nos.fork()')",
    # Loops.
    "while True: pass",
    "try:\n    while True: pass\nexcept BaseException:\n    pass",
    "while True:\n    try:\n        1 / 0\n    except ZeroDivisionError:\n        pass",
    "import itertools\nmax(itertools.count())",
    "sum(range(10**12))",
    "exec('while True: pass')",
    "import math\nmath.comb(10**6, 10**5)",
    f"{CLASS}    def __hash__(self): return 1\n    def __eq__(self, other): return False\n"
    "{Evil() for _ in range(50000)}",
    f"{CLASS}    def __lt__(self, other):\n        while True: pass\nsorted([Evil(), Evil()])",
    "import time\ntime.sleep(10**9)",
    "for i in range(10**9): print('x' * 1000)",
    "for i in range(10**9):\n    try:\n        undefined\n    except NameError:\n        pass",
    # Memory.
    "x = 'a'\nwhile True: x += x",
    "d = {}\nn = 0\nwhile True:\n    d[n] = [n] * 1000\n    n += 1",
    "while True:\n    try:\n        [0] * 10**12\n    except MemoryError:\n        pass",
    "'x'.replace('x', 'y' * 10**7).replace('y', 'z' * 10**3)",
    "print('x' * 10**9)",
    "''.join(['b' * 1000] * 10**6)",
    "import decimal\ndecimal.getcontext().prec = 10**9\ndecimal.Decimal(1) / 3",
    f"{SHARED}x",
    f"{SHARED}str(x)",
    f"{SHARED}print(x)",
    f"{SHARED}raise ValueError(x)",
    f"{SHARED}import json\njson.dumps(x)",
    f"{SHARED}y = [1] * 10\nfor _ in range(12):\n    y = [y] * 10\nx == y",
    f"{SHARED}assert not x, x",
    # Depth.
    "def solve():\n    return solve()",
    "def solve():\n    try:\n        return solve()\n    except RecursionError:\n        return solve()",
    f"{CLASS}    def __repr__(self): return repr(self)\nrepr(Evil())",
    "a = []\nb = [a]\na.append(b)\na == b",
    "a = []\nfor _ in range(10**5): a = [a]\nstr(a) == 1",
    "import json\njson.loads('[' * 10**5)",
    "x = " + "[" * 5_000 + "]" * 5_000,
    "if 1:\n" + "".join(" " * n + "if 1:\n" for n in range(1, 300)) + " " * 300 + "pass",
    "import asyncio\nasync def f(n):\n    if n == 0: raise ValueError\n    return await asyncio.gather(f(n - 1))\n"
    "await asyncio.gather(f(4000))",
    # Regular expressions.
    "import re\nassert re.match('(a+)+$', 'a' * 40 + 'b')",
    "import re\nre.compile('((a{1000}){1000}){1000}')",
    "import re\nre.compile('(' * 5000 + ')' * 5000)",
    # Not programs.
    "\x00",
    "\ud800",
    "",
    "\\",
    "x = '''",
)


@pytest.mark.parametrize("source", EXPRESSIONS, ids=lambda source: ascii(source[:40]))
def test_a_hostile_expression_is_a_wrong_answer(source: str) -> None:
    verdict = verify(FIVE, source)
    assert (verdict.kept, verdict.reason) == (False, "wrong_answer")
    assert len(str(verdict.detail["found"])) <= 300
    assert verify(FIVE, "2 + 3").kept


@pytest.mark.parametrize("source", PROGRAMS, ids=lambda source: ascii(source[-40:]))
def test_a_hostile_program_is_a_wrong_answer(source: str) -> None:
    began = time.monotonic()
    verdict = verify(TESTS, source)
    assert time.monotonic() - began < 30, "the limit is 0.3 s, and a second until a worker is killed"
    assert (verdict.kept, verdict.reason) == (False, "wrong_answer")
    assert len(str(verdict.detail["found"])) <= 340
    assert verify(TESTS, RIGHT).kept
    assert not os.path.exists("/tmp/selfinstruct-escaped")


@pytest.mark.parametrize("source", ["while True: pass", f"{SHARED}x", "import os\nos.system('id')", "x = 'a' * 10**12"])
def test_hostile_tests_end_when_they_are_checked(source: str) -> None:
    """Tests come with rows from outside, too."""
    spec = {"kind": "tests", "tests": f"assert solve() == 5\n{source}", "seconds": 0.3}
    assert not verify(check_verifier(spec), RIGHT).kept or "SHARED" in source or source.endswith("\nx")
    check_verifier({"kind": "tests", "tests": f"{source}\nassert solve() == 5", "seconds": 0.3})


def test_code_cannot_skip_the_tests() -> None:
    for answer in (
        "'''",
        "if False:",
        "def solve():",
        "return",
        "exit(0)",
        "assert = print",
        "import builtins\nbuiltins.AssertionError = 1",
    ):
        assert not verify(TESTS, answer).kept, answer


SCHEMAS: dict[str, tuple[Any, str]] = {
    "refers to itself": ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "1"),
    "doubles by depth": ({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}, False]}, "[" * 40 + "]" * 40),
    "changes the validator": ({"$schema": "http://json-schema.org/draft-07/schema#",
                               "anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}, False]},
                              "[" * 40 + "]" * 40),
    "is applied to depth": ({"items": {"$ref": "#"}}, "[" * 190 + "]" * 190),
    "compares all with all": ({"uniqueItems": True}, "[" + ",".join(f'{{"a": {n}}}' for n in range(20_000)) + "]"),
    "has a bad pattern": ({"pattern": "(a|a)*b"}, '"' + "a" * 1_000_000 + '"'),
    "has a large pattern": ({"items": {"pattern": "(?:x?){1000}y"}},
                            "[" + ",".join(['"' + "x" * 1000 + '"'] * 1000) + "]"),
    "has many properties": ({"patternProperties": {f"^{n}": {} for n in range(300)}, "additionalProperties": False},
                            "{" + ",".join(f'"{n}": 1' for n in range(2_000)) + "}"),
    "has a large enumeration": ({"items": {"enum": list(range(5_000))}}, "[" + ",".join(["-1"] * 5_000) + "]"),
    "divides large numbers": ({"items": {"multipleOf": 1e-300}}, "[" + ",".join(["1" * 4_000] * 500) + "]"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_hostile_schema_ends(name: str) -> None:
    schema, answer = SCHEMAS[name]
    began = time.process_time()
    verdict = verify(check_verifier({"kind": "json", "schema": schema}), answer)
    assert time.process_time() - began < 20
    assert len(str(verdict.detail["found"])) <= 200


def test_a_huge_schema_is_refused() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"items": deep}
    with pytest.raises(ValueError, match="nested too deeply"):
        check_verifier({"kind": "json", "schema": deep})
    wide = {"properties": {f"p{n}": {"type": "string"} for n in range(20_000)}}
    with pytest.raises(ValueError, match="more than 2,000 schemas within one"):
        check_verifier({"kind": "json", "schema": wide})


PARENT = """
import sys
from selfinstruct.verifiers import verify
assert verify({"kind": "python", "value": 5}, "5").kept
"""
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for children in /proc")


@needs_linux
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_sandbox_ends_with_its_parent(end: str) -> None:
    code = f"{PARENT}\nprint(flush=True)\nsys.stdin.read()"
    line = [sys.executable, "-c", code]
    with subprocess.Popen(line, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        task = f"/proc/{parent.pid}/task/{parent.pid}/children"
        with open(task) as file:
            children = [os.pidfd_open(int(child)) for child in file.read().split()]
        assert children
        if end == "kill":
            parent.kill()
        else:
            parent.communicate()
        parent.wait()
        for child in children:
            assert select.select([child], [], [], 60)[0], "the worker outlived its parent"
            os.close(child)


def test_a_process_forked_later_is_refused_the_sandbox() -> None:
    """The library's runtime does not survive a fork: it would wait forever."""
    code = f"""{PARENT}
import os
from selfinstruct.errors import SelfInstructError
child = os.fork()
if child == 0:
    try:
        verify({{"kind": "python", "value": 5}}, "5")
    except SelfInstructError as error:
        os._exit(0 if "spawn" in str(error) else 2)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert verify({{"kind": "python", "value": 7}}, "7").kept
"""
    line = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_threads_get_their_own_results() -> None:
    wrong: list[int] = []

    def check(number: int) -> None:
        for index in range(30):
            value = number * 100 + index
            if not verify({"kind": "python", "value": value}, f"{number} * 100 + {index}").kept:
                wrong.append(value)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
