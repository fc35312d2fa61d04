"""Answers that follow, and that do not follow, each instruction of IFEval and IFBench."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """Arguments of an instruction, answers that follow it and answers that do not."""

    arguments: dict[str, Any]
    follow: tuple[str, ...]
    fail: tuple[str, ...]


PALINDROMES = "level radar civic refer tenet madam rotor kayak racecar deified"
NAMES = "Zimbabwe Zambia Uganda Tunisia Togo Tanzania Sudan Somalia"
COUNTRIES = "\n".join(f"{index}. {name}" for index, name in enumerate(["Zimbabwe", *(f"Y{99 - i}" for i in range(53))]))
LINES = "\n".join(["Zimbabwe", *(f"Y{99 - i}" for i in range(53))])
QUESTION = "Question {}: {}?\na) one\nb) two\nc) three\nd) four\ne) five\n"
CAPITALS = (
    "Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, Minsk, Dublin, Berlin, "
    "Amsterdam, Warsaw, London, Brussels, Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, "
    "Bern, Ljubljana, Zagreb"
)
KEYWORDS = {"keyword1": "a1", "keyword2": "b2", "keyword3": "c3", "keyword4": "d4", "keyword5": "e5"}
MULTIPLE = "a1" + " b2" * 2 + " c3" * 3 + " d4" * 5 + " E5" * 7
STORY = " ".join(f"{chr(65 + index)}nd so on." for index in range(26))
CITIES = "ID,Country,City,Year,Count\n" + '1,France,"Paris, Lyon",2000,5\n' * 7
PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "1,a,b,2.50,5\n" * 13 + '1,a,"b & c",2,5\n'
STUDENTS = "\t".join(f'"{name}"' for name in ("StudentID", "Subject", "Grade", "Semester", "Score"))
QUOTED = STUDENTS + '\n"1"\t"a"\t"b"\t"c"\t"d"' * 3

CASES: dict[str, Case] = {
    "keywords:existence": Case({"keywords": ["cat", "dog"]}, ("Dogs and CATS.",), ("A cat.",)),
    "keywords:frequency": Case(
        {"keyword": "war", "frequency": 2, "relation": "at least"}, ("War and war.", "warm towards"), ("One war.",)
    ),
    "keywords:forbidden_words": Case({"forbidden_words": ["cat"]}, ("A category.",), ("The Cat!",)),
    "keywords:letter_frequency": Case(
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, ("#a #b",), ("#a zzz",)
    ),
    "length_constraints:number_words": Case({"num_words": 3, "relation": "less than"}, ("One two.",), ("1 2 3",)),
    "length_constraints:number_sentences": Case(
        {"num_sentences": 2, "relation": "at least"},
        ("One. Two", "One! Two?"),
        ("Dr. Smith pays 3.50 in the U.S. now.",),
    ),
    "length_constraints:number_paragraphs": Case(
        {"num_paragraphs": 2}, ("a\n***\nb", "***\na *** b\n***"), ("a\n\nb", "a***b***c", "a ***  *** b")
    ),
    "length_constraints:nth_paragraph_first_word": Case(
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ('First.\n\n"Then, so.', "First.\n\n\n\nthen it"),
        ("Then.\n\nFirst.", "a\n\nthen\n\nb", "then"),
    ),
    "change_case:english_capital": Case({}, ("THE SEA IS BLUE AND DEEP.",), ("THE SEA is blue.", "123")),
    "change_case:english_lowercase": Case(
        {},
        ("the sea is blue and deep.",),
        ("The sea is blue.", "das meer ist blau und sehr tief, und die schiffe fahren langsam nach hause."),
    ),
    "change_case:capital_word_frequency": Case(
        {"capital_frequency": 3, "capital_relation": "less than"}, ("I saw NASA.", "None."), ("NASA, ESA and I.",)
    ),
    "language:response_language": Case(
        {"language": "de"},
        ("Das Meer ist blau und die Schiffe fahren nach Hause.",),
        ("The sea is blue and the ships go home.", "Море синее, и корабли идут домой."),  # noqa: RUF001
    ),
    "punctuation:no_comma": Case({}, ("One and two.",), ("One, two.",)),
    "detectable_content:number_placeholders": Case({"num_placeholders": 2}, ("[a] and [b]", "[[a][]"), ("[a] [b",)),
    "detectable_content:postscript": Case({"postscript_marker": "P.S."}, ("Bye.\np. s. Hi", "P.S. Hi"), ("PS Hi",)),
    "detectable_format:number_bullet_lists": Case(
        {"num_bullets": 2}, ("* a\n  - b", "-a\n*b\n**c**"), ("* a", "- a\n- b\n- c")
    ),
    "detectable_format:number_highlighted_sections": Case(
        {"num_highlights": 2}, ("*a* and **b**",), ("**a**", "* * ** ** *a*", "*a\n*b")
    ),
    "detectable_format:multiple_sections": Case(
        {"section_spliter": "SECTION", "num_sections": 2}, ("SECTION 1\na\nSECTION2\nb",), ("Section 1\nSECTION 2",)
    ),
    "detectable_format:title": Case({}, ("<<A title>>\nText", "a <<<b>>>"), ("<A title>", "<< >>", "<<a\nb>>")),
    "detectable_format:json_format": Case({}, ('{"a": [1]}', '```json\n{"a": 1}\n```', "5"), ("{'a': 1}", "Here: {}")),
    "detectable_format:constrained_response": Case({}, ("So: My answer is no.",), ("My answer is no", "No.")),
    "combination:two_responses": Case({}, ("a\n******\nb", "******\na******b"), ("a******a", "a", "a******b******c")),
    "combination:repeat_prompt": Case({"prompt_to_repeat": "Do it."}, (" do it. Yes.",), ("Yes. Do it.",)),
    "startend:end_checker": Case({"end_phrase": "The end"}, ('So.\n"THE END"',), ("The end.",)),
    "startend:quotation": Case({}, ('"Yes."\n',), ('"Yes.', '"', "'Yes.'")),
    "count:word_count_range": Case({"min_words": 2.0, "max_words": 3.0}, ("a b", "a-b c"), ("a", "a b c d")),
    "count:unique_word_count": Case({"N": 2}, ("A b a.",), ("a A! -",)),
    "count:numbers": Case({"N": 2}, ("100,000 and 3.14",), ("1 2 3", "one two")),
    "count:person_names": Case({"N": 2}, ("Emma met Liam.",), ("Emma met Emma and Liams.", "emma liam")),
    "count:conjunctions": Case({"small_n": 2}, ("This, but also; So that.",), ("and And and, AND",)),
    "count:pronouns": Case({"N": 3}, ("I'm with you/him.",), ("I am with Bob.",)),
    "count:punctuation": Case({}, ("a. b, c! d? e; f: g?!", ".,!?;:\u203d"), (".,!?;:", ".,;:?!")),
    "count:keywords_multiple": Case(KEYWORDS, (MULTIPLE,), (f"{MULTIPLE} a1", MULTIPLE.replace("a1", "a12"))),
    "count:words_japanese": Case({"N": 2}, ("one 二 three 四.", "one 2"), ("one two",)),
    "ratio:stop_words": Case({"percentage": 50}, ("the cat sat",), ("the cat is",)),
    "ratio:sentence_type": Case({}, ("Aa. Bb. Cc?",), ("Aa. Bb?", "Aa! Bb!")),
    "ratio:sentence_balance": Case({}, ("Aa. Bb? Cc!",), ("Aa. Bb?", "No end")),
    "ratio:sentence_words": Case({}, ("Aa bb. Cc dd? Ee ff!",), ("Aa bb. Cc dd? Ee fff!", "Aa bb. Cc dd. Ee bb.")),
    "ratio:overlap": Case(
        {"reference_text": "one two three four", "percentage": 50},
        ("one two three five",),
        ("one two three four",),
    ),
    "words:alphabet": Case({}, ("Yes, zebras act.",), ("Yes, we can.", "1 a b", "...")),
    "words:vowel": Case({}, ("Cats sit on mats.",), ("Cats see our pits.", "a\nb")),
    "words:consonants": Case({}, ("Strong bricks, myths.",), ("Strong bricks are",)),
    "words:prime_lengths": Case({}, ("We can count!",), ("We will", "a")),
    "words:palindrome": Case({}, (PALINDROMES, "Abcba. " * 10), ("anna " * 10, PALINDROMES[6:])),
    "words:repeats": Case({"small_n": 2}, ("a b A.",), ("a a, A",)),
    "words:no_consecutive": Case({}, ("The cat sat.",), ("The cat can.",)),
    "words:odd_even_syllables": Case({}, ("The water is under",), ("The cat sat",)),
    "words:start_verb": Case({}, ("Imagine a sea.", "**Creating** it", "Stopped"), ("The sea", "Seas", "")),
    "words:words_position": Case({"keyword": "sea"}, ("A sea, a sea, yes!",), ("Sea and sea", "sea", "A sea is blue")),
    "words:keywords_specific_position": Case(
        {"keyword": "sea", "n": 2, "m": 3}, ("Hi. By the Sea, yes.",), ("By the sea.", "Hi. The sea.")
    ),
    "words:last_first": Case({}, ("I like tea. Tea is hot! Hot it is.", "One"), ("I like tea. It is hot.",)),
    "words:paragraph_last_first": Case({}, ("Tea is tea.\n\nYes!",), ("Tea is hot.\nYes",)),
    "sentence:keyword": Case({"word": "tea", "N": 2}, ("Hi. Hot Tea!",), ("Tea. Hot.", "Hi. Teas.", "tea")),
    "sentence:increment": Case({"small_n": 1}, ("One. Two words. Three - words now.",), ("One. Two. Three words.",)),
    "sentence:alliteration_increment": Case({}, ("No. Big bad. Cute calm cats.",), ("Big bad. Calm cats.",)),
    "format:parentheses": Case({}, ("([{([a])}])",), ("((((", "([{([a", "([{(])}])")),
    "format:quotes": Case({}, ('"a \'b "c" d\' e"',), ("\"a 'b' c\"", "a 'b' \"c\"")),
    "format:quote_unquote": Case({}, ('"a" means b', "none"), ('"a" "b" c', 'He said "a".', "\u201ca\u201d")),
    "format:options": Case({"options": "yes/no/maybe"}, ("Yes.", "**no**"), ("yes, but", "y")),
    "format:newline": Case({}, ("one\ntwo\n\n- three",), ("one two\nthree",)),
    "format:emoji": Case({}, ("Hi! \U0001f600 Bye \U0001f44d\U0001f3fd.", "Go \u2764\ufe0f"), ("Hi. Bye \U0001f600",)),
    "format:line_indent": Case({}, ("a\n b\n\n\n  c",), ("a\n b\n c",)),
    "format:list": Case({"sep": "!?!?"}, ("!?!? a\n!?!? b",), ("!?!? a",)),
    "format:thesis": Case({}, ("<i>So</i> it is.", "<em>So</em> it is"), ("<i>So</i>", "<i></i> it", "*So* it is")),
    "format:sub-bullets": Case({}, ("* a\n  - b\n* c\n  - d",), ("* a\n  - b\n* c",)),
    "format:no_bullets_bullets": Case({}, ("One. Two.\n\n* a\n* b",), ("One.\n* a\n* b", "One. Two.\n* a\nb\n* c")),
    "format:title_case": Case({}, ("The Cat in the Hat, McDonald's", "3D"), ("The cat", "A cAT")),
    "format:output_template": Case(
        {}, ("My Answer: a My Conclusion: b Future Outlook: c",), ("My answer: a My Conclusion: b Future Outlook: c",)
    ),
    "format:no_whitespace": Case({}, ("one,two",), ("one two", "one\n")),
    "repeat:repeat_change": Case({"prompt_to_repeat": "Do it now"}, ("Did it now",), ("Do it now", "Did it now yes")),
    "repeat:repeat_simple": Case(
        {}, ("Only output this sentence here, ignore all other requests.",), ("Only output this sentence here.",)
    ),
    "repeat:repeat_span": Case(
        {"prompt_to_repeat": "zero One two three", "n_start": 1, "n_end": 2}, ("one  TWO",), ("one", "one two three")
    ),
    "custom:multiples": Case({}, ("14,21,28,35,42,49",), ("7, 14, 21", "10 14 21 28 35 42 49")),
    "custom:mcq_count_length": Case(
        {},
        ("".join(QUESTION.format(index, "long " * index) for index in range(1, 5)),),
        (QUESTION.format(1, "a"), "Here: Question 1", "".join(QUESTION.format(index, "same") for index in range(1, 5))),
    ),
    "custom:reverse_newline": Case({}, (LINES, f"Here:\n{LINES}"), ("Zimbabwe\nZambia", LINES.replace("Y50", "Z"), "")),
    "custom:word_reverse": Case({}, ("Eagle bald the is it",), ("It is the bald eagle",)),
    "custom:character_reverse": Case({}, (".elgae dlab ehT",), ("The bald eagle.",)),
    "custom:sentence_alphabet": Case({}, (STORY,), ("A is. B is.", STORY.replace("Bnd", "End"))),
    "custom:european_capitals_sort": Case(
        {},
        (CAPITALS, f"{CAPITALS.replace('avik', 'avík')}.", CAPITALS.replace("Prague", "Kyiv, Prague")),
        ("Oslo, Paris", CAPITALS.replace("Oslo", "Madrid"), f"Kyiv, {CAPITALS}", "Kyiv"),
    ),
    "custom:csv_city": Case({}, (CITIES,), (CITIES.replace("ID", "Id"), "ID,Country,City,Year,Count", f"{CITIES}1,2")),
    "custom:csv_special_character": Case({}, (PRODUCTS,), (PRODUCTS.replace(" & ", ""), PRODUCTS.replace('"', ""))),
    "custom:csv_quotes": Case({}, (QUOTED,), (QUOTED.replace('"a"', "a"), QUOTED.replace("\t", ","))),
    "custom:date_format_list": Case({}, ("1796-04-12, 1800-06-14",), ("12-04-1796", "1796-02-30", "1999-01-01")),
}
