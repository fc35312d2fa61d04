"""The forms of refusals and of references to oneself, as regular expressions over one sentence.

Each form puts a speaker, an inability and a service together; ``refusals.py`` describes the idea. Nothing here is
specific to one model's wording.
"""

from __future__ import annotations

__all__ = ["REFUSALS", "SELF_REFERENCES"]

# An assistant's names for itself. A profession after "AI" (an AI coach) is a role that a task asks for.
_KIND = (
    r"(?:(?:large |ai |artificial intelligence )?language model|(?:text|generative|conversational)[- ](?:based )?(?:ai|model)"
    r"|(?:ai|artificial intelligence)(?: (?:language |text )?(?:model|assistant|chat ?bot|system|program))?"
    r"|chat ?bot|virtual assistant|machine learning model)"
)
_AI = (
    rf"(?:an?|your) (?:(?:helpful|harmless|friendly|responsible|ethical|text-based|mere|safe) (?:and )?)*{_KIND}"
    r"(?![-\w'])(?=\W*$|\s*[,;(]|\s+(?:i|i'm|i've|it|my|and|so|that is|developed|created|trained|made|built|designed"
    r"|from|by)\b)"
)

# What may precede the clause: courtesies, regrets, adverbs; then the clause may also follow a comma or a colon.
_OPENING = (
    r"(?:(?:oh|well|hello|hi|hey|no|nope|yes|thanks?|thank you|but|so|and|however|also|again|unfortunately|regrettably"
    r"|sadly|sorry|apologies|my apologies|please note that|i(?:'m| am) (?:(?:very|so|truly|really|terribly|deeply) )*"
    r"(?:sorry|afraid)|i (?:sincerely )?apologi[sz]e|i regret(?: to (?:inform|tell) you)?|for (?:safety|legal|ethical) "
    r"reasons|due to [\w ]{3,30})\b(?: for [^,.]{0,40})?(?:,? (?:that|but|because|however))?[,!: ]*)*"
)
_CLAUSE = (
    rf"(?:^{_OPENING}|,(?: (?:and|but|so|thus|therefore|hence|because|however))* |\bme: |\bclear: |\bbut (?=i\b)"
    rf"|^(?:{_OPENING}i|as) [^,:]{{3,80}}\b(?:and|so|but|that|:) (?:thus |so |therefore )?)"
)
_ADVERB = (
    r"(?: (?:really|simply|just|also|currently|personally|therefore|thus|ethically|directly|in good (?:conscience|faith)))?"
)
_CANNOT = r"(?:can(?:not| ?not|'t)|won't|will not|shouldn't)"
_UNABLE = (
    r"(?:un(?:able)|not (?:\w+ )?(?:able|allowed|permitted|authori[sz]ed|programmed|designed|equipped|trained|going"
    r"|supposed)) to"
)
_INABILITY = (
    rf"(?:{_CANNOT}(?:,? (?:and|or) (?:can't|cannot|won't|will not))?(?: be able to)?|(?:am|are|'m|'re|was|wasn't) "
    rf"?{_UNABLE}|(?:do not|don't)(?: think i should)?|would (?:rather|prefer) not(?: to)?|'d (?:rather|prefer) not(?: to)?"
    r"|wasn't (?:designed|programmed|trained|built) to|refuse to|decline to)"
)
_I = rf"(?:i|we) ?{_INABILITY},?{_ADVERB},?"

# Services that only a request asks for.
_SERVICE = (
    r"(?:(?:assist|comply|fulfil|fulfill|accommodate|facilitate|condone|bypass|engage in|engage with|promote|pretend to"
    r" be|roleplay|participate in (?:this|that|any|such)|help (?:facilitate|create|plan|spread|cheat))\b"
    r"(?! (?:in the kitchen|without|more than))"
    r"|help(?: you| out)?(?: with| on| in)? (?:this|that|these|those|it|such|any|requests?|creating|making|picking"
    r"|writing|finding|planning|homework|methods|hurt\w*|take revenge|you (?:with|to|hurt|harm|take|plan|cheat|write"
    r"|make|do))\b(?! house)|help(?: you)?(?: with)?\W*$|help you (?:with|harm|hurt|take|plan|cheat|deceive|steal)\b"
    r"|help with\b"
    r"|(?:do|answer|write|discuss|generate|create|produce|share|provide|respond to|complete|process|support|continue|say"
    r"|talk about|cover|reproduce|verify|tell you|show you|give you|allow|handle|provide you with|perform|reply to|address"
    r"|help you with|help with) (?:this|that|these|those|it|your|the requested|such|any)\b"
    r"(?: (?:(?:specific|kind|type|sort|of|particular) ?)*(?:request|question|prompt|query|task|topic|subject|information"
    r"|instructions?|content|text|material|message|conversation|claim|letter|recipe|joke|one|thing|for you|as|because"
    r"|since|due|with|when|in|here|to)\b|\W*$|,)"
    r"|(?:tell|teach|show) you (?:how to|ways)\b|write about real\b)"
)
# Services with these objects; the same verbs with others are content ("provide for my family").
_VERB = (
    r"(?:provide|generate|create|write|produce|give|share|offer|discuss|answer|respond to|support|recommend|open|access|browse|see|view|display"
    r"|show you|show|give you|provide you with|predict|forget|draw|play|make|help|search|process|complete|continue"
    r"|engage in|reproduce|express|handle|send|help you with)"
)
_OBJECT = (
    r"(?:requests?|prompts?|instructions|guidance|information|content|medical (?:advice|diagnos[ei]s)|(?:legal|financial"
    r"|harmful|medical) advice|advice|diagnos[ei]s|personal opinions?|opinions on|images?|graphs?|pictures?|links?|urls?"
    r"|the (?:internet|web)|websites?|real-time|current (?:price|news|events)|today's|lyrics|violence|malware|explosives?"
    r"|weapons?|drugs|bombs?|hate speech|discriminat\w+|illegal|harmful|unethical|explicit|self-harm|harm\b|ways to"
    r"|methods|private|personal (?:data|information)|copyrighted|fake|damages?|phone calls?|phishing|maps?|audio|videos?"
    r"|music|(?:this|that|the) (?:conversation|question)|your files|outcome of|future|sexuali\w+|minors"
    r"|kind of (?:joke|content|text|material|thing)|such a (?:text|story|request)|working instructions|assistance"
    r"|a response|the help|detailed plan)"
)
_WORK = r"(?:text|passage|article|paragraph|sentence|code|document|essay|context|data|file|input|image|list|email|poem|story|table)"

REFUSALS = (
    # I can't assist, I am not able to do that, I won't provide instructions.
    rf"{_CLAUSE}{_I} {_SERVICE}",
    rf"{_CLAUSE}{_I} {_VERB}(?! (?:my|our|his|her|their)\b)[^.!?]{{0,50}}\b{_OBJECT}",
    # I don't feel comfortable writing that, I'm not in a position to advise.
    rf"{_CLAUSE}i ?(?:(?:do not|don't) feel|am not|'m not) comfortable (?:with (?:this|that)|writing|providing|helping"
    rf"|creating|generating|discussing|answering|sharing|assisting)",
    rf"{_CLAUSE}i(?:'m| am) (?:not in a position|incapable of forming|not capable of (?:providing|creating|forming))",
    rf"{_CLAUSE}i(?:'m| am) declining\b",
    # I must decline; but not an invitation, an offer, a crown.
    rf"{_CLAUSE}i(?:'ll| will|'m going to)? ?(?:must|have to|need to|would have to)(?: (?:respectfully|politely))? (?:decline|refuse"
    r"|pass)(?=\W*$|[,.;:]| on this| to (?:write|answer|provide|help|assist|create|do|generate|discuss|respond|engage)"
    r"| (?:this|that|your|the) (?:request|task|question|prompt)| (?:this|that)\W*$| because| as )",
    # Without a speaker: can't help with that; that's not something I can help with; impossible for me.
    r"^(?:(?:nope|no|sorry),? )*(?:can(?:'t|not)|unable to) (?:assist|help|comply|fulfill?)(?: with)? (?:this|that|the|your)",
    r"^(?:sorry, )?(?:that|this)(?:'s| is)(?:n't| not| beyond)(?: something)?(?: that)? (?:what )?i(?:'m| am)? ?(?:can|able|willing)",
    r"\b(?:not (?:possible|appropriate|ethical)|impossible|inappropriate|unethical|isn't (?:possible|ethical|appropriate)"
    r"|wouldn't be (?:ethical|appropriate)) for me(?: to|\W|$)",
    r"\b(?:beyond|outside) (?:of )?(?:my|what i) (?:capabilit|abilit|programming|scope|can do)",
    # Rules of the speaker.
    r"\bagainst (?:my|our|openai's|the content|the usage|the use case) (?:\w+ )?(?:polic|guidelines|programming|principles|values|use case)",
    r"\b(?:violates?|breach\w*) (?:our|my|the|openai's) (?:\w+ )*(?:polic|guidelines|terms)",
    rf"{_CLAUSE}my (?:\w+ )?(?:guidelines|programming|policies|policy|training|design)(?: \w+)? (?:prevents?|prohibits?|forbids?"
    r"|do(?:es)? not (?:allow|permit)|doesn't (?:allow|permit)|don't (?:allow|permit)|keeps?) (?:me|that)",
    # Missing abilities.
    rf"{_CLAUSE}i (?:do not|don't|lack)(?: have)? ?(?:the (?:ability|capability|capacity|means|tools?) to (?:open|access|browse|view|see"
    r"|watch|play|hear|generate|create|retrieve|search|send|draw)|access to (?:real-time|the internet|current|live|external|up-to-date"
    r"|your|any|that|personal|such))",
    rf"{_CLAUSE}(?:i )?(?:have|having) no (?:access to (?:real-time|the internet|such|current)|way (?:to|of) (?:access|view|see))",
    # A missing input.
    rf"\byou (?:have not|haven't|did not|didn't|forgot to) (?:provided?|includ\w+|attach\w*|shared?|pasted?|given?)"
    rf"(?: me)?(?: with)?(?: any| an| the| a)? ?(?:\w+ )?{_WORK}\b",
    rf"^(?:i'm sorry,? (?:but )?)?(?:there (?:is|was) no|no) (?:\w+ )?{_WORK} (?:(?:is|was|has been) )?(?:given|provided|included|attached)\b",
    rf"^(?:(?:could|can|would) you )?(?:please )?(?:provide|share|paste|give|send)(?: me)?(?: with)? (?:the|some|your|more|any|a|an) (?:\w+ )?"
    rf"{_WORK}\b(?: (?:that )?you(?:'d| would)? (?:like|want)(?: me)?\b| so (?:that )?i can\b| (?:for me )?to (?:translate|summari|analy|correct|edit|review))",
    r"^i (?:need|require) (?:more|additional|further) (?:information|context|details) to (?:complete|answer|fulfil|do|help|assist)",
    r"^i (?:don't|do not|can't|cannot) see (?:any |an |the )?(?:attach\w+|file|image|document|text)",
    # Other languages: a modal verb, a negation and a service in one sentence.
    r"^(?=.*\bich\b)(?=.*\b(?:kann|darf|werde|in der lage)\b)(?=.*\b(?:nicht|keine?\w?)\b).*\b(?:helfen|behilflich|unterst\u00fctzen"
    r"|beantworten|erf\u00fcllen|nachkommen|bereitstellen|erstellen|generieren|bearbeiten|durchf\u00fchren|anleitung\w*|zugreifen)\b",
    r"\bje ne (?:peux|suis|pourrai|saurais) (?:malheureusement )?pas (?:en mesure |autoris\u00e9e? |capable |vous |t'|\u00e0 |de )*"
    r"(?:aider|r\u00e9pondre|fournir|g\u00e9n\u00e9rer|cr\u00e9er|satisfaire|acc\u00e9der|traiter|assister|produire|donner (?:suite|d'instr|de conseil)|\u00e9crire (?:de|ce))",
    r"\bno (?:puedo|podr\u00e9|me es posible|soy capaz de|estoy autorizad[oa] (?:para|a)) ?(?:ayudar|asist|cumplir|proporcion|respond|gener|crear|ofrec|brind"
    r"|acceder|proces|compart|escribir (?:ese|este))",
    r"\bnon (?:posso|sono in grado di|mi \u00e8 possibile) (?:aiutar|assist|forni|rispond|gener|crear|soddisf|esaud|scrivere (?:quest|ques))",
    r"\bn\u00e3o (?:posso|consigo|me \u00e9 poss\u00edvel|sou capaz de|estou autorizad[oa] a) (?:te |lhe |o |a )?(?:ajud|atend|forne|respond|ger|criar|cumpr|auxili|oferec)",
    r"^(?=.*\bik\b)(?=.*\b(?:kan|mag|in staat)\b)(?=.*\b(?:niet|geen)\b).*\b(?:helpen|uitvoeren|beantwoorden|verstrekken|genereren|voldoen)\b",
    r"\bnie (?:mog\u0119|jestem w stanie) (?:w tym |ci |panu |pani |na to )*(?:pom\u00f3c|odpowiedzie\u0107|spe\u0142ni\u0107|udzieli\u0107|wygenerowa\u0107|dostarczy\u0107|stworzy\u0107)",
    r"\bjag kan (?:tyv\u00e4rr )?inte (?:hj\u00e4lpa|svara p\u00e5|uppfylla|tillhandah\u00e5lla|generera|ge dig instr)",
    r"\bjeg kan (?:dessv\u00e6rre |desverre )?ikke (?:hj\u00e6lpe|hjelpe|svare p\u00e5|besvare|opfylde|oppfylle|levere|generere)",
    r"\ben (?:valitettavasti )?voi (?:auttaa|vastata|tarjota|toteuttaa|luoda)",
    r"\bnu pot s\u0103 (?:te |v\u0103 |r\u0103spund|ofer|furniz|\u00eendeplin|gener|ajut)",
    r"\b(?:nemohu|nem\u016f\u017eu) (?:v\u00e1m |ti )?(?:s t\u00edm )?(?:pomoci|odpov\u011bd\u011bt|splnit|poskytnout|vytvo\u0159it)",
    r"\btidak (?:dapat|bisa) (?:membantu|memberikan|menjawab|memenuhi|membuat konten)",
    r"kh\u00f4ng th\u1ec3 (?:gi\u00fap|h\u1ed7 tr\u1ee3|cung c\u1ea5p|tr\u1ea3 l\u1eddi|\u0111\u00e1p \u1ee9ng|th\u1ef1c hi\u1ec7n y\u00eau)",
    r"\bне (?:могу|смогу|в состоянии) (?:вам |тебе |с этим |на это )*(?:помочь|ответить|выполнить|предоставить|создать|обсуждать)",
    r"\bне мож[уе]\w* (?:вам |з цим )*(?:допомогти|відповісти|виконати|надати)",
    r"yard\u0131mc\u0131 olamam|yard\u0131m edemem|yerine getiremem|cevaplayamam|yan\u0131tlayamam|sa\u011flayamam",
    r"(?:无法|無法|不能|不可以|不便|不会|不會|没办法|沒辦法)(?:直接|为|為|给|給|向|帮|幫|[你您]|在这|在此)*(?:回答|协助|協助|提供|满足|滿足|帮助|幫助|完成[这您你该]|"
    r"处理|處理|生成|创作|創作|撰写|撰寫|讨论这|回应|回應|参与[这此]|支持[这此])",
    r"(?:お?応え|お?答え|お手伝い|手助け|提供|対応|回答|お助け|支援|生成|作成|協力|お受け)(?:する)?(?:こと)?(?:は|が)?(?:でき(?:ません|ない|かねます|兼ねます)|[い致]たしかねます|致しかねます)",
    r"(?:도와드릴|도와줄|도울|도움을 드릴|제공할|제공해 드릴|답변할|답변드릴|답변해 드릴|대답할|응답할|수행할|생성할|작성할|들어드릴|처리할) 수(?:가|는)? 없",
    r"(?:لا أستطيع|لا يمكنني|لن أتمكن من|لا أقدر على) (?:مساعد|تقديم|الإجابة|الاجابة|تلبية|توفير|إنشاء)",
    r"(?:सहायता|मदद|प्रदान|उत्तर|जवाब|जानकारी)[^।]{0,12}नहीं (?:कर|दे) (?:सकत|पाऊ)",
    r"ไม่สามารถ(?:ช่วย|ให้ข้อมูล|ตอบ|ดำเนินการ|สร้าง)",
)
SELF_REFERENCES = (
    rf"^(?:{_OPENING})(?:as|speaking as|being|since i(?:'m| am)|because i(?:'m| am)|(?:al)?though i(?:'m| am)|while i(?:'m| am)) (?:just |only |merely )?{_AI}",
    rf"(?:^{_OPENING}|, (?:but |and |so )?)(?:as|since i am|because i am) (?:just |only )?{_AI}",
    rf"^(?:{_OPENING})(?:i am|i'm) (?:just |only |merely |simply )?{_AI}",
    rf"^as an? (?:responsible|ethical|helpful) assistant, i\b",
    r"\bmy (?:training data|knowledge) (?:only )?(?:goes|cuts? off|cutoff|extends|ends)\b",
    r"\bmy (?:knowledge|training) cut-?off\b",
    r"^as of my (?:last |latest |most recent )?(?:knowledge|training) (?:update|cut-?off)",
    r"^(?:i|, i) (?:don't|do not) have (?:any )?(?:personal (?:experiences?|opinions|feelings|beliefs|preferences|emotions)(?! (?:with|in|of|for)\b)"
    r"|(?:feelings|emotions|opinions|beliefs|consciousness) or)\b",
    r"^als (?:ein )?(?:ki|k\u00fcnstliche intelligenz)(?:[- ](?:sprachmodell|modell|assistent\w*|system))?(?![-\w])",
    r"^als (?:gro\u00dfes )?sprachmodell\b",
    r"^en tant (?:que |qu')(?:un |une )?(?:mod\u00e8le (?:de langage|linguistique)|ia\b|intelligence artificielle|assistant (?:ia|virtuel))",
    r"^(?:como|al ser) (?:un |una |um |uma )?(?:modelo de (?:lenguaje|linguagem)|inteligencia artificial|intelig\u00eancia artificial|ia\b|asistente (?:de ia|virtual))",
    r"^(?:come|in quanto) (?:un )?(?:modello (?:linguistico|di linguaggio)|intelligenza artificiale|ia\b)",
    r"^als (?:een )?(?:taalmodel|ai(?:-taalmodel|-assistent)?)(?![-\w])",
    r"^jako (?:model j\u0119zykowy|sztuczna inteligencja)",
    r"^(?:как|як) (?:большая )?(?:языковая модель|мовна модель|ии\b|искусственный интеллект)",
    r"^(?:bir )?(?:yapay zeka|dil) modeli olarak",
    r"^作[为為](?:一[个個名款种種])?(?:大型)?(?:AI|人工智[能慧])?(?:语言模型|語言模型|助手|模型|(?:(?<=AI)|(?<=智能)|(?<=智慧))(?=[，,]|我))",
    r"(?:AI|人工知能)?(?:大規模)?言語モデル(?:として|なので|ですので|であり|です)|^(?:私は)?AI(?:アシスタント)?(?:として|なので|ですので)",
    r"(?:AI|인공지능) ?(?:언어 ?모델|모델|어시스턴트)?(?:로서|으로서|이기 때문|이므로)",
)
