"""A kind of verifier: the answer reads the same backwards, as in ``{"kind": "palindrome", "least": 5}``."""

from selfinstruct.verifiers.base import Finding, Kind, Spec, check_count, short


def is_palindrome(spec: Spec, answer: str) -> Finding:
    """Compare the letters and digits of an answer with their reverse."""
    letters = [character for character in answer.lower() if character.isalnum()]
    long_enough = len(letters) >= spec.get("least", 1)
    expected = f"a palindrome of at least {spec.get('least', 1)} letters"
    return Finding(long_enough and letters == letters[::-1], expected, short(answer))


PALINDROME = Kind(is_palindrome, fields={"least": check_count})
