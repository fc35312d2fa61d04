# ruff: noqa: RUF001  (letters of other scripts are what is matched)
"""The forms of refusals and of references to oneself in languages other than English."""

from __future__ import annotations

__all__ = ["OTHER_REFUSALS", "OTHER_SELF_REFERENCES"]

OTHER_REFUSALS = (
    # A modal verb, a negation and a service in one sentence.
    r"^(?=.*\bich\b)(?=.*\b(?:kann|darf|werde|in der lage)\b)(?=.*\b(?:nicht|keine?\w?)\b).*\b(?:helfen|behilflich"
    r"|unterst\u00fctzen"
    r"|beantworten|erf\u00fcllen|nachkommen|bereitstellen|bilder (?:zu )?erstellen|generieren|bearbeiten"
    r"|durchf\u00fchren|anleitung\w*|zugreifen|weiterhelfen|ratschl\u00e4ge)\b",
    r"\bje ne (?:peux|suis|pourrai|saurais) (?:malheureusement )?pas (?:en mesure |autoris\u00e9e? |capable |vous "
    r"|t'|\u00e0 |de )*"
    r"(?:aider|r\u00e9pondre|fournir|g\u00e9n\u00e9rer|cr\u00e9er|satisfaire|acc\u00e9der|traiter|assister|produire"
    r"|donner (?:suite|d'instr|de conseil)|\u00e9crire (?:de|ce)|continuer c)",
    r"\bno (?:puedo|podr\u00e9|me es posible|soy capaz de|estoy autorizad[oa] (?:para|a)) ?(?:ayudar|asist|cumplir"
    r"|proporcion|respond|gener|crear|ofrec|brind"
    r"|acceder|proces|compart|escribir (?:ese|este))",
    r"\bnon (?:posso|sono in grado di|mi \u00e8 possibile) (?:aiutar|assist|forni|rispond|gener|crear|soddisf|esaud"
    r"|scrivere (?:quest|ques))",
    r"\bn\u00e3o (?:posso|consigo|me \u00e9 poss\u00edvel|sou capaz de|estou autorizad[oa] a) (?:te |lhe |o |a"
    r" )?(?:ajud|atend|forne|respond|ger|criar|cumpr|auxili|oferec)",
    r"^(?=.*\bik\b)(?=.*\b(?:kan|mag|in staat)\b)(?=.*\b(?:niet|geen)\b).*\b(?:helpen|uitvoeren|beantwoorden"
    r"|verstrekken|genereren|voldoen)\b",
    r"\bnie (?:mog\u0119|jestem w stanie) (?:w tym |ci |panu |pani |na to )*(?:pom\u00f3c|odpowiedzie\u0107"
    r"|spe\u0142ni\u0107|udzieli\u0107|wygenerowa\u0107|dostarczy\u0107|stworzy\u0107)",
    r"\bjag kan (?:tyv\u00e4rr )?inte (?:hj\u00e4lpa|svara p\u00e5|uppfylla|tillhandah\u00e5lla|generera|ge dig instr)",
    r"\bjeg kan (?:dessv\u00e6rre |desverre )?ikke (?:hj\u00e6lpe|hjelpe|svare p\u00e5|besvare|opfylde|oppfylle"
    r"|levere|generere)",
    r"\ben (?:valitettavasti )?voi (?:auttaa|vastata|tarjota|toteuttaa|luoda)",
    r"\bnu pot s\u0103 (?:te |v\u0103 |r\u0103spund|ofer|furniz|\u00eendeplin|gener|ajut)",
    r"\b(?:nemohu|nem\u016f\u017eu) (?:v\u00e1m |ti )?(?:s t\u00edm )?(?:pomoci|odpov\u011bd\u011bt|splnit"
    r"|poskytnout|vytvo\u0159it)",
    r"\btidak (?:dapat|bisa) (?:membantu|memberikan|menjawab|memenuhi|membuat konten)",
    r"kh\u00f4ng th\u1ec3 (?:gi\u00fap|h\u1ed7 tr\u1ee3|cung c\u1ea5p|tr\u1ea3 l\u1eddi|\u0111\u00e1p \u1ee9ng"
    r"|th\u1ef1c hi\u1ec7n y\u00eau)",
    r"\bне (?:могу|смогу|в состоянии) (?:вам |тебе |с этим |на это )*(?:помочь|ответить|выполнить|предоставить"
    r"|создать|обсуждать)",
    r"\bне мож[уе]\w* (?:вам |з цим )*(?:допомогти|відповісти|виконати|надати)",
    r"yard\u0131mc\u0131 olamam|yard\u0131m edemem|yerine getiremem|cevaplayamam|yan\u0131tlayamam|sa\u011flayamam",
    r"(?:无法|無法|不能|不可以|不便|不会|不會|没办法|沒辦法)(?:直接|为|為|给|給|向|帮|幫|[你您]|在这|在此)*(?:回答|协助|協助|提供|满足|滿足|帮助|幫助|完成[这您你该]|"
    r"处理|處理|生成|创作|創作|撰写|撰寫|讨论这|回应|回應|参与[这此]|支持[这此])",
    r"(?:お?応え|お?答え|お手伝い|手助け|提供|対応|回答|お助け|支援|生成|作成|協力|お受け)(?:する)?(?:こと)?"
    r"(?:は|が)?(?:でき(?:ません|ない|かねます|兼ねます)|[い致]たしかねます|致しかねます)",
    r"(?:도와드릴|도와줄|도울|도움을 드릴|제공할|제공해 드릴|답변할|답변드릴|답변해 드릴|대답할"
    r"|응답할|수행할|생성할|작성할|들어드릴|처리할) 수(?:가|는)? 없",
    r"(?:لا أستطيع|لا يمكنني|لن أتمكن من|لا أقدر على) (?:مساعد|تقديم|الإجابة|الاجابة|تلبية|توفير|إنشاء)",
    r"(?:सहायता|मदद|प्रदान|उत्तर|जवाब|जानकारी)[^।]{0,12}नहीं (?:कर|दे) (?:सकत|पाऊ)",
    r"ไม่สามารถ(?:ช่วย|ให้ข้อมูล|ตอบ|ดำเนินการ|สร้าง)",
)
OTHER_SELF_REFERENCES = (
    r"^als (?:ein )?(?:ki|k\u00fcnstliche intelligenz)(?:[- ](?:sprachmodell|modell|assistent\w*|system))?(?![-\w])",
    r"^als (?:gro\u00dfes )?sprachmodell\b",
    r"^(?:en tant (?:que |qu')|je suis )(?:un |une )?(?:mod\u00e8le (?:de langage|linguistique)|ia\b|intelligence"
    r" artificielle|assistant (?:ia|virtuel))",
    r"^(?:como|al ser|soy|sou) (?:un |una |um |uma )?(?:modelo de (?:lenguaje|linguagem)|inteligencia artificial"
    r"|intelig\u00eancia artificial|ia\b|asistente (?:de ia|virtual))",
    r"^(?:come|in quanto) (?:un )?(?:modello (?:linguistico|di linguaggio)|intelligenza artificiale|ia\b)",
    r"^als (?:een )?(?:taalmodel|ai(?:-taalmodel|-assistent)?)(?![-\w])",
    r"^jako (?:model j\u0119zykowy|sztuczna inteligencja)",
    r"^(?:как|як) (?:большая )?(?:языковая модель|мовна модель|ии\b|искусственный интеллект)",
    r"^(?:bir )?(?:yapay zeka|dil) modeli olarak",
    r"^作[为為](?:一[个個名款种種])?(?:大型)?(?:AI|人工智[能慧])?(?:语言模型|語言模型|助手|模型|(?:(?<=AI)|(?<=智能)|(?<=智慧))(?=[，,]|我))",
    r"(?:AI|人工知能)?(?:大規模)?言語モデル(?:として|なので|ですので|であり|です)|^(?:私は)?AI(?:アシスタント)?(?:として|なので|ですので)",
    r"(?:AI|인공지능) ?(?:언어 ?모델|모델|어시스턴트)?(?:로서|으로서|이기 때문|이므로)",
)
