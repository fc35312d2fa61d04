"""Fields that change what a row teaches, in the spellings of published data: followed, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rows import ChatTurn, Example, examples_of, read_examples
from finetune.data.tool_calls import read_calls, read_tools

Q, A = "Which sea lies north of Poland?", "The Baltic."
USER = {"role": "user", "content": Q}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "Weather of a city", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Gdynia"}}}


def single_example(row: dict[str, Any]) -> Example:
    (example,) = examples_of(row, "f:1")
    return example


def error_of(row: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        examples_of(row, "f:1")
    return str(caught.value)


def conversation(*marks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Rounds whose answers have these fields besides their content."""
    rounds = [[USER, {"role": "assistant", "content": A, **mark}] for mark in marks]
    return {"messages": [message for each in rounds for message in each], **more}


def learnt(row: dict[str, Any]) -> list[bool]:
    return [turn.trained for turn in single_example(row).turns if turn.role == "assistant"]


# Marks


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0}, {"weight": 0.0}, {"weight": False}, {"weight": "0"}, {"Weight": 0}, {"loss_weight": 0.0},
        {"train": False}, {"train": "false"}, {"training": False}, {"trainable": False}, {"is_trainable": False},
        {"loss": False}, {"loss": 0}, {"loss_scale": 0}, {"loss_mask": 0}, {"step_loss_mask": 0},
        {"supervised": False}, {"masked": True}, {"ignore": True}, {"exclude": 1}, {"is_bad": True},
        {"weight": 1, "train": False},
        {"train_detail": [{"begin_offset": 0, "end_offset": 4, "train": False},
                          {"begin_offset": 5, "end_offset": len(A) - 1, "train": False}]},
        {"content": [{"type": "text", "text": A, "train": False}]},
        {"content": [{"type": "text", "text": "The", "weight": 0}, {"type": "text", "text": "Baltic.", "weight": 0}]},
    ],
)  # fmt: skip
def test_an_answer_that_is_marked_as_bad_is_not_learnt(mark: dict[str, Any]) -> None:
    assert learnt(conversation(mark, {})) == [False, True]
    assert learnt(conversation({}, mark)) == [True, False]
    assert "weight 0 for every assistant message" in error_of(conversation(mark))


@pytest.mark.parametrize(
    "mark",
    [{"weight": 1}, {"weight": None}, {"train": True}, {"train": "true"}, {"loss": True}, {"loss": 2.31},
     {"loss": 0.4}, {"masked": False}, {"train_detail": []},
     {"train_detail": [{"begin_offset": 0, "end_offset": len(A) - 1, "train": True}]}],
)  # fmt: skip
def test_an_answer_that_is_marked_as_good_is_learnt(mark: dict[str, Any]) -> None:
    assert learnt(conversation(mark)) == [True]


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ({"weight": 0.5}, "has the weight 0.5; only 0 and 1"),
        ({"weight": -1}, "has the weight -1; only 0 and 1"),
        ({"weight": "heavy"}, "'weight' must be a number or true or false, not 'heavy'"),
        ({"mask": 1}, "'mask' may mean learnt or not learnt"),
        ({"loss_mask": [0, 1]}, "'loss_mask' marks single tokens"),
        ({"assistant_masks": [0, 1]}, "'assistant_masks' marks single tokens"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}, "'train_detail' marks parts"),
        ({"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False},
                           {"begin_offset": 4, "end_offset": len(A), "train": True}]}, "'train_detail' marks parts"),
        ({"train_detail": "all"}, "'train_detail' marks parts"),
        ({"content": [{"type": "text", "text": "The", "train": False}, {"type": "text", "text": "Baltic."}]},
         "the parts of message 2 of 'messages' have different marks"),
    ],
)  # fmt: skip
def test_a_mark_that_cannot_be_followed_is_refused_by_name(mark: dict[str, Any], message: str) -> None:
    assert message in error_of(conversation(mark))


@pytest.mark.parametrize("row", [{"instruction": Q, "output": A}, {"prompt": Q, "completion": A}, conversation({})])
def test_marks_of_a_row_apply_to_its_answer(row: dict[str, Any]) -> None:
    for mark in ({"weight": 0}, {"train": False}, {"loss_weight": 0}, {"kto_tag": False}, {"kto_tag": 0}):
        error = error_of({**row, **mark})
        assert "marked as not to be learnt" in error or "the label of the row is false" in error
    for mark in ({"weight": 1}, {"train": True}, {"kto_tag": True}, {"loss": 1.7}):
        assert learnt({**row, **mark}) == [True]
    for name in ("completion_mask", "input_ids"):
        assert f"{name!r} marks single tokens" in error_of({**row, name: [0, 1]})


@pytest.mark.parametrize("label", [False, "false", "False", "bad", "undesirable"])
def test_a_completion_with_a_false_label_is_not_learnt(label: Any) -> None:
    for row in ({"prompt": Q, "completion": A}, {"prompt": [USER], "completion": [{"role": "assistant", "content": A}]},
                conversation({}), {"messages": json.dumps(conversation({})["messages"])}):  # fmt: skip
        assert "label of the row is false" in error_of({**row, "label": label})


def test_answers_within_a_prompt_are_given_and_not_learnt() -> None:
    prompt = [USER, {"role": "assistant", "content": A}, {"role": "user", "content": "And south?"}]
    row = {"prompt": prompt, "completion": [{"role": "assistant", "content": "Czechia."}]}
    assert [turn.content for turn in single_example(row).turns] == [Q, A, "And south?", "Czechia."]
    assert learnt(row) == [False, True]
    assert learnt({"prompt": prompt, "chosen": row["completion"], "rejected": row["completion"]}) == [False, True]
    assert learnt({"messages": [*prompt, *row["completion"]]}) == [True, True]
    continued = {"prompt": prompt[:2], "completion": [{"role": "assistant", "content": " It is cold."}]}
    assert "'prompt' ends with an answer, which 'completion' would continue" in error_of(continued)


# Reasoning


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_content": "By map."}, {"reasoning": "By map."}, {"thinking": "By map."}, {"thought": "By map."},
        {"reasoning": "By map.", "reasoning_content": "By map."}, {"reasoning": ["By map."]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "By map."}]},
        {"content": [{"type": "thinking", "thinking": "By map."}, {"type": "text", "text": A}]},
    ],
)  # fmt: skip
def test_reasoning_of_a_message_is_kept_with_its_answer(fields: dict[str, Any]) -> None:
    assert single_example(conversation(fields)).turns[-1] == ChatTurn("assistant", A, reasoning="By map.")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking", "Complex_CoT", "rationale"])
def test_reasoning_of_a_row_belongs_to_its_last_answer(name: str) -> None:
    for row in ({"question": Q, "answer": A}, {"instruction": Q, "output": A}, conversation({}, {})):
        turns = single_example({**row, name: "By map."}).turns
        assert [turn.reasoning for turn in turns if turn.role == "assistant"][-1] == "By map."
        assert sum(bool(turn.reasoning) for turn in turns) == 1


# Tools


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL], [FUNCTION], TOOL, json.dumps([TOOL]), json.dumps([FUNCTION]), [json.dumps(TOOL)],
        json.dumps([json.dumps(FUNCTION)]), json.dumps(json.dumps([TOOL])),
        [{"name": "weather", "description": "Weather of a city", "input_schema": PARAMETERS}],
    ],
)  # fmt: skip
def test_tools_are_read_in_every_spelling(tools: Any) -> None:
    for name in ("tools", "functions", "available_tools"):
        assert single_example(conversation({}, **{name: tools})).tools == (TOOL,)
    assert single_example({"instruction": Q, "output": A, "tools": tools}).tools == (TOOL,)


@pytest.mark.parametrize("tools", [None, "", "[]", [], "None"])
def test_a_row_may_have_no_tools(tools: Any) -> None:
    assert single_example(conversation({}, tools=tools)).tools == ()


@pytest.mark.parametrize(("tools", "message"), [("a hammer", "the tools can't be read as JSON"), ([{}], "has no name"),
                                                ([3], "the tools can't be read as JSON")])  # fmt: skip
def test_tools_that_cannot_be_read_are_refused(tools: Any, message: str) -> None:
    assert message in error_of(conversation({}, tools=tools))


ARGUMENTS = '{"city": "Gdynia"}'
PLAIN_CALL = {"name": "weather", "arguments": {"city": "Gdynia"}}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {**PLAIN_CALL, "arguments": ARGUMENTS}}]},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": "", "tool_calls": [PLAIN_CALL]},
        {"role": "assistant", "content": None, "function_call": {**PLAIN_CALL, "arguments": ARGUMENTS}},
        {"role": "assistant", "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Gdynia"}}]},
        {"from": "function_call", "value": json.dumps(PLAIN_CALL)},
        {"from": "function_call", "value": json.dumps([PLAIN_CALL])},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(PLAIN_CALL)}]},
        {"role": "tool_call", "content": json.dumps({"name": "weather", "parameters": {"city": "Gdynia"}})},
    ],
)  # fmt: skip
def test_tool_calls_are_read_in_every_spelling(message: dict[str, Any]) -> None:
    first = USER if "role" in message else {"from": "human", "value": Q}
    turns = single_example({"messages": [first, message]}).turns
    assert turns == (ChatTurn("user", Q), ChatTurn("assistant", "", calls=(CALL,)))


def test_a_call_keeps_its_id_and_the_text_and_reasoning_next_to_it() -> None:
    message = {"role": "assistant", "content": "Let me see.", "reasoning_content": "A tool.",
               "tool_calls": [{"id": "c1", **CALL}]}  # fmt: skip
    (turn,) = single_example({"messages": [USER, message]}).turns[1:]
    assert turn == ChatTurn("assistant", "Let me see.", True, "A tool.", ({"id": "c1", **CALL},))
    thought = f"<think>\nA tool.\n</think>\n\n{json.dumps(PLAIN_CALL)}"
    (turn,) = single_example({"conversations": [{"from": "human", "value": Q},
                                                {"from": "function_call", "value": thought}]}).turns[1:]  # fmt: skip
    assert turn == ChatTurn("assistant", "", reasoning="A tool.", calls=(CALL,))


@pytest.mark.parametrize(
    ("call", "message"),
    [("run weather", "a tool call can't be read as JSON: 'run weather'"), ('{"arguments": {}}', "has no name"),
     ('{"name": "weather", "arguments": "north"}', "arguments of the tool call 'weather' are no JSON object"),
     ('{"name": "weather", "arguments": [1]}', "arguments of the tool call 'weather' are no JSON object")],
)  # fmt: skip
def test_a_call_that_cannot_be_read_is_refused(call: str, message: str) -> None:
    row = {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": call}]}
    assert message in error_of(row)
    assert "a message of 'conversations'" in error_of(row)


def test_the_arguments_of_a_call_keep_their_order_and_their_nulls(tmp_path: Path) -> None:
    arguments = {"z": 1, "a": None, "ü": ["x", None]}
    (call,) = read_calls([json.dumps({"name": "f", "arguments": arguments})])
    assert list(call["function"]["arguments"].items()) == list(arguments.items())
    assert [tool["function"]["name"] for tool in read_tools(json.dumps([{"name": "b"}, {"name": "a"}]))] == ["b", "a"]


@pytest.mark.parametrize("role", ["tool", "function", "observation", "tool_response", "ipython"])
def test_tool_results_are_given_and_name_their_tool(role: str) -> None:
    second = {"type": "function", "function": {"name": "tide", "arguments": {}}}
    rows: Sequence[dict[str, Any]] = (
        {"role": "assistant", "content": "", "tool_calls": [CALL, second]},
        {"role": role, "content": "Rain."},
        {"role": role, "content": "High."},
        {"role": "assistant", "content": A},
    )
    turns = single_example({"messages": [USER, *rows]}).turns
    assert turns[2:] == (ChatTurn("tool", "Rain.", name="weather"), ChatTurn("tool", "High.", name="tide"),
                         ChatTurn("assistant", A))  # fmt: skip


def test_a_result_belongs_to_the_call_with_its_id() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": {}}} for name in ("a", "b")]
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": calls},
                *({"role": "tool", "tool_call_id": name, "content": text} for name, text in (("b", "2"), ("a", "1"))),
                {"role": "assistant", "content": A}]  # fmt: skip
    results = [turn for turn in single_example({"messages": messages}).turns if turn.role == "tool"]
    assert [(turn.content, turn.name, turn.call_id) for turn in results] == [("2", "b", "b"), ("1", "a", "a")]


def test_tool_results_in_parts_of_a_message_become_messages() -> None:
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Rain."}]}
    messages = [USER, {"role": "assistant", "content": [{"type": "text", "text": "Let me see."},
                                                        {"type": "tool_use", "id": "c1", **PLAIN_CALL}]},
                {"role": "user", "content": [result]}, {"role": "assistant", "content": A}]  # fmt: skip
    turns = single_example({"messages": messages}).turns
    assert turns[1] == ChatTurn("assistant", "Let me see.", calls=({"id": "c1", **CALL},))
    assert turns[2:] == (ChatTurn("tool", "Rain.", name="weather", call_id="c1"), ChatTurn("assistant", A))


@pytest.mark.parametrize("result", [{"temp": 3}, [{"temp": 3}], 3, None, True])
def test_a_tool_result_that_is_no_text_is_written_as_json(result: Any) -> None:
    messages = [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": result},
                {"role": "assistant", "content": A}]  # fmt: skip
    if result is None:
        assert "message 3 of 'messages' lacks a role or content" in error_of({"messages": messages})
    else:
        assert json.loads(single_example({"messages": messages}).turns[2].content) == result


def test_tools_of_the_system_message_are_those_of_the_row() -> None:
    row = conversation({})
    row["messages"].insert(0, {"role": "system", "content": "Be brief.", "tools": [TOOL]})
    assert single_example(row).tools == (TOOL,)


def test_an_answer_in_json_is_a_call_if_the_row_describes_its_tool() -> None:
    answers = json.dumps([PLAIN_CALL])
    row = {"query": Q, "tools": json.dumps([FUNCTION]), "answers": answers}
    assert single_example(row).turns[-1] == ChatTurn("assistant", "", calls=(CALL,))
    assert single_example({**row, "answers": A}).turns[-1] == ChatTurn("assistant", A)
    other = json.dumps([{"name": "tide", "arguments": {}}])
    assert single_example({**row, "answers": other}).turns[-1] == ChatTurn("assistant", other)
    assert single_example({"query": Q, "answers": answers}).turns[-1] == ChatTurn("assistant", answers)


def test_nulls_of_a_column_are_no_arguments(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    calls = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g", "arguments": {"y": "2"}}}]
    rows = [{"messages": [USER, {"role": "assistant", "content": A, "tool_calls": [call]}]} for call in calls]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    examples = read_examples(tmp_path / "rows.parquet").examples
    arguments = [example.turns[-1].calls[0]["function"]["arguments"] for example in examples]
    assert arguments == [{"x": 1}, {"y": "2"}]


# Arguments of the template


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"chat_template_kwargs": {"enable_thinking": False, "tone": None}}, {"enable_thinking": False}),
        ({"chat_template_kwargs": '{"enable_thinking": true}'}, {"enable_thinking": True}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"enable_thinking": "false"}, {"enable_thinking": False}),
        ({"thinking": True}, {"thinking": True}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"chat_template_kwargs": {}}, {}),
        ({"chat_template_kwargs": None, "enable_thinking": None}, {}),
    ],
)
def test_arguments_of_the_template_are_read_from_the_row(fields: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert single_example(conversation({}, **fields)).template_arguments == arguments
    assert single_example({"instruction": Q, "output": A, **fields}).template_arguments == arguments


def test_arguments_that_are_no_object_are_refused() -> None:
    assert "must be an object with arguments" in error_of(conversation({}, chat_template_kwargs="fast"))
    assert "'enable_thinking' must be true or false" in error_of(conversation({}, enable_thinking="maybe"))


# What is not read


def notices_of(tmp_path: Path, *rows: dict[str, Any]) -> list[str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(path).notices


def test_fields_that_nothing_reads_are_reported_once_with_their_count(tmp_path: Path) -> None:
    rows = [{"instruction": Q, "output": A, "critique": "Too short.", "idx": n, "source": "x"} for n in range(3)]
    rows += [conversation({"channel": "final"}, verdict=False), {"instruction": Q, "output": A, "critique": ""}]
    assert notices_of(tmp_path, *rows) == [
        "3 rows with the field 'critique', which is not read",
        "1 row with the field 'verdict', which is not read",
        "1 row with the field 'channel' of a message, which is not read",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": 1, "prompt_id": "x", "createdAt": "now", "score_1": 2, "source": "y", "num_tokens": 5, "model": "m"},
        {"text": f"### Instruction:\n{Q}\n### Response:\n{A}"},
        {"messages_json": "", "extra_field": None, "more": [], "others": {}},
        {"first": Q},
        {"others": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]},
    ],
)
def test_fields_that_describe_or_repeat_a_row_are_not_reported(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert notices_of(tmp_path, {"instruction": Q, "output": A, **fields}) == []


def test_a_second_answer_or_input_is_reported(tmp_path: Path) -> None:
    assert notices_of(tmp_path, {"instruction": Q, "output": A, "response": "Another."}) == [
        "1 row with the field 'response', which is not read"
    ]
    assert notices_of(tmp_path, conversation({}, input="A map.")) == ["1 row with the field 'input', which is not read"]


@pytest.mark.parametrize(
    ("name", "value"), [("is_verified", False), ("review_status", "rejected"), ("qualityFlag", "low"), ("label", 0)]
)
def test_a_field_that_may_say_that_a_row_is_bad_is_reported(tmp_path: Path, name: str, value: Any) -> None:
    assert notices_of(tmp_path, {"instruction": Q, "output": A, name: value}) == [
        f"1 row with the field '{name}', which is not read"
    ]


def test_many_unknown_fields_are_counted(tmp_path: Path) -> None:
    notices = notices_of(tmp_path, {"instruction": Q, "output": A, **{f"f{n:c}{n:c}": 1 for n in range(97, 122)}})
    assert len(notices) == 21
    assert notices[-1] == "5 more fields that are not read"


def test_marks_of_other_roles_and_messages_after_the_answer_are_noticed(tmp_path: Path) -> None:
    row = conversation({})
    row["messages"][0] = {**USER, "train": True}
    row["messages"].append({"role": "user", "content": "Thanks."})
    assert notices_of(tmp_path, row) == [
        "1 row with a mark that a message of another role is to be learnt; only answers are",
        "1 row with messages after the last answer, which are not trained on",
    ]


def test_a_row_about_a_picture_is_refused_by_name() -> None:
    for fields in ({"image": "a.png"}, {"images": ["a.png"]}, {"video": {"path": "x"}}):
        assert "can't be trained on; remove that field" in error_of({"instruction": Q, "output": A, **fields})
    assert single_example({"instruction": Q, "output": A, "images": []}).output == A
