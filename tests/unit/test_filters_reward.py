import math
import pickle
import sys

import pytest

from selfinstruct.common.row_texts import texts_of
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters import Reward
from selfinstruct.filters.reward import Scored, model_identity


def by_length(conversations):
    """A reward model that likes long answers, and reads no question of more than one word."""
    return [
        Scored(None, "too long") if " " in messages[0][1] else Scored(float(len(messages[-1][1]) - 5))
        for messages in conversations
    ]


def test_rows_below_the_minimum_and_without_a_reward_are_dropped():
    reward = Reward(by_length, min=0)
    verdicts = reward.decide(["a", "a", "a", "two words"], ["12345", "1234", "", "123456"])
    assert [(verdict.kept, verdict.reason, verdict.score) for verdict in verdicts] == [
        (True, "", 0.0), (False, "low_score", -1.0), (False, "low_score", -5.0), (False, "no_score", None),
    ]  # fmt: skip
    assert verdicts[3].detail == {"problem": "too long"}
    assert reward(["a", "a"], ["12345", "1"]) == [True, False]
    assert all(verdict.filter == "reward" for verdict in verdicts)


def test_without_a_minimum_every_row_is_kept_with_its_reward():
    verdicts = Reward(by_length).decide(["a", "two words"], ["1", "2"])
    assert [(verdict.kept, verdict.score) for verdict in verdicts] == [(True, -4.0), (True, None)]


def test_invalid_settings_of_the_filter_are_refused():
    with pytest.raises(UsageError, match="must be a finite number, not nan"):
        Reward(by_length, min=math.nan)
    with pytest.raises(UsageError, match="1 prompts but 2 answers"):
        Reward(by_length).decide(["a"], ["b", "c"])


def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"torch or transformers is not installed.*\[train\]"):
        Reward("m").decide(["a"], ["b"])


def test_the_filter_can_be_pickled():
    assert pickle.loads(pickle.dumps(Reward(by_length, min=1.0))) == Reward(by_length, min=1.0)


def test_a_model_is_identified_by_its_files_and_a_hub_name_by_itself(tmp_path):
    def folder(name, weights=b"1", **more):
        files = {"config.json": b"{}", "model.safetensors": weights, "tokenizer.json": b"{}", **more}
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("__", ".")).write_bytes(content)
        return model_identity(str(tmp_path / name))

    first = folder("first")
    assert folder("moved", metrics__jsonl=b"{}") == first, "neither its name nor records of training are part of it"
    assert folder("trained", b"2") != first
    assert folder("template", chat_template__jinja=b"{{ messages }}") != first
    assert model_identity("org/no-such-folder") == "org/no-such-folder"
    (tmp_path / "file").write_bytes(b"")
    for wrong in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="is not the folder of a reward model"):
            model_identity(str(wrong))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "a", "input": "b", "output": "c"}, [("user", "a\n\nb"), ("assistant", "c")]),
        ({"instruction": "a", "output": "c", "system": "s"}, [("system", "s"), ("user", "a"), ("assistant", "c")]),
        ({"prompt": "a", "completion": "c", "history": [["x", "y"]]},
         [("user", "x"), ("assistant", "y"), ("user", "a"), ("assistant", "c")]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"},
                       {"role": "user", "content": "d"}]}, [("user", "a"), ("assistant", "c")]),
        ({"messages": [{"role": "user", "content": "a"}]}, []),
        ({"instruction": "a"}, []),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "c"}]}, []),
    ],
)  # fmt: skip
def test_the_messages_of_a_row_end_with_its_answer(row, messages):
    assert list(texts_of(row).messages) == messages


def test_named_fields_are_question_and_answer():
    row = {"q": "a", "a": "c", "instruction": "other", "output": "x"}
    assert texts_of(row, "q", "a").messages == (("user", "a"), ("assistant", "c"))
    assert texts_of(row, None, "a").messages == (("user", "other"), ("assistant", "c"))
    assert texts_of(row, "q").messages == ()
