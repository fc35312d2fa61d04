"""The phrases by which the filter of refusals decided with semantics 1; runs of that time still use them."""

from __future__ import annotations

__all__ = ["REFUSALS", "SELF_REFERENCES"]

_AI = (
    r"(?:an?|your) (?:(?:helpful|friendly|responsible|text-based) )?"
    r"(?:ai|artificial intelligence|(?:large )?language model|chat ?bot|virtual assistant)\b"
)
_UNABLE = r"(?:can(?:no|')t|can not|am (?:unable|not able|not allowed|not permitted) to|won't|will not)"
_ASSIST = (
    r"(?:assist|help(?! (?:but|myself|it)\b)|comply|fulfil|provide|answer|generate|create|write|access|browse|engage"
    r"|do that|continue|participate|support|complete|process|discuss|offer|give|share|produce|see|view"
    r"|open|recommend|condone)"
)

# References of a model to itself, which are useless in training data.
SELF_REFERENCES = (
    rf"as {_AI}",
    rf"(?:i am|i'm) (?:just |only |merely )?{_AI}",
    r"as a machine learning model\b",
    r"my (?:training data|knowledge) (?:only goes|goes|cuts? off|cutoff|only extends|ends)\b",
    r"my knowledge cut-?off\b",
    r"i (?:don't|do not) have (?:access to )?(?:real-time|personal (?:experiences|opinions|feelings|beliefs))\b",
)
# A declined request, or a complaint that the input is missing.
REFUSALS = (
    rf"(?:i'm |i am )?(?:very |so |truly |really )?sorry,? (?:but |that |however,? )?(?:i|as an ai)\b[^.!?\n]{{0,20}}?"
    rf"\b{_UNABLE}\b",
    rf"(?:unfortunately,? |i apologi[sz]e,? (?:but )?|apologies,? (?:but )?)(?:as an ai[^.!?\n]{{0,40}}, )?"
    rf"i {_UNABLE} {_ASSIST}",
    rf"i {_UNABLE} (?:assist|help(?! (?:but|myself|it)\b)|comply|fulfil|engage|do that|participate|condone)\b",
    r"i (?:must|have to) (?:respectfully )?(?:decline|refuse)\b",
    r"it (?:(?:is|would be) (?:not |in|un)|(?:isn't|wouldn't be) )(?:appropriate|ethical) for me to\b",
    r"(?:please )?(?:provide|give) (?:me )?(?:with )?(?:the|more|some|additional|further) (?:input|context|information"
    r"|details|text) (?:so that|so|in order|for me|to)\b",
    r"(?:there (?:is|was) no|you (?:have not|haven't|did not|didn't) provided? (?:any|an|the)) (?:input|text)\b",
)
