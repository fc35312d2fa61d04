"""A chat template is a program from somebody else: it sees the conversation, and nothing else.

It runs in the sandbox of transformers, in this process. A forbidden operation raises one error, and an
endless one is stopped.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.data.render import Renderer
from finetune.data.rows import ChatTurn, Example
from finetune.data.templates import ChatTemplate
from selfinstruct.errors import UsageError
from tests import finetune_fixtures
from tests.abuse.hostile import ROOT, finetune
from tests.cli import environment
from tests.conftest import Promise
from tests.finetune_fixtures import CHATML, make_tokenizer

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder

TURNS = (ChatTurn("user", "What is it?"), ChatTurn("assistant", "A boat."))
ROW = Example("rows.jsonl:1", TURNS)
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ messages|attr('__class__')|attr('__mro__') }}",
    "{{ messages['__class__']['__mro__'] }}",
    "{{ raise_exception.__globals__['os'].system('touch owned') }}",
    "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}",
    "{{ lipsum.__globals__['os'].popen('touch owned').read() }}",
    "{{ self.__init__.__globals__.__builtins__.open('/etc/passwd').read() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ ('{0.__class__.__init__.__globals__}'|format('')) }}{{ '%s'|format(raise_exception.__code__) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{% set x = namespace(__class__=1) %}",
    "{% set y = messages.append({'role': 'user', 'content': 'forged'}) %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends '../../etc/passwd' %}",
    "{{ get_flashed_messages.__globals__ }}",
    "{{ ''.join.__self__.__class__ }}{{ [].__reduce__() }}",
)
BROKEN = (
    "{% for i in range(10**12) %}{% endfor %}",
    "{{ 1 / 0 }}",
    "{{ [1][9] + 1 }}",
    "{{ undefined_thing.x.y }}",
    "{{ messages[0].content + 1 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 2.0 ** 10000 }}",
    "{{ '%d'|format('x') }}",
    "{{ raise_exception('no') }}",
    "{% for %}",
    "{{",
    "{% unknown %}",
    "{{ ''|unknown }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_sees_only_the_conversation(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = make_tokenizer(template=template + CHATML)
    try:
        text = ChatTemplate(tokenizer).render(ROW, len(TURNS)).text
    except UsageError:
        text = ""
    usual = ChatTemplate(make_tokenizer(template=CHATML)).render(ROW, len(TURNS)).text
    assert text in ("", usual), "either refused, or as if it had said nothing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("template", BROKEN)
def test_a_failing_template_raises_one_error(template: str) -> None:
    with pytest.raises(UsageError):
        Renderer(make_tokenizer(template=template + CHATML), "chat", max_length=512)
    late = "{% if messages[0].content == 'What is it?' %}" + template + "{% endif %}" + CHATML
    with pytest.raises(UsageError):
        Renderer(make_tokenizer(template=late), "chat", max_length=512).prompt(TURNS)


ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
)
SCRIPT = """
import sys
from finetune.data.rows import ChatTurn, Example
from finetune.data.render import Renderer
from selfinstruct.errors import UsageError
from tests.finetune_fixtures import CHATML, make_tokenizer
try:
    Renderer(make_tokenizer(template=sys.argv[1] + CHATML), "chat", max_length=512)
except UsageError as error:
    print("refused:", error)
"""


@pytest.mark.prove
@pytest.mark.parametrize("template", ENDLESS)
def test_an_endless_template_is_stopped(template: str, promise: Promise) -> None:
    """Within a minute; left alone, the first takes a quarter of an hour and the second thousands of years."""
    done = subprocess.run(
        ["bash", "-c", 'ulimit -t 60; exec "$@"', "-", sys.executable, "-c", SCRIPT, template],
        cwd=ROOT, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: it was still at work\n{done.stderr[-500:]}"
    assert done.stdout.startswith("refused:")


def test_an_endless_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template is probed with several conversations; each attempt would take all of the time."""
    monkeypatch.setattr("selfinstruct.common.chat_template.LIMIT_S", 0.1)
    tokenizer = make_tokenizer(template=ENDLESS[0] + CHATML)
    apply, attempts = tokenizer.apply_chat_template, []

    def counted(messages: object, **options: object) -> object:
        attempts.append(messages)
        return apply(messages, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", functools.wraps(apply)(counted))
    with pytest.raises(UsageError, match="the chat template is not done after"):
        Renderer(tokenizer, "chat", max_length=512)
    assert len(attempts) == 1


def test_the_trainer_reports_a_bad_template_in_one_line(
    tmp_path: Path, tiny_model_folder: Path, promise: Promise
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"instruction": "What is it?", "output": "A boat."}\n' * 3)
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    for template in (BROKEN[0], BROKEN[1], ESCAPES[0]):
        make_tokenizer(template=template + CHATML).save_pretrained(folder)
        said = finetune("train", "--model", folder, "--data", data, "--dry-run", "--set", "format=chat")
        assert said.code == 2, said.output
        assert said.output.count("Error: ") == 1
    promise(
        "abuse: chat templates",
        f"{len(ESCAPES)} escapes reach nothing, {len(BROKEN)} broken ones are one error each, 0 tracebacks",
    )
