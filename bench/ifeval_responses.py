"""Varied responses to the prompts of IFEval, some of which follow their instructions, for ``ifeval_parity``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

__all__ = ["make_response"]

Arguments = Mapping[str, Any]

SENTENCES = {
    "kn": "ಇಂದು ಬೆಳಿಗ್ಗೆ ನಾನು ಮಾರುಕಟ್ಟೆಗೆ ಹೋಗಿ ಹಣ್ಣುಗಳನ್ನು ಖರೀದಿಸಿದೆ. ನಂತರ ನಾವು ಮನೆಗೆ ಬಂದೆವು.",
    "pa": "ਅੱਜ ਸਵੇਰੇ ਮੈਂ ਬਾਜ਼ਾਰ ਗਿਆ ਅਤੇ ਫਲ ਖਰੀਦੇ। ਫਿਰ ਅਸੀਂ ਘਰ ਵਾਪਸ ਆਏ।",
    "mr": "आज सकाळी मी बाजारात गेलो आणि फळे विकत घेतली. नंतर आम्ही घरी परत आलो आहोत.",
    "fa": "امروز صبح به بازار رفتم و میوه خریدم. بعد از آن همه با هم به خانه برگشتیم.",
    "hi": "आज सुबह मैं बाजार गया और फल खरीदे। उसके बाद हम सब घर वापस आ गए हैं।",
    "vi": "Sáng nay tôi đã đi chợ và mua trái cây. Sau đó chúng tôi trở về nhà.",
    "ru": "Сегодня утром я пошёл на рынок и купил фрукты. Потом мы вернулись домой.",
    "ko": "오늘 아침에 나는 시장에 가서 과일을 샀다. 그 후 우리는 집으로 돌아왔다.",
    "sw": "Leo asubuhi nilikwenda sokoni na kununua matunda. Baadaye tulirudi nyumbani pamoja.",
    "de": "Heute Morgen ging ich auf den Markt und kaufte Obst. Danach sind wir nach Hause gegangen.",
    "bg": "Тази сутрин отидох на пазара и купих плодове. След това се върнахме у дома.",  # noqa: RUF001
    "pt": "Hoje de manhã fui ao mercado e comprei frutas. Depois voltamos para casa juntos.",
    "gu": "આજે સવારે હું બજારમાં ગયો અને ફળો ખરીદ્યા. પછી અમે ઘરે પાછા આવ્યા.",
    "te": "ఈ రోజు ఉదయం నేను మార్కెట్‌కు వెళ్లి పండ్లు కొన్నాను. తరువాత మేము ఇంటికి వచ్చాము.",
    "it": "Questa mattina sono andato al mercato e ho comprato della frutta. Poi siamo tornati a casa.",
    "ar": "ذهبت هذا الصباح إلى السوق واشتريت بعض الفواكه. ثم عدنا جميعا إلى البيت.",
    "ta": "இன்று காலை நான் சந்தைக்குச் சென்று பழங்கள் வாங்கினேன். பின்னர் நாங்கள் வீடு திரும்பினோம்.",
    "fi": "Tänä aamuna menin torille ja ostin hedelmiä. Sen jälkeen palasimme yhdessä kotiin.",
    "ur": "آج صبح میں بازار گیا اور پھل خریدے۔ اس کے بعد ہم سب گھر واپس آ گئے ہیں۔",  # noqa: RUF001
    "th": "เช้านี้ฉันไปตลาดและซื้อผลไม้ หลังจากนั้นเราก็กลับบ้านด้วยกัน",
    "ne": "आज बिहान म बजार गएँ र फलफूल किनें। त्यसपछि हामी सबै घर फर्क्यौं र खाना खायौं।",
    "bn": "আজ সকালে আমি বাজারে গিয়েছিলাম এবং ফল কিনেছিলাম। তারপর আমরা বাড়ি ফিরে এলাম।",
}


def _repeat(text: str, count: int, separator: str) -> str:
    lines = [line for line in text.split("\n") if line.strip()] or ["x"]
    return separator.join(lines[index % len(lines)] for index in range(max(1, count)))


def _to_words(text: str, arguments: Arguments, rng: Random) -> str:
    words = (text.split(" ") * 200)[:3000]
    return " ".join(words[: max(1, arguments["num_words"] + rng.randint(-40, 40))])


def _to_sentences(text: str, arguments: Arguments, rng: Random) -> str:
    parts = [f"{part.strip().rstrip('.')}." for part in text.replace("\n", " ").split(". ") if part.strip()] * 40
    return " ".join(parts[: max(1, arguments["num_sentences"] + rng.randint(-2, 1))])


def _nth_paragraph(text: str, arguments: Arguments, rng: Random) -> str:
    paragraphs = _repeat(text, arguments["num_paragraphs"] + rng.choice((0, 0, 0, 1)), "\n\n").split("\n\n")
    index = min(arguments["nth_paragraph"], len(paragraphs)) - 1
    paragraphs[index] = f"{rng.choice(('', '', '**', chr(34)))}{arguments['first_word']} {paragraphs[index]}"
    return "\n\n".join(paragraphs)


def _keywords(text: str, words: Sequence[str], rng: Random, times: int = 1) -> str:
    pieces = text.split(" ")
    for word in [word for word in words for _ in range(times)]:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice((word, word.upper(), f"{word},", f"{word}s")))
    return " ".join(pieces)


SHAPES: dict[str, Callable[[str, Arguments, Random], str]] = {
    "keywords:existence": lambda text, a, rng: _keywords(text, a["keywords"], rng),
    "keywords:frequency": lambda text, a, rng: _keywords(text, [a["keyword"]], rng, a["frequency"] - rng.randint(0, 1)),
    "keywords:forbidden_words": lambda text, a, rng: _keywords(text, a["forbidden_words"][: rng.randint(0, 1)], rng),
    "keywords:letter_frequency": lambda text, a, rng: text + f" {a['letter']}" * rng.randint(0, 8),
    "length_constraints:number_words": _to_words,
    "length_constraints:number_sentences": _to_sentences,
    "length_constraints:number_paragraphs": lambda text, a, rng: _repeat(
        text, a["num_paragraphs"] + rng.choice((0, 0, 1)), rng.choice(("\n***\n", "\n\n***\n\n", "\n* * *\n"))
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "change_case:english_capital": lambda text, _, _rng: text.upper(),
    "change_case:english_lowercase": lambda text, _, _rng: text.lower(),
    "change_case:capital_word_frequency": lambda text, a, rng: " ".join(
        word.upper() if index < a["capital_frequency"] + rng.randint(-3, 2) else word.lower()
        for index, word in enumerate(text.split(" "))
    ),
    "language:response_language": lambda _text, a, rng: f"{SENTENCES[a['language']]} " * rng.randint(1, 4),
    "punctuation:no_comma": lambda text, _, _rng: text.replace(",", ""),
    "detectable_content:number_placeholders": lambda text, a, rng: (
        text + " [name]" * (a["num_placeholders"] - rng.randint(0, 1))
    ),
    "detectable_content:postscript": lambda text, a, rng: (
        f"{text}\n\n{rng.choice((a['postscript_marker'], 'P. S. '))} x"
    ),
    "detectable_format:number_bullet_lists": lambda text, a, rng: (
        "Here:\n"
        + "\n".join(
            f"{rng.choice(('* ', '- ', '  * ', '**'))}{line}"
            for line in _repeat(text, a["num_bullets"], "\n").split("\n")
        )
    ),
    "detectable_format:number_highlighted_sections": lambda text, a, rng: (
        text + "\n*a part*" * (a["num_highlights"] - rng.randint(0, 1)) + rng.choice(("", " **bold** ", "****"))
    ),
    "detectable_format:multiple_sections": lambda text, a, rng: "\n".join(
        f"{a['section_spliter']} {number}\n{text[:200]}"
        for number in range(1, a["num_sections"] + 1 - rng.randint(0, 1))
    ),
    "detectable_format:title": lambda text, _, rng: f"<<{rng.choice(('A title', ' ', 'a > b'))}>>\n{text}",
    "detectable_format:json_format": lambda text, _, rng: (
        rng.choice(("", "```json\n")) + json.dumps({"answer": text[:300]}) + rng.choice(("", "\n```"))
    ),
    "detectable_format:constrained_response": lambda _text, _, rng: rng.choice(
        ("My answer is yes.", "My answer is no", "Yes.")
    ),
    "combination:two_responses": lambda text, _, rng: (
        f"{text[:200]}\n******\n{rng.choice((text[:200], 'Another one.'))}"
    ),
    "combination:repeat_prompt": lambda text, a, _rng: f"{a['prompt_to_repeat']}\n\n{text}",
    "startend:end_checker": lambda text, a, rng: f"{text}\n{a['end_phrase']}{rng.choice(('', '.', ' '))}",
    "startend:quotation": lambda text, _, _rng: f'"{text}"',
}
_SMALL_TALK = ("Sure! Here it is:\n{}", "{}\nI hope that this helps!", "**{}**", "Of course:\n\n{}\n\nAnything else?")


def make_response(text: str, instructions: Sequence[tuple[str, Arguments]], rng: Random) -> str:
    """Return a text that has been changed so that it follows, or nearly follows, some of the instructions."""
    for name, arguments in instructions:
        if rng.random() < 0.7:
            text = SHAPES[name](text, arguments, rng)
    return rng.choice(_SMALL_TALK).replace("{}", text) if rng.random() < 0.25 else text
