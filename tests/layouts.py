"""One row of each layout that public datasets use, with what each command does with it. All texts are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LAYOUTS", "Layout", "Refused"]

Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Refused:
    """A part of the message with which a command refuses a row."""

    message: str


@dataclass(frozen=True)
class Layout:
    """A row, and what becomes of it.

    Attributes:
        field: What ``filter`` names as the field; a reason code if it drops the row.
        seed: Inputs and outputs of the seed task.
        sent: The messages that ``respond`` sends.
        trained: The messages that ``finetune`` trains on.
    """

    name: str
    row: dict[str, Any]
    field: str | Refused
    seed: Sequence[tuple[str, str]] | Refused
    sent: Turns | Refused
    trained: Turns | Refused


Q, A = "Which sea lies north of Poland?", "The Baltic."
USER, BOTH = [("user", Q)], [("user", Q), ("assistant", A)]
SYSTEM = ("system", "Answer briefly.")
MESSAGES = [{"role": role, "content": text} for role, text in BOTH]
SHAREGPT = [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]
TOOL = {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
NO_TOOLS, CALLS = Refused("tools, which can't be sent"), [*USER, ("assistant", "")]
NO_SYSTEM, NO_ROUNDS = Refused("has a system prompt"), Refused("several rounds")
NO_OUTPUT, NO_ANSWER = Refused("'instances' or 'output' is required"), Refused("no field")


def plain(name: str, row: dict[str, Any], field: str, *, question: str = Q, input: str = "", answer: str = A) -> Layout:  # noqa: A002  # as the field
    """A layout that every command reads: one question, perhaps with an input, and its answer."""
    text = f"{question}\n\n{input}" if input else question
    return Layout(name, row, field, [(input, answer)], [("user", text)], [("user", text), ("assistant", answer)])


def refused(name: str, row: dict[str, Any], message: str) -> Layout:
    """A layout that every command refuses with the same words."""
    return Layout(name, row, *[Refused(message)] * 4)


def conversation(name: str, field: str, messages: Any, **more: Any) -> Layout:
    """One round, in messages of any spelling."""
    return plain(name, {field: messages, **more}, field)


LAYOUTS = [
    plain("alpaca", {"instruction": Q, "input": "", "output": A}, "instruction"),
    *(
        plain(f"alpaca, input {word!r}", {"instruction": Q, "input": word, "output": A}, "instruction")
        for word in (None, "nan", "None", "N/A", "n/a", "null", "NULL", "<noinput>", "<NoInput>", " <noinput> ",
                     "N/A.", "none.", "No input provided.", "Not applicable", "(No input required)", "<empty>")
    ),
    plain("alpaca, instruction nan", {"instruction": "nan", "input": Q, "output": A}, "instruction"),
    plain("choices", {"question": Q, "choices": ["The Baltic.", "The Red."], "answer": A}, "question",
          input="The Baltic.\n\nThe Red."),
    plain("story", {"question": Q, "story": "A map.", "answer": A}, "question", input="A map."),
    plain("alpaca, null instruction", {"instruction": None, "input": Q, "output": A}, "input"),
    plain("instruction and question", {"instruction": "Answer by the map.", "question": Q, "answer": A}, "instruction",
          question="Answer by the map.", input=Q),
    plain("flan", {"inputs": Q, "targets": [A]}, "inputs"),
    plain("user and assistant", {"user": Q, "assistant": A}, "user"),
    plain("a user's name", {"user": "ann", "question": Q, "answer": A}, "question"),
    plain("user prompt", {"user_prompt": Q, "response": A}, "user_prompt"),
    plain("alpaca, task in the input", {"instruction": "", "input": Q, "output": A}, "instruction"),
    plain("upper case", {"Instruction": Q, "Output": A}, "Instruction"),
    plain("dolly", {"instruction": Q, "context": "A map.", "response": A, "category": "qa"}, "instruction",
          input="A map."),
    *(
        plain(f"question with {name}", {"question": Q, name: "A map.", "answer": A}, "question", input="A map.")
        for name in ("context", "passage", "question_context", "background", "document", "article", "Context")
    ),
    plain("passages", {"question": Q, "passages": ["A map.", "A chart."], "answer": A}, "question",
          input="A map.\n\nA chart."),
    plain("squad", {"question": Q, "context": "A map.", "answers": {"text": [A, A], "answer_start": [0, 0]}},
          "question", input="A map."),
    plain("query", {"query": Q, "response": A}, "query"),
    plain("QUERY", {"QUERY": Q, "ANSWER": A}, "QUERY"),
    plain("prompt and completion", {"prompt": Q, "completion": A}, "prompt"),
    plain("prompt and completion, messages", {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, "prompt"),
    plain("gsm8k", {"question": Q, "answer": A}, "question"),
    plain("problem and solution", {"problem": Q, "solution": A, "answer": "short", "reasoning": "By map."}, "problem"),
    plain("seed task", {"id": "s1", "instruction": Q, "instances": [{"input": "A map.", "output": A}]}, "instruction",
          input="A map."),
    plain("natural instructions", {"Definition": [Q], "Instances": [{"input": "A map.", "output": [A]}]}, "Definition",
          input="A map."),
    plain("chosen and rejected", {"prompt": Q, "chosen": A, "rejected": "The Red."}, "prompt"),
    plain("chosen messages", {"prompt": Q, "chosen": MESSAGES, "rejected": MESSAGES[:1]}, "prompt"),
    plain("transcripts", {name: f"\n\nHuman: {Q}\n\nAssistant: {text}"
                          for name, text in (("chosen", A), ("rejected", "No"))}, "chosen"),
    plain("text with headings", {"text": f"### Human: {Q}### Assistant: {A}"}, "text"),
    plain("text with ChatML", {"text": f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{A}<|im_end|>\n"},
          "text"),
    *(
        plain(f"text by the template of {name}", {"text": text.format(Q, A)}, "text")
        for name, text in (
            ("Llama 2", "<s>[INST] {} [/INST] {} </s>"),
            ("Llama 3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
                        "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>"),
            ("Gemma", "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>\n"),
            ("Zephyr", "<|user|>\n{}</s>\n<|assistant|>\n{}</s>"),
            ("Phi", "<|user|>\n{}<|end|>\n<|assistant|>\n{}<|end|>\n<|endoftext|>"),
        )
    ),
    Layout("text by the template of Llama 2, system",
           {"text": f"<s>[INST] <<SYS>>\n{SYSTEM[1]}\n<</SYS>>\n\n{Q} [/INST] {A} </s>"}, "text",
           NO_SYSTEM, [SYSTEM, *USER], [SYSTEM, *BOTH]),
    conversation("messages", "messages", MESSAGES),
    conversation("messages next to a prompt", "messages", MESSAGES, prompt=Q),
    conversation("sharegpt", "conversations", SHAREGPT),
    conversation("JSON in a string", "messages", json.dumps(MESSAGES)),
    conversation("JSON in a string of JSON", "messages", json.dumps(json.dumps(MESSAGES))),
    conversation("JSON in strings", "messages", [json.dumps(message) for message in MESSAGES]),
    conversation("Python in a string", "conversations", str(SHAREGPT)),
    plain("JSON in the prompt", {"prompt": json.dumps(MESSAGES[:1]), "completion": A}, "prompt"),
    conversation("columns of messages", "conversations", {"from": ["human", "gpt"], "value": [Q, A]}),
    conversation("rounds", "conversation", [{"human": Q, "assistant": A}]),
    conversation("rounds of input and output", "conversation", [{"system": "", "input": Q, "output": A}]),
    conversation("pairs", "dialogue", [[Q, A]]),
    conversation("strings", "data", [Q, A]),
    conversation("extra keys", "conversation", [{**message, "language": "English", "turn": 1} for message in MESSAGES]),
    *(
        conversation(f"roles {user} and {bot}", "messages", [{"from": user, "text": Q}, {"from": bot, "text": A}])
        for user, bot in (("Human", "Assistant"), ("USER", "ASSISTANT"), ("prompter", "bot"), ("user", "chatgpt"),
                          ("HUMAN", "GPT"), ("user", "model"))
    ),
    *(
        conversation(f"parts under {key}", "messages", [{"role": role, "content": [{"type": kind, key: text}]}
                                                        for role, text in BOTH])
        for kind, key in (("text", "text"), ("text", "value"), ("text", "content"), ("input_text", "text"),
                          ("output_text", "output_text"), ("input_text", "input_text"))
    ),
    conversation("parts that are strings", "messages", [{"role": role, "content": [text]} for role, text in BOTH]),
    conversation("text objects", "messages", [{"role": role, "content": [{"type": "text", "text": {"value": text}}]}
                                              for role, text in BOTH]),
    Layout("system message", {"messages": [{"role": "System", "content": SYSTEM[1]}, *MESSAGES]}, "messages",
           NO_SYSTEM, [SYSTEM, *USER], [SYSTEM, *BOTH]),
    *(
        Layout(f"column {name}", {name: SYSTEM[1], "question": Q, "response": A}, "question", NO_SYSTEM,
               [SYSTEM, *USER], [SYSTEM, *BOTH])
        for name in ("system", "system_prompt", "System Prompt", "systemMessage")
    ),
    Layout("history of pairs", {"instruction": "And south?", "output": "Czechia.", "history": [[Q, A]]}, "instruction",
           Refused("earlier rounds"), [*BOTH, ("user", "And south?")],
           [*BOTH, ("user", "And south?"), ("assistant", "Czechia.")]),
    Layout("history of messages", {"question": "And south?", "answer": "Czechia.", "chat_history": MESSAGES},
           "question", Refused("earlier rounds"), [*BOTH, ("user", "And south?")],
           [*BOTH, ("user", "And south?"), ("assistant", "Czechia.")]),
    Layout("open conversation", {"messages": [*MESSAGES, {"role": "user", "content": "And south?"}],
                                 "response": "Czechia."}, "messages", NO_ROUNDS, USER,
           [*BOTH, ("user", "And south?"), ("assistant", "Czechia.")]),
    Layout("several rounds", {"messages": [*MESSAGES, {"role": "user", "content": "Thanks."},
                                           {"role": "assistant", "content": "Welcome."}]}, "messages", NO_ROUNDS, USER,
           [*BOTH, ("user", "Thanks."), ("assistant", "Welcome.")]),
    Layout("two user messages", {"messages": [{"role": "user", "content": "Hello."}, *MESSAGES]}, "messages", [("", A)],
           [("user", f"Hello.\n\n{Q}")], [("user", "Hello."), *BOTH]),
    Layout("two answers", {"instruction": Q, "completions": [{"response": A}, {"response": "The Red."}]}, "instruction",
           Refused("2 answers"), USER, Refused("2 answers")),
    Layout("rejected completion", {"prompt": Q, "completion": A, "label": False}, "prompt",
           Refused("label of the row is false"), USER, Refused("label of the row is false")),
    Layout("rejected conversation", {"messages": MESSAGES, "label": False}, "messages",
           Refused("label of the row is false"), USER, Refused("label of the row is false")),
    plain("a label of a class", {"question": Q, "answer": A, "label": False}, "question"),
    conversation("rounds in another order", "conversation", [{"assistant": A, "human": Q}]),
    Layout("two system messages", {"messages": [{"role": "system", "content": "Be kind."},
                                                {"role": "developer", "content": "Be brief."}, *MESSAGES]}, "messages",
           NO_SYSTEM, [("system", "Be kind.\n\nBe brief."), *USER], [("system", "Be kind.\n\nBe brief."), *BOTH]),
    plain("blank first answer", {"instruction": Q, "output": "", "response": A}, "instruction"),
    refused("an answer without a question", {"chosen": A, "rejected": "No."}, "holds an answer but no question"),
    Layout("number as the answer", {"instruction": Q, "output": 42}, "instruction",
           Refused("'output' must be a string, not int"), USER,
           Refused("'output' must be a string, not int")),
    Layout("task alone", {"idx": 1, "Skill": "Maps", "Instruction": Q}, "Instruction", NO_OUTPUT, USER, NO_ANSWER),
    Layout("tools", {"tools": [TOOL], "messages": [MESSAGES[0], {"role": "assistant", "content": None,
                                                                 "tool_calls": [CALL]}]}, "messages", NO_TOOLS,
           NO_TOOLS, CALLS),
    Layout("tools in a string", {"tools": json.dumps([TOOL]), "query": Q, "answers": json.dumps([TOOL])}, "query",
           NO_TOOLS, NO_TOOLS, CALLS),
    Layout("function calls", {"conversations": [SHAREGPT[0], {"from": "function_call", "value": '{"name": "weather"}'},
                                                {"from": "observation", "value": "4"}, SHAREGPT[1]]}, "conversations",
           Refused("holds no answer"), USER, [*CALLS, ("tool", "4"), BOTH[1]]),
    Layout("a call without a name", {"conversations": [SHAREGPT[0], {"from": "function_call", "value": "{}"}]},
           "conversations", Refused("holds no answer"), USER, Refused("a tool call has no name")),
    Layout("empty first message", {"messages": [{"role": "user", "content": " "}, MESSAGES[1]]}, "nothing_to_judge",
           Refused("first message of 'messages' is empty"), Refused("first message of 'messages' is empty"),
           Refused("empty user message")),
    Layout("empty instruction", {"instruction": "", "input": "", "output": A}, "nothing_to_judge",
           Refused("'instruction' is missing or empty"), Refused("'instruction' is missing or empty"),
           [("user", ""), ("assistant", A)]),
    Layout("a text", {"text": Q}, "text", Refused("'instruction' is missing"), USER, Refused("unknown layout")),
    refused("pictures", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "holds no text, only image_url"),
    refused("a part that can't be read", {"messages": [{"role": "user", "content": [{"type": "text", "body": Q}]}]},
            "message 1 of 'messages': a part of type text"),
    refused("one message of a tree", {"message_id": "m", "text": A, "role": "assistant"}, "single message"),
    refused("a tree", {"prompt": {"text": Q, "role": "prompter", "replies": []}}, "tree of messages"),
    refused("unknown role", {"messages": [{"role": "narrator", "content": Q}]}, "unknown role 'narrator'"),
    refused("no content", {"messages": [{"role": "user", "content": None}]}, "message 1 of 'messages' lacks"),
    refused("no conversation in the string", {"messages": "Hello there"}, "'messages' is not a list of messages"),
    refused("no text", {"messages": [{"role": "assistant", "content": A}, {"role": "user"}]}, "message 2 of"),
    refused("number as the task", {"instruction": 5, "output": A}, "'instruction' must be a string, not int"),
    refused("null messages", {"messages": None}, "'messages' has no value"),
    refused("a conversation by another name", {"turns": MESSAGES}, "rename it to 'messages'"),
    Layout("a picture", {"image": "a.png", "instruction": Q, "output": A}, "instruction",
           Refused("'image', which can't be sent"), Refused("'image', which can't be sent"),
           Refused("'image' can't be trained on")),
    refused("unknown fields", {"sentence": Q, "label": 1}, "it has 'sentence', 'label'"),
]  # fmt: skip
