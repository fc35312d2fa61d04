import pickle

import pytest

from selfinstruct.filters.patterns import Boilerplate
from selfinstruct.filters.refusals import Refusals

REFUSED = [
    "I'm sorry, but I can't assist with that request.",
    "I\u2019m sorry, but I cannot help with that.",
    "Sorry, I am not able to do this.",
    "I am sorry, but as an AI I cannot open links.",
    "Unfortunately, I cannot browse the internet.",
    "I apologize, but I am unable to generate images.",
    "Hello! I cannot comply with this.",
    "I must decline.",
    "It would be inappropriate for me to guess.",
    "It isn't ethical for me to say.",
    "Please provide the text so that I can summarise it.",
    "You have not provided any text to translate.",
    "There is no input given.",
]
SELF = [
    "As an AI language model, I think that tea is fine.",
    "as an AI, I see both sides",
    "Good question. As a large language model, I see both sides.",
    "I am just a language model.",
    "I'm an AI assistant made to help.",
    "\n\n  I'm a chatbot.",
    "My training data only goes to 2021.",
    "I don't have personal opinions, yet tea is fine.",
]
FINE = [
    "",
    "Tea is a drink. She said that as an AI it would never do.",
    "An apology might read: 'I regret the delay.'",
    "I can't help but admire the sea.",
    "Unfortunately, I cannot help but admire the sea.",
    "I cannot recommend this book enough to its readers.",
    "I'm sorry for the delay; your parcel left today.",
    "I can't see the forest for the trees is an idiom.",
    "I am a teacher. As a language teacher, I like models.",
    "As an aid to memory, write it down.",
    "As an air traveller, you have rights.",
    "Language models such as GPT predict words.",
    "It is appropriate for me to thank you.",
    "Please provide the best care for the plant.",
    "The model said. " + "Tea is a drink. " * 20 + "I'm sorry, but I can't assist with that.",
]


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_found_at_the_beginning_of_a_sentence(text):
    verdict = Refusals().verdict(text)
    assert (verdict.filter, verdict.kept, verdict.reason) == ("refusals", False, "refusal")
    assert verdict.detail["phrase"] in text.lower().replace("\u2019", "'")


@pytest.mark.parametrize("text", SELF)
def test_a_self_reference_is_rejected(text):
    assert Refusals().verdict(text).reason == "self_reference"


@pytest.mark.parametrize("text", FINE)
def test_similar_phrases_within_content_are_kept(text):
    assert Refusals().verdict(text).kept


def test_the_phrases_are_configurable():
    member = Refusals(refusals=("no way",), self_references=())
    assert member(["No way. Never.", "There is no way.", "As an AI, I"]) == [False, True, True]
    assert Refusals(refusals=(), self_references=())(REFUSED) == [True] * len(REFUSED)
    assert Refusals(head=10).verdict("Tea is fine. I must decline.").kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sure! Here is a poem.", "opening"),
        ("Of course, here is one.", "opening"),
        ("Certainly", ""),
        ("I'd be happy to help! Take salt.", "opening"),
        ("Surely the sun rises.", ""),
        ("Sure-footed goats climb.", ""),
        ("Certainly not the best of them.", ""),
        ("Water boils. I hope this helps!", "ending"),
        ("Water boils.\nLet me know if you have any questions.", "ending"),
        ("Water boils. Is there anything else I can do?", "ending"),
        ("Let me know if you have any questions." + " Water boils." * 30, ""),
        ("He asked whether there is anything else I can carry.", ""),
        ("Let me know if the cat is home.", ""),
        ("", ""),
    ],
)
def test_courtesies_around_an_answer_are_rejected(text, reason):
    verdict = Boilerplate().verdict(text)
    assert (verdict.filter, verdict.kept, verdict.reason) == ("boilerplate", not reason, reason)


def test_empty_lists_reject_nothing():
    assert Boilerplate(openings=(), endings=())(["Sure! I hope this helps."]) == [True]
    assert Boilerplate(openings=(), tail=0)(["I hope this helps."]) == [True]


@pytest.mark.parametrize("member", [Refusals(), Boilerplate()])
def test_both_filters_can_be_pickled(member):
    assert pickle.loads(pickle.dumps(member)) == member
    assert hash(member) == hash(type(member)())
