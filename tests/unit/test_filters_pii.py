import pickle

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters.pii import KINDS, Pii, Span

LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9nO2qR5tU8wX1"  # nobody's: made up in order
# Keys are put together here, so that scanners of source code find none.
KEY = "sk-" + LETTERS[:48]
SECRETS = {
    "openai_key": [KEY, "sk-proj-" + LETTERS[:40], "sk-ant-api03-" + LETTERS[:40] + "-_x"],
    "github_token": ["ghp_" + LETTERS[:36], "gho_" + LETTERS[:36], "github_pat_" + LETTERS[:22] + "_" + LETTERS],
    "gitlab_token": ["glpat-" + LETTERS[:20]],
    "aws_key": ["AKIA" + "ABCDEFGHIJKL2345", "ASIA" + "ABCDEFGHIJKL2345"],
    "google_key": ["AIza" + LETTERS[:35]],
    "slack_token": ["xoxb-" + "123456789012-" + LETTERS[:24]],
    "stripe_key": ["sk_live_" + LETTERS[:24], "rk_live_" + LETTERS[:24]],
    "huggingface_token": ["hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"],
    "jwt": ["eyJ" + LETTERS[:17] + ".eyJ" + LETTERS[:30] + "." + LETTERS[:43]],
    "private_key": [
        f"-----BEGIN {kind}PRIVATE KEY-----\n{LETTERS}\n{LETTERS}==\n-----END {kind}PRIVATE KEY-----"
        for kind in ("", "RSA ", "EC ", "OPENSSH ")
    ]
    + [
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{LETTERS}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{LETTERS}\n=ab1C\n-----END PGP PRIVATE KEY BLOCK-----",
        f"-----BEGIN PRIVATE KEY-----\n{LETTERS}\n{LETTERS}",  # cut off
    ],
}
PERSONAL = {
    "email": ["ann.lee@mail-server.org", "O_B+news@sub.firma.co.uk", "x@y.museum"],
    "phone": [
        *("+49 30 901820", "+44 (0)20 7219 3000", "+12024561111", "+33.1.42.92.81.00", "+91-11-2301-2113"),
        *("(202) 456-1111", "(202)456-1111", "202-456-1111", "202.456.1111", "1-202-456-1111"),
    ],
    "ipv4": ["8.8.4.40", "141.30.2.1", "93.184.216.34"],
    "ipv6": ["2606:4700:4700::1111", "2a00:1450:4001:0829:0000:0000:0000:200e"],
    "iban": [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB82 WEST 1234 5698 7654 32",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        "FR14 2004 1010 0505 0001 3M02 606",
    ],
    "card": [
        *("4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "3782 822463 10005"),
        *("6011111111111117", "3530111333300000", "30569309025904", "2223003122003222", "6200000000000005"),
    ],
}
HITS = [(kind, text) for kinds in (SECRETS, PERSONAL) for kind, texts in kinds.items() for text in texts]
MISSES = {
    "email": [
        *("name@example.com", "bob@sub.example.org", "a@b.test", "user@localhost", "icon@2x.png", "@name", "a@b"),
        *("a@b.c", "x@-y.com", ".@y.com", "see user@, com", "a" * 65 + "@mail.com", "@media.com", "n@1.2.3"),
    ],
    "phone": [
        *("555-123-4567", "(202) 555-0123", "+1 202 555 0123", "123-456-7890", "202-156-1111", "211-456-1111"),
        *("202-911-1111", "2+2", "3 +123456789", "+1", "+1234567", "+1234567890123456", "202-456.1111", "2024-11-22"),
        *("x202-456-1111", "202-456-11112", "ISBN 978-3-16-148410-0", "+0123456789", "10.1000/202-456-1111"),
    ],
    "ipv4": [
        *("127.0.0.1", "192.168.1.10", "10.20.30.40", "192.0.2.10", "0.0.0.0", "255.255.255.255", "v8.8.4.40"),
        *("version 12.0.3.45", "pkg==12.0.3.45", "1.2.3.4", "§ 3.10.4.2", "Section 13.1.4.2", "12.0.3.45.6"),
        *("300.1.2.3", "12.0.3", "12.0.3.45-beta", "08.8.4.40", "1.12.0.3.45", "91.0.4472.124"),
    ],
    "ipv6": [
        *("2001:db8::1", "::1", "fe80::1", "std::vector", "12:30:45", "aa:bb:cc:dd:ee:ff", "2024:", "2a00:1450"),
        *("2606:4700:4700:::1111", "2606:4700:4700::1111:x", "2024:11:22:12:30:45"),
    ],
    "iban": [
        *("DE89370400440532013001", "DE8937040044053201300", "DE893704004405320130000", "XX89370400440532013000"),
        *("DE89 3704  0044 0532 0130 00", "de89370400440532013000", "aDE89370400440532013000", "US89", "NO93"),
    ],
    "card": [
        *("4111111111111112", "4111 1111-1111 1111", "411111111111111", "9111111111111111", "1234567890123456"),
        *(
            "0000000000000000",
            "1 2 3 4 5 6 7 8 9 10 11 12",
            "3.4111111111111111",
            "4111111111111111.5",
            "x4111111111111111",
        ),
    ],
    "openai_key": ["sk-fading-circle-of-many-small-dots", "sk-" + "a1" * 12, "sk-short", "task-" + LETTERS[:40]],
    "github_token": ["ghp_" + LETTERS[:35], "ghx_" + LETTERS[:36], "github_pat_short", "xghp_" + LETTERS[:36]],
    "gitlab_token": ["glpat-short"],
    "aws_key": ["AKIA" + "IOSFODNN7EXAMPLE", "AKIA" + "ABCDEFGHIJKL23456", "AKIA" + "abcdefghijkl2345", "AKIAH"],
    "google_key": ["AIza" + LETTERS[:34], "AIza" + LETTERS[:36]],
    "slack_token": ["xoxb-your-token-goes-here", "xoxz-" + LETTERS],
    "stripe_key": ["sk_test_" + LETTERS[:24], "sk_live_short"],
    "huggingface_token": ["hf_hub_download", "hf_" + "a" * 33, "hf_" + "a" * 34 + "_x"],
    "jwt": ["eyJ" + LETTERS, "eyJ" + LETTERS[:17] + "." + LETTERS[:30] + "." + LETTERS[:43], "eyJa.eyJb.c"],
    "private_key": [
        "A file begins with -----BEGIN PRIVATE KEY----- and then base64.",
        f"-----BEGIN PUBLIC KEY-----\n{LETTERS}\n-----END PUBLIC KEY-----",
        f"-----BEGIN CERTIFICATE-----\n{LETTERS}\n-----END CERTIFICATE-----",
    ],
}


def test_every_kind_has_hits_and_near_misses():
    assert set(KINDS) == {kind for kind, _ in HITS} == set(MISSES)


@pytest.mark.parametrize(("kind", "value"), HITS)
@pytest.mark.parametrize("around", ["{}", "call {}, then", "x = '{}'\n", "({})", "见{}。", "Hier: {}."])
def test_a_match_is_found_completely(kind, value, around):
    if around.startswith("见"):
        around = "见 {} 。"  # a letter just before it makes it part of a longer word
    text = around.format(value)
    start = text.index(value)
    assert Pii().find(text) == [Span(start, start + len(value), kind)]


@pytest.mark.parametrize(("kind", "value"), [(kind, text) for kind, texts in MISSES.items() for text in texts])
def test_a_near_miss_is_ignored(kind, value):
    assert Pii(kinds=(kind,)).find(f"see {value} there") == []
    assert Pii(kinds=(kind,)).find(value) == []


def test_the_words_before_a_number_distinguish_an_address_from_a_section():
    member = Pii()
    assert member.verdict("The DNS server 8.8.8.8 answers").reason == "ipv4"
    assert member.verdict("ping 1.1.1.1").reason == "ipv4"
    assert member.verdict("See 3.1.4.2 and 1.1.1.1").kept


def test_the_verdict_on_a_flagged_text_does_not_contain_the_value():
    text = f"Write to ann.lee@mail-server.org or bo@mail-server.org, key {KEY}"
    verdict = Pii().verdict(text)
    assert (verdict.filter, verdict.kept, verdict.reason) == ("pii", False, "email")
    assert verdict.detail["kinds"] == {"email": 2, "openai_key": 1}
    assert [text[start:end] for start, end, _ in verdict.detail["spans"]] == [
        "ann.lee@mail-server.org",
        "bo@mail-server.org",
        KEY,
    ]
    assert KEY not in repr(verdict)
    assert Pii().verdict("Nothing here.") == Pii(action="redact").verdict("Nothing here.")


def test_redacting_keeps_every_text_and_replaces_the_matches():
    member = Pii(action="redact")
    text = f"Write to ann.lee@mail-server.org, key {KEY}."
    assert member([text, ""]) == [True, True]
    assert member.verdict(text).detail["kinds"] == {"email": 1, "openai_key": 1}
    redacted, spans = member.redact(text)
    assert redacted == "Write to [EMAIL], key [OPENAI_KEY]."
    assert [text[span.start : span.end] for span in spans] == ["ann.lee@mail-server.org", KEY]
    assert member.redact(redacted) == (redacted, [])


def test_overlapping_matches_become_one_and_are_redacted_completely():
    value = f"{KEY}@mail-server.org"
    redacted, spans = Pii().redact(f"a {value} b")
    assert redacted == "a [OPENAI_KEY] b"
    assert spans == [Span(2, 2 + len(value), "openai_key")]


def test_a_match_within_another_is_redacted_with_it():
    inner = SECRETS["aws_key"][0]
    block = f"-----BEGIN PRIVATE KEY-----\n{inner}\n{LETTERS}\n-----END PRIVATE KEY-----"
    redacted, spans = Pii().redact(f"a {block} b")
    assert redacted == "a [AWS_KEY] b"
    assert spans == [Span(2, 2 + len(block), "aws_key")]


def test_only_the_chosen_kinds_are_found():
    text = f"ann.lee@mail-server.org {KEY}"
    assert [span.kind for span in Pii(kinds=("email",)).find(text)] == ["email"]
    assert Pii(kinds=()).verdict(text).kept


def test_unknown_actions_and_kinds_are_refused():
    with pytest.raises(UsageError, match="unknown kind 'name'"):
        Pii(kinds=("name",))
    with pytest.raises(UsageError, match="unknown action 'drop'"):
        Pii(action="drop")


def test_it_can_be_pickled():
    member = Pii()
    assert pickle.loads(pickle.dumps(member)) == member
    assert hash(member) == hash(Pii())
