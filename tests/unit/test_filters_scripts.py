"""Instructions in eight languages and scripts: what is new, nearly the same, too short, a fragment, in a benchmark."""

import pytest

from selfinstruct.filters import (
    Decontaminator,
    LeadingPunctuation,
    NearDuplicateIndex,
    NoveltyIndex,
    Pii,
    Repetition,
    WordCount,
    rouge_l,
    tokenize,
)

# Of each: a poem about the sea in winter; the same in summer; the first with another end mark; healthy breakfasts.
TEXTS = {
    "Chinese": (
        "写一首关于冬天大海的诗。",
        "写一首关于夏天大海的诗。",
        "写一首关于冬天大海的诗!",
        "列出三种健康的早餐。",
    ),
    "Hindi": (
        "सर्दियों में समुद्र के बारे में एक कविता लिखिए।",
        "गर्मियों में समुद्र के बारे में एक कविता लिखिए।",
        "सर्दियों में समुद्र के बारे में एक कविता लिखिए!",
        "तीन स्वस्थ नाश्तों की सूची बनाइए।",
    ),
    "Thai": (
        "เขียนบทกวีเกี่ยวกับทะเลในฤดูหนาว",
        "เขียนบทกวีเกี่ยวกับทะเลในฤดูร้อน",
        "เขียนบทกวีเกี่ยวกับทะเลในฤดูหนาว!",
        "บอกอาหารเช้าที่ดีต่อสุขภาพสามอย่าง",
    ),
    "Tibetan": (
        "དགུན་ཁའི་རྒྱ་མཚོའི་སྐོར་ལ་སྙན་ངག་ཅིག་འབྲི་རོགས།",
        "དབྱར་ཁའི་རྒྱ་མཚོའི་སྐོར་ལ་སྙན་ངག་ཅིག་འབྲི་རོགས།",
        "དགུན་ཁའི་རྒྱ་མཚོའི་སྐོར་ལ་སྙན་ངག་ཅིག་འབྲི་རོགས!",
        "བདེ་ཐང་གི་ཞོགས་ཇ་གསུམ་གྱི་མིང་ཐོ་བཀོད་དང་།",
    ),
    "Khmer": (
        "សរសេរកំណាព្យអំពីសមុទ្រក្នុងរដូវរងារ",
        "សរសេរកំណាព្យអំពីសមុទ្រក្នុងរដូវក្តៅ",
        "សរសេរកំណាព្យអំពីសមុទ្រក្នុងរដូវរងារ!",
        "រាយបញ្ជីអាហារពេលព្រឹកបី",
    ),
    "Arabic": (
        "اكتب قصيدة عن البحر في الشتاء",
        "اكتب قصيدة عن البحر في الصيف",
        "اكتب قصيدة عن البحر في الشتاء!",
        "اذكر ثلاث وجبات فطور صحية",
    ),
    "German": (
        "Schreibe ein Gedicht über das Meer im Winter.",
        "Schreibe ein Gedicht über das Meer im Sommer.",
        "Schreibe ein Gedicht über das Meer im Winter!",
        "Nenne drei gesunde Frühstücke für die Übungswoche.",
    ),
    "Russian": (
        "Напиши стихотворение про море зимой.",
        "Напиши стихотворение про море летом.",
        "Напиши стихотворение про море зимой!",
        "Назови три полезных завтрака.",
    ),
}
# F1 of the first pair: tokens in common and of either, counted by hand.
PAIRS = {"Chinese": (10, 11, 11), "Hindi": (8, 9, 9), "Thai": (23, 26, 25), "Arabic": (5, 6, 6), "German": (7, 8, 8),
         "Russian": (4, 5, 5), "Tibetan": (10, 11, 11), "Khmer": (20, 23, 22)}  # fmt: skip
LANGUAGES = sorted(TEXTS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_novelty(language):
    winter, summer, again, other = TEXTS[language]
    common, one, two = PAIRS[language]
    assert rouge_l(winter, summer, "auto") == pytest.approx(2 * common / (one + two))
    assert rouge_l(winter, again, "auto") == 1.0
    assert rouge_l(winter, other, "auto") < 0.2
    verdicts = NoveltyIndex(0.7).offer_many([winter, summer, again, other])
    assert [verdict.kept for verdict in verdicts] == [True, False, False, True]
    assert {verdict.nearest for verdict in verdicts[1:3]} == {"0"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_tokenizer_of_rouge_score_sees_latin_letters_only(language):
    latin = language == "German"
    assert bool(tokenize(TEXTS[language][0], "rouge")) == latin
    kept = [verdict.kept for verdict in NoveltyIndex(0.7, "rouge").offer_many(TEXTS[language])]
    assert kept == ([True, False, False, True] if latin else [True] * 4)


@pytest.mark.parametrize("language", LANGUAGES)
def test_near_duplicates(language):
    winter, _, again, other = TEXTS[language]
    long = " ".join(TEXTS[language])
    verdicts = NearDuplicateIndex(0.8).offer_many([long, other, long.replace(winter, again), winter])
    assert [verdict.kept for verdict in verdicts] == [True, True, False, True]
    assert verdicts[2].nearest == "0"


@pytest.mark.parametrize("language", LANGUAGES)
def test_rules(language):
    for text in TEXTS[language]:
        assert WordCount().verdict(text).kept
        assert LeadingPunctuation().verdict(text).kept
        assert not LeadingPunctuation().verdict(f"、{text}").kept
        assert Pii().verdict(text).kept
    assert WordCount().verdict(" ".join(tokenize(TEXTS[language][0])[:3])).reason == "too_short"
    assert WordCount(max_words=4).verdict(TEXTS[language][0]).reason == "too_long"


@pytest.mark.parametrize("language", LANGUAGES)
def test_redacting_leaves_the_script_alone(language):
    text = TEXTS[language][0]
    assert Pii().redact(f"{text} ann@firm.io {text}")[0] == f"{text} [EMAIL] {text}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_repetition(language):
    text = TEXTS[language][0]
    assert not Repetition().verdict(f"{text}\n" * 20).kept
    assert Repetition().verdict(text).kept


@pytest.mark.parametrize("language", LANGUAGES)
def test_decontamination(language):
    winter, _, again, other = TEXTS[language]
    member = Decontaminator((winter,), ("item",))
    assert member.verdict(again).reason == "exact"
    inside = member.verdict(f"{other} {again} {other}")
    assert not inside.kept
    assert inside.nearest == "item"
    start, end = inside.detail["spans"][0]
    assert tokenize(f"{other} {again} {other}"[start:end]) == tokenize(winter)
    assert member.verdict(other).kept
