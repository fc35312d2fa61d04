"""Reason codes: why a candidate, a piece of a completion or a row of a file was rejected.

Every built-in filter, verifier, strategy and parser takes its codes from ``RejectReason``. A member is a plain string,
so reports and ledgers hold the code itself. A plugin may use further codes, since ``Verdict.reason`` is a string.
Three kinds of code are open-ended and therefore no members: ``no_<field>`` of a parser (``missing_field``),
``ended_<finish reason>`` of an answer that is not complete (``ended``), and ``<top or duplicate>_<n>_gram`` of the
filter ``Repetition``, one for each length of n-gram.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["RejectReason", "ended", "ending_of", "is_unfinished", "missing_field"]


_ENDED = "ended_"


class RejectReason(StrEnum):
    """Why something was rejected, with an explanation of one line.

    Attributes:
        explanation: A sentence for the documentation.
    """

    explanation: str

    def __new__(cls, code: str, explanation: str) -> RejectReason:
        """Make a member that is equal to its code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.explanation = explanation
        return member

    # Reading a completion.
    TRUNCATED = "truncated", "The text ended at the token limit, so its last piece is incomplete."
    PREAMBLE = "preamble", "Text before the first item that was asked for."
    TRAILING = "trailing", "Text after the last item that was asked for."
    OVER_COUNT = "over_count", "More items than were asked for, or more rows with one value than the cap allows."
    OUT_OF_ORDER = "out_of_order", "A number or a field that does not follow the one before it."
    NO_LIST = "no_list", "A numbered list was asked for, and the text holds none."
    NO_BLOCK = "no_block", "Blocks of labelled fields were asked for, and the text holds none."
    NO_ROWS = "no_rows", "The JSON array that was asked for is empty."
    NOT_JSON = "not_json", "An item of the JSON array is not strict JSON, or it never closes."
    WRONG_TYPE = "wrong_type", "A JSON value has another type than the one that was asked for."
    NO_INSTRUCTION = "no_instruction", "The instruction is missing or blank."
    NO_OUTPUT = "no_output", "The output is missing or blank."
    NO_ANSWER = "no_answer", "The completion holds no answer: no yes or no, or nothing after the reasoning."
    EMPTY = "empty", "The message or completion is blank."

    # Filters of instructions.
    TOO_SHORT = "too_short", "The instruction has fewer words than the minimum."
    TOO_LONG = "too_long", "The instruction has more words than the maximum."
    KEYWORD = "keyword", "The instruction names something that text cannot fulfil, such as an image or a plot."
    PUNCTUATION = "punctuation", "The instruction begins with punctuation, so it is a fragment."
    PROGRAM = "program", 'The instruction begins with "Write a program" where the program\'s result is wanted.'
    SIMILAR = "similar", "ROUGE-L with a seed or a kept instruction is above the threshold."

    # Filters of rows.
    EMPTY_OUTPUT = "empty_output", "The output of an instance is blank."
    INPUT_IS_OUTPUT = "input_is_output", "Input and output of an instance are the same text."
    COLON = "colon", "Input or output ends with a colon, so what it announces is missing."
    CONFLICT = "conflict", "Two instances of one task have the same input and different outputs."
    DUPLICATE = "duplicate", "The same instance occurs earlier in the same task."
    COPIED_INPUT = "copied_input", "The text is copied from its own input or from the persona in the prompt."
    COPIED_DEMONSTRATION = "copied_demonstration", "The text is copied from an example that the prompt shows."
    NEAR_DUPLICATE = "near_duplicate", "MinHash finds a row of another task with nearly the same text."
    SAME_MEANING = "same_meaning", "The embedding is closer to that of a kept text than the threshold allows."
    WRONG_ANSWER = "wrong_answer", "The output fails the verifier of its task."

    # Filters of files.
    NOTHING_TO_JUDGE = "nothing_to_judge", "The text that an index compares is blank, so it can't be a duplicate."
    LANGUAGE = "language", "The text is in another language than the ones that are kept."
    UNDECIDED = "undecided", "The language of the text could not be determined."
    REFUSAL = "refusal", "The output refuses the task."
    SELF_REFERENCE = "self_reference", "The output speaks about its author as a language model."
    OPENING = "opening", "The output opens with a stock phrase of assistants."
    ENDING = "ending", "The output ends with a stock phrase of assistants."
    LINES = "lines", "Too large a share of the lines are repeated."
    PARAGRAPHS = "paragraphs", "Too large a share of the paragraphs are repeated."
    LINE_CHARACTERS = "line_characters", "Too large a share of the characters lie in repeated lines."
    PARAGRAPH_CHARACTERS = "paragraph_characters", "Too large a share of the characters lie in repeated paragraphs."
    REPETITIVE = "repetitive", "The perplexity is below the minimum: the text is repetitive."
    PERPLEXITY = "perplexity", "The perplexity is above the maximum: the text is unlikely to be natural."
    EASY = "easy", "The IFD score is below the minimum: the model can write the answer without help."
    UNHELPFUL = "unhelpful", "The IFD score is above the maximum: the instruction does not help to predict the answer."
    OVER_SHARE = "over_share", "More rows with one value than its share of the dataset allows."
    EXACT = "exact", "The text equals a benchmark item."
    NGRAM = "ngram", "The text shares a long n-gram with a benchmark item."
    COVERAGE = "coverage", "The text contains most of a benchmark item."
    CONTAINED = "contained", "The text contains a short benchmark item whole."
    ROUGE = "rouge", "ROUGE-L with a short benchmark item is above the threshold."

    # Personal data and secrets.
    EMAIL = "email", "The text contains an e-mail address."
    PHONE = "phone", "The text contains a telephone number."
    CARD = "card", "The text contains a payment card number."
    IBAN = "iban", "The text contains an IBAN."
    IPV4 = "ipv4", "The text contains a public IPv4 address."
    IPV6 = "ipv6", "The text contains a public IPv6 address."
    PRIVATE_KEY = "private_key", "The text contains a private key."
    JWT = "jwt", "The text contains a JSON Web Token."
    OPENAI_KEY = "openai_key", "The text contains an OpenAI API key."
    GITHUB_TOKEN = "github_token", "The text contains a GitHub token."
    GITLAB_TOKEN = "gitlab_token", "The text contains a GitLab token."
    AWS_KEY = "aws_key", "The text contains an AWS access key."
    GOOGLE_KEY = "google_key", "The text contains a Google API key."
    SLACK_TOKEN = "slack_token", "The text contains a Slack token."
    STRIPE_KEY = "stripe_key", "The text contains a Stripe key."
    HUGGINGFACE_TOKEN = "huggingface_token", "The text contains a Hugging Face token."

    # Evol-Instruct.
    UNCHANGED = "unchanged", "The evolved instruction is the un-evolved one, apart from case and spaces."
    TOO_SIMILAR = "too_similar", "ROUGE-L between the evolved and the un-evolved instruction is above the threshold."
    EQUAL = "equal", "The judge finds that the evolved instruction asks for nothing more."
    UNJUDGED = "unjudged", 'The judge\'s answer says neither "equal" nor "different".'
    SORRY = "sorry", "The response is short and apologises."
    NO_CONTENT = "no_content", "The response consists of punctuation and stop words."
    PROMPT_WORDS = "prompt_words", "The evolved instruction repeats the wording of its prompt."

    # Conversations and Magpie.
    SPECIAL_TOKENS = "special_tokens", "The text contains a special token of a chat template."
    REASONING = "reasoning", "The text contains reasoning where only an answer belongs."
    ROLE_CONFUSION = "role_confusion", "One speaker writes the other's message."
    REPEATED = "repeated", "A message repeats an earlier one of the conversation."
    TOO_FEW_ROUNDS = "too_few_rounds", "The conversation ended in order, but before the minimum number of rounds."
    FAILED = "failed", "A request of the conversation failed before the minimum number of rounds."

    # Respond.
    NO_REASONING = "no_reasoning", "Reasoning was asked for, and the completion holds none."
    TASK_REPEATED = "task_repeated", "The answer repeats the task."

    # Quality.
    SAME_ANSWER = "same_answer", "A further answer equals one that the row has already."
    MISSING_CHOICE = "missing_choice", "The server returned fewer choices than were asked for."
    LOW_SCORE = "low_score", "The score of the answer, or the mean score of the best one, is below the minimum."
    NO_SCORE = "no_score", "The judge's answer holds no score, or the reward model gives none."


def missing_field(name: str) -> str:
    """Return the reason code for a block or record without the field ``name`` (``no_output``)."""
    return f"no_{name}"


def ended(ending: str) -> str:
    """Return the reason code for an answer with an ending that marks no complete one (``ended_content_filter``)."""
    return f"{_ENDED}{ending}"


def ending_of(reason: str) -> str:
    """Return the ending that a reason code of ``ended`` names; "" for any other reason."""
    return reason.removeprefix(_ENDED) if reason.startswith(_ENDED) else ""


def is_unfinished(reason: str) -> bool:
    """Return whether a reason code is for an answer that is not complete."""
    return reason == RejectReason.TRUNCATED or reason.startswith(_ENDED)
