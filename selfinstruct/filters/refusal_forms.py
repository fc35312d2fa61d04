"""The forms of refusals and of references to oneself, as regular expressions over one sentence.

Each form puts a speaker, an inability and a service together; ``refusals.py`` describes the idea. Nothing here is
specific to one model's wording.
"""

from __future__ import annotations

from selfinstruct.filters.refusal_languages import OTHER_REFUSALS, OTHER_SELF_REFERENCES

__all__ = ["CLAUSE", "HARM", "MAKE", "OPENING", "REFUSALS", "SELF_REFERENCES", "TRIGGERS", "WORK"]

# Words without which no form matches a sentence in ASCII; most sentences have none of them.
TRIGGERS = (
    r"n't\b|\b(?:not|cannot|unable|incapable|impossible|inappropriate|unethical|refuse|decline|declining|prefer|lack"
    r"|no|nothing"
    r"|pass|turn|beyond|outside|against|violates?|breach\w*|prevents?|prohibits?|forbids?|forgot|missing|empty"
    r"|incomplete|unclear|cut|upload|attach|programmed|designed|instructed"
    r"|limited|provide|share|paste|give|send|clarify|rephrase|specify|elaborate|need|require|ai|artificial|models?"
    r"|chat ?bot|assistant"
    r"|programs?|machine|knowledge|training|trained|created|developed|built|chatgpt|gpt\S*|claude|gemini|bard"
    r"|copilot|llama|mistral"
    r"|mixtral|qwen|deepseek|grok|phi-\d|lack|ich|je|puedo|soy|sou|sono|posso|estoy|como|come|quanto|ik|als|nie|jag"
    r"|jeg|voi|nu|nemohu"
    r"|tidak|jako|olarak|edemem|getiremem|cevaplayamam|ia|inteligencia)\b"
)

_TELL = "tell"

# An assistant's names for itself. A profession after "AI" (an AI coach) is a role that a task asks for.
_KIND = (
    r"(?:(?:large |ai |artificial intelligence )?language model|(?:text|generative|conversational)[- ](?:based"
    r" )?(?:ai|model)"
    r"|(?:ai|artificial intelligence)(?: (?:language |text )?(?:model|assistant|chat ?bot|system|program))?"
    r"|chat ?bot|virtual assistant|machine learning model|(?:computer )?program|machine)"
)
_AI = (
    rf"(?:(?:an?|your) (?:(?:helpful|harmless|friendly|responsible|ethical|text-based|mere|safe) (?:and )?)*{_KIND}"
    r"|(?:chatgpt|gpt-?\d\w*|claude|gemini|bard|copilot|llama|mistral|mixtral|qwen|deepseek|grok|phi-\d))"
    r"(?![-\w'])(?=\W*$|\s*[,;(]|\s+(?:i|i'm|i've|it|my|and|so|that is|developed|created|trained|made|built|designed"
    r"|from|by)\b)"
)

# What may precede the clause: courtesies, regrets, adverbs; then the clause may also follow a comma or a colon.
OPENING = (
    r"(?:(?:oh|well|hold on|regretfully|hello|hi|hey|no|nope|yes|thanks?|thank you|but|so|and|however|also|again"
    r"|honestly|to be honest"
    r"|while"
    r"|although|though|unfortunately|regrettably|sadly|sorry|apologies|my apologies|(?:please|(?:it is|it's)"
    r" important to)"
    r" note that|i(?:'m| am) (?:(?:very|so|truly|really|terribly|deeply) )*(?:sorry|afraid)|i (?:sincerely"
    r" )?apologi[sz]e"
    rf"|i regret(?: to (?:inform|{_TELL}) you)?|i (?:must|have to|want to|need to|should) (?:inform you|{_TELL} you"
    r"|clarify|note|point out|emphasi[sz]e|be (?:honest|direct|clear)(?: with you)?)"
    r"|for (?:safety|legal|ethical|privacy|security|copyright) reasons"
    r"|due to [\w ]{3,30}|(?:per|according to|under) my \w+)\b"
    r"(?: for [^,.]{0,40})?(?:,? (?:that|but|because|however))?"
    r"[,!: ]*)*"
)
CLAUSE = (
    rf"(?:^{OPENING}|,(?: (?:and|but|so|thus|therefore|hence|because|however))* |\bme: |\bclear: |; (?=i )"
    r"|\bas (?:an?"
    r"|your) (?:\w+ ){0,4}?(?:ai|model|assistant|chatbot|program),? (?=i )|\bbut (?=i\b)"
    rf"|^(?:{OPENING}(?:i|that|this|it|as)|as|\w+ing)\b[^,:]{{3,80}}\b(?:and|so|but|that|:) (?:thus |so "
    r"|therefore )?)"
)
_ADVERB = (
    r"(?: (?:really|simply|just|also|currently|personally|therefore|thus|ethically|directly|physically|in good"
    r" (?:conscience|faith)))?"
)
_UNABLE = (
    r"(?:unable|not (?:\w+ )?(?:able|allowed|permitted|authori[sz]ed|programmed|designed|equipped|trained|going"
    r"|supposed|meant|prepared|willing|inclined|at liberty|in a position))"
    r" to"
)
# "I can't": of a single act. "I don't": of a habit, which also has everyday objects.
_CANNOT = (
    r"(?:(?:can(?:not| ?not|'t)|won't|will not|shouldn't)(?:,? (?:and|or) (?:can't|cannot|won't|will not))?(?: be"
    r" able to)?"
    rf"|(?:am|are|'m|'re|was) ?{_UNABLE}|wasn't (?:designed|programmed|trained|built) to"
    r"|(?:do not|don't) (?:think i should|want to)|(?:would|'d) (?:rather|prefer) not(?: to)?|(?:choose|prefer) not"
    r" to|refuse to|(?:respectfully |politely )?decline to)"
)
_I_CANNOT = rf"(?:i ?(?:(?:really|simply|just|also|honestly) )?|(?<=and )){_CANNOT},?{_ADVERB},?(?: seem to)?"
_I_DO_NOT = r"i (?:do not|don't)"
# No assistant says this of itself: it has neither a calendar nor a family, and is in no room with others.
_LIFE = (
    r"(?!.*\b(?:tonight|tomorrow|any ?more|again|this (?:week|weekend|year|month)|on (?:mon|tues|wednes|thurs|fri"
    r"|satur|sun)day"
    r"|my (?:hand|knee|wife|husband|mother|father|brother|sister|son|daughter|boss|car|train|flight|king|lord|love)"
    r"|your honou?r|my lord|sire|in front of|without (?:you|my))\b)"
)

_THIS = (
    r"(?:so\W*$|(?:this|that|these|those|it|your|the requested|such|any)\b)(?:,? (?:(?:specific|kind|type|sort|of"
    r"|particular|next) ?)*"
    r"(?:an? )?(?:request|question|prompt|query|task|topic|subject|information|instructions?|content|text|material"
    r"|message"
    r"|conversation|claim|letter|recipe|joke|story|essay|decision|one|thing|matter|activit\w+|yet|for you|with"
    r" you(?=\W*$)"
    r"|as|because|since|due)s?\b|(?: (?!puzzle|trick)[\w'-]+){0,2}\W*$|, (?:but|so|as|since|because|and|i)\b)(?!,?"
    r" (?-i:[A-Z][a-z]+))"
)
# Verbs that only an asked assistant uses of itself.
_SERVE = (
    r"(?:(?:assist|help)(?: you| out)*(?=\W*$|, (?:but|so|as|because|and|i)\b| (?:with|in|by|on) (?:this|that|these"
    r"|those|it|your|any|such|the request|\w+ing"
    r"|requests?|homework|responses?|methods|tasks)\b)|help you (?:do|with) (?:it|this|that)"
    r"|help you (?:\w+ ){1,3}(?:some|any)thing like (?:this|that)|comply(?! with(?!"
    r" (?:this|that|your|such|any|the request|requests?|instructions)))|fulfil|fulfill|accommodate|facilitate"
    r"|condone|bypass|engage (?:in|with)"
    r"|pretend to be|roleplay"
    r"|participate in (?:this|that|any|such)|disclose|diagnose|speculate|take sides|provide you with|satisfy (?:this"
    r"|that|your|the)"
    r"|(?:guide|advise|walk) you|comment on (?:ongoing|pending|political|this|that|specific|individual)|(?:confirm"
    r"|verify) (?:whether|if|the (?:authenticity|accuracy|truth)|th[ia][ts] claim)"
    rf"|guarantee the accuracy|{_TELL} you (?:if|whether|who)\b|act as (?:an?|your)\b|(?:confirm"
    r"|verify) (?:this|that|it)(?=\W*$|[,;])|adopt (?:this|that|the|such) persona"
    r"|identify (?:(?:real |private )?(?:people|individuals)|anyone|(?:the|this|that) (?:person|individual))"
    r"|ignore my (?:\w+ )?(?:instructions|rules|guidelines)"
    r"|be (?:a )?part of (?:this|that|it)|answer (?:questions? (?:like|about|of)|personal)|make (?:predictions"
    rf"|guesses) (?:about|on)|(?:{_TELL}|teach|show|explain to) you (?:how to|ways)|explain how to|recommend ways"
    r"|recommend or endorse"
    r"|(?:offer|give|share|express|form)(?: you)? (?:(?:an?|any|my|personal|political|legal|medical|financial)"
    r" )*(?:opinions?|advice|guidance)"
    r"|(?:provide|share|give)(?: you)?(?: with)? (?:that|this|such|any) (?:kind of )?(?:information|content"
    r"|advice))\b"
)
_GERUND = (
    r"(?:assisting|helping|providing|generating|sharing|writing|creating|producing|discussing|answering|engaging"
    r"|complying)"
)
_DO_THIS = (
    r"(?:do|generate|answer|write(?: about)?|discuss|create|produce|share|provide|respond to|complete|process"
    r"|support|continue|say"
    rf"|talk about|cover|reproduce|verify|{_TELL} you|show you|give you|allow|handle|provide you with|perform"
    r"|reply to"
    r"|address"
    r"|make|translate|continue with|help(?: you)?(?: with| on)?)"
)
MAKE = (
    r"(?:provide|generate|engage in|reveal|assist|advise|guide|guess|comment|complete|continue|answer|respond"
    rf"|process|reproduce|write|{_TELL}|create|produce|make|give|share|offer|show|teach|explain|describe|discuss|draw"
    r"|build|find|design|draft"
    r"|take part in|participate in|contribute to|be involved in|go along with|play along with|aid in"
    r"|compose|translate|support|promote|recommend|suggest|list|help|open|say|perform|spread|use|sell|publish"
    r"|endorse)"
)
# What refused requests are about; stems, so that all forms match.
HARM = (
    r"\b(?:illegal|unlawful|harm|hurt|weapon|hack|malware|spyware|keylog|ransom|virus|exploit\b|break into|stea[lk]"
    r"|theft|"
    r"fraud|scam|spam|phish|poison|kill|murder|suicid|self-harm|drug|methamph|cocaine|heroin|hate|hatred|racis|sexis"
    r"|sexual"
    r"|porn|erotic|explicit|nsfw|minors\b|terroris|extremis|bomb|explosiv|grenade|gun\b|firearm|counterfeit|forge"
    r"|fake|cheat"
    r"|plagiar|stalk|harass|bull(?:y|ied)|blackmail|extort|violen|gore|tortur|abus|genocid|privacy|private|personal"
    r" (?:data|"
    r"information|details)|password|credit card|social security|home address|serial number|crack(?:ed|ing)|copyright"
    r"|lyrics|"
    r"pirat|misinform|disinform|propaganda|conspir|manipulat|deceiv|decept|mislead|impersonat|discriminat|stereotyp"
    r"|offensive|"
    r"derogat|demean|degrad|defam|slander|libel|jailbreak|restrictions|guidelines|dangerous|unsafe|unethical|immoral|"
    r"inappropriate|real (?:people|person|politician)|religio|evad|revenge|laundering|smuggl|traffick|trick|swindl"
    r"|threat|unprotected|unrestricted|unauthori|nerve agent|spread\w* (?:lies|rumou?rs)|gunpowder|silencer|detonat"
    r"|arson\b|chemical weapon|toxin|slurs?\b|(?:end|take) your"
    r" (?:own )?life)"
)
# What an assistant delivers, or keeps to itself.
_GOODS = (
    r"\b(?:information|details|instructions|guidance|content|assistance|recommendations?|a response|responses"
    r"|answers?\b(?= (?:to|on|about))|the help"
    r"|requests?\b|prompts?\b|(?:medical|legal|financial|investment|tax|professional|harmful|specific) advice"
    r"|(?:medical|legal|financial|investment|tax) (?:dos\w+|counsel|guidance|opinions?|recommendations?)"
    r"|advice on|diagnos|opinions? on|personal opinions?|prescription|elections?|politic|(?:a|an|any)"
    r" (?:(?:definitive|accurate|direct|specific|detailed|proper|meaningful) )?(?:summary|translation|analysis"
    r"|answer|review for|output)\b"
    r"|kind of (?:joke|text|material|story|thing|topic)|such a (?:text|story|request)|(?:this|that|our) conversation"
    r"|what you(?:'re| are) (?:asking|looking) for|what you(?:'ve| have)? (?:asked|requested)"
    r"|(?:about|on) (?:that|this|those|these) (?:group|person|people|topic|subject|individual|minority|community)"
    r"|detailed plan|step-by-step|my (?:system prompt|instructions|rules))"
)
# What a model of text lacks.
_SENSES = (
    r"\b(?:real-time|live data|live information|current (?:price|news|events|weather)|up-to-date|external|internet"
    r"|the web\b"
    r"|web ?sites?|web ?pages?|links?\b|urls?\b|images?\b|pictures?\b|photos?\b|graphs?\b|audio|attachments?\b"
    r"|pdfs?\b|videos?\b|music"
    r"|maps?\b|"
    r"today's|phone calls?|reminders?|alarms?|purchases|reservations|emails? (?:on|for)|food or|commands"
    r"|code\b(?=\W*$)|(?:previous|earlier|past|prior) (?:conversation|chat|message|session)|your (?:calendar|account"
    r"|files?|device|screen|location|email|computer)|future (?:elections?|events?)"
    r"|the (?:future|outcome))"
)
_SENSE = (
    r"(?:access|provide|generate|give|browse|open|see|view|display|show|play|hear|watch|draw|create|predict|search"
    rf"|look up|remember|recall|set|order|buy|book|listen to|run|execute|process|make|{_TELL} you|send|read|visit"
    r"|retrieve)"
)
WORK = (
    r"(?:input|text|passage|article|paragraph|sentence|code|document|essay|context|data|file|image|list|email|poem"
    r"|story"
    r"|table|instruction|question)"
)

REFUSALS = (
    # I can't assist, I am not able to do that, I won't write malware, I cannot decide this for you.
    rf"{CLAUSE}{_I_CANNOT}{_LIFE} {_SERVE}",
    rf"{CLAUSE}{_I_CANNOT}{_LIFE} {_DO_THIS} {_THIS}",
    rf"{CLAUSE}{_I_CANNOT}{_LIFE} {MAKE}\b(?! (?:my (?!system|instructions|rules)|you how (?:much|happy"
    rf"|sorry)))[^.!?]{{0,80}}?(?:{HARM}|{_GOODS})",
    rf"{CLAUSE}{_I_CANNOT}{_LIFE} (?:write|do|make|create|solve|decide|complete|finish|draw|find|book|send"
    r"|buy)\b[^.!?]{1,40} for you\b",
    rf"{CLAUSE}{_I_CANNOT}{_LIFE} {_SENSE}(?! (?:my\b|you(?=,| over)|our(?! (?:earlier|previous|past|last|prior))|any"
    rf" reason|sense)\b)[^.!?]{{0,30}}?{_SENSES}",
    rf"{CLAUSE}i ?(?:will not|won't|am not|'m not)(?: going to)?(?: be)?(?: comfortable)?(?: with)? {_GERUND}\b(?!"
    r" to you)",
    rf"{CLAUSE}i (?:do not|don't) feel comfortable (?:with (?:this|that)|{_GERUND})",
    rf"{CLAUSE}{_I_DO_NOT} (?:provide|create|generate|give|offer|write|produce|share|support|take|engage in"
    r"|discuss)\b[^.!?]{0,60}"
    rf"?(?:{HARM}|\b(?:content|(?:legal|medical|financial|tax|investment|psychological) advice|diagnos|opinions"
    r"|positions|sides"
    r"|instructions)\b(?! unless)|diagnos)",
    rf"{CLAUSE}i(?:'m| am) (?:not in a position|incapable of forming|not capable of (?:providing|creating|forming)"
    r"|declining)\b",
    rf"{CLAUSE}{_I_DO_NOT} (?:(?:\w+,? (?:or|and) )?condone\b|(?:support|endorse|promote"
    r"|encourage)\b[^.!?]{0,30}? such\b)",
    rf"^{OPENING}(?:respectfully,? )?i (?:respectfully |politely )?decline\W*$",
    r"\bit's best (?:that|if) i (?:don't|do not)\b",
    r"^we (?:cannot|can't|are unable to) (?:continue|have) (?:this|that) (?:conversation|chat|discussion)",
    rf"{CLAUSE}i(?:'m| am| was|'ve been| have been) (?:programmed|designed|trained|instructed)"
    r" (?:to avoid|not to|to not)\b",
    r"^we (?:cannot|can't|are unable to) (?:process|fulfil|fulfill|complete|answer|assist with) (?:this|your|the)"
    r" (?:request|prompt|question)",
    # I must decline; but not an invitation, an offer, a crown.
    rf"{CLAUSE}i{_LIFE}(?:'ll| will|'m going to)? ?(?:must|have to|need to|would have to)(?: (?:respectfully"
    r"|politely))? (?:decline|refuse"
    r"|pass|turn (?:this|that|your|the)(?: \w+)? down|turn down (?:this|that|your) \w+)(?=\W*$|[,.;:]| on this| to"
    r" (?:write|answer|provide|help|assist|create|do|generate|discuss|respond|engage)"
    r"| (?:this|that|your|the) (?:request|task|question|prompt)| (?:this|that)\W*$| because| as )",
    # Without a speaker at the front: can't help with that; that's not something I can help with; impossible for me.
    r"^(?:(?:nope|no|sorry),? )*(?:can(?:'t|not)|unable to) (?:assist|help|comply|fulfill?)(?: with)? (?:this|that"
    r"|the|your)",
    rf"(?:^|: ){OPENING}(?:that|this)(?:'s| is)(?:n't| not)?(?: something| an? (?:topic|subject|question|request"
    r"|task)| beyond what)?(?: that)? "
    r"i(?: can(?:not|'t)|'m not| am not| won't|(?:'m| am) willing| can (?:do|help|assist|answer|discuss)|'m able|"
    r" am able)",
    r"\b(?:(?:is|are) not|isn't|aren't) something (?:that )?i(?:'m able to| am able to| can|'m willing to"
    r"| am willing to"
    r"|'m comfortable|'d be comfortable) "
    rf"(?:do|support|{_GERUND}|provide|produce|write|create|share|discuss|help with|assist with"
    r"|engage in)(?=\W*$|[,;]| for you)",
    r"\b(?:is|are) something (?:that )?i (?:can't|cannot|won't|will not|am unable to|am not able to) "
    r"(?:do|support|provide|produce|write|create|share|discuss|help with|assist with|engage in)(?=\W*$|[,;]"
    r"| for you)",
    rf"^{_GERUND}\b[^.!?]{{0,60}}\b(?:irresponsible|unethical|dangerous|harmful|illegal|inappropriate|unsafe)\b"
    r"[^.!?]{0,30}\bso i (?:won't|can't|cannot|will not)",
    r"\b(?:not (?:possible|appropriate|ethical)|impossible|inappropriate|unethical|isn't (?:possible|ethical"
    r"|appropriate)"
    r"|would(?:n't| not) be (?:ethical|appropriate|responsible)) for me(?:\W*$|: "
    r"| to (?:provide|write|assist|help|answer|discuss|create"
    r"|generate|give|say|speculate"
    rf"|share|do|engage|guess|comment|offer|support|produce|show|play|make|{_TELL}|draw|access|open|continue|respond"
    r"|describe|judge|rank|rate|compare|recommend)\b)",
    r"(?:\bnot|n't) think (?:it would be|it's|it is) (?:appropriate|right|wise|ethical) (?:for me )?to (?:write"
    r"|answer|share|discuss|help|create|provide|comment)",
    r"^(?:it is|it's) (?:not possible|impossible) to (?:complete|answer|fulfil|process|summari\w+|translate|do"
    r"|perform) (?:this|the|your) (?:task|request|question|instruction)",
    r"\b(?:beyond|outside|not within) (?:of )?(?:my (?:capabilit|abilit|programming|scope)|what i can (?:do|help"
    r"|assist|answer))",
    r"\b(?:task|request|question|instruction|prompt) (?:can't|cannot) be (?:\w+ed) (?:because no|as no|without|by"
    r" (?:a |an |any )?(?:gpt|ai|language))",
    r"\byour (?:request|question|prompt) (?:does not|doesn't) (?:meet|comply|align)",
    rf"{CLAUSE}i (?:do not|don't|can't|cannot) understand (?:the|your|this) (?:instruction|request|question|input"
    r"|prompt|task)",
    rf"{CLAUSE}i(?:'m| am) not sure what (?:you(?:'re| are)|you) (?:ask|refer|mean|want)",
    rf"{CLAUSE}i ?(?:respectfully |politely )?(?:decline|refuse|choose not|prefer not)(?: to)? (?:answer|respond"
    r"|participate|help|assist|write|provide|engage|discuss)\b(?=\W*$| (?:this|that|such|any|propaganda))",
    r"\b(?:request|question|task) is something i (?:have to|must|need to) (?:turn down|decline|refuse)",
    rf"{CLAUSE}i (?:(?:do not|don't) know how to (?:help|answer|respond|assist|do)\b[^.!?]{{0,12}}(?:this|that)"
    r"|(?:did not|didn't) understand (?:your|the|this|that) (?:request|question|instruction|message|prompt))",
    rf"{CLAUSE}i(?:'m| am) not (?:qualified|licensed|trained) to (?:give|provide|offer)",
    rf"{CLAUSE}i (?:have no|(?:do not|don't) have any) information (?:about|on|regarding) (?:this|that|your)\b",
    r"^my (?:abilities|capabilities|functions|skills) are limited to text",
    r"^your (?:message|question|request|prompt|instruction) (?:is|seems|appears|looks)(?: to be)? (?:incomplete|cut"
    r" off|empty|unclear)",
    r"^(?:(?:could|can|would) you )?(?:please )?(?:clarify|rephrase|specify|elaborate)(?: on)? (?:your (?:question"
    r"|request|instruction|message)|what you (?:mean|want|would|need|are)|it\W*$)",
    rf"\b{WORK} (?:that )?you (?:want|would like|mention|refer|ask)\w*\b[^.!?]{{0,40}} (?:is|seems to be) missing",
    rf"{CLAUSE}i (?:do not|don't) have (?:enough|the necessary|sufficient) (?:information|context|details)",
    # Rules of the speaker.
    r"\bagainst (?:my|our|openai's|the content|the usage|the use case) (?:\w+ )?(?:polic|guidelines|programming"
    r"|principles|values|use case)",
    r"\b(?:violates?|breach\w*) (?:our|my|the|openai's) (?:\w+ )*(?:polic|guidelines|terms)",
    rf"{CLAUSE}my (?:\w+ )?(?:guidelines|programming|policies|policy|training|design)(?: \w+)? (?:prevents?"
    r"|prohibits?|forbids?"
    r"|do(?:es)? not (?:allow|permit)|doesn't (?:allow|permit)|don't (?:allow|permit)|keeps?) (?:me|that)",
    # Missing abilities and views.
    rf"{CLAUSE}i (?:do not|don't|lack)(?: have)? ?(?:the (?:ability|capability|capacity|means|tools?) to {_SENSE}"
    rf"|(?:any )?access to (?:that|any|such|personal)\b|(?:any )?(?:access to )?[^.!?]{{0,20}}?{_SENSES})",
    rf"{CLAUSE}(?:i )?(?:have|having) no (?:access to [^.!?]{{0,20}}?{_SENSES}|way (?:to|of) (?:access|view|see))",
    rf"^{OPENING}i (?:do not|don't) have (?:an |any )?(?:personal )?opinions? (?:on|about) (?:that|this|the matter)",
    # A missing input.
    r"\byou (?:have not|haven't|did not|didn't|forgot to) (?:provided?|includ\w+|attach\w*|shared?|pasted?|given?)"
    rf"(?: me)?(?: with)?(?: any| an| the| a)? ?(?:\w+ )?{WORK}\b",
    rf"^{OPENING}there (?:doesn't|does not) (?:seem|appear) to be (?:any|an?) (?:\w+ )?{WORK}\b",
    rf"\bi (?:don't|do not) know which {WORK} you(?:'re| are| mean| refer)\b",
    rf"^{OPENING}it (?:looks like|looks as if|seems(?: like)?|appears)(?: that)? (?:the|your|any) (?:\w+ )?{WORK}\b"
    r"[^.!?]{0,50} (?:(?:was|were|is|are)(?:n't| not) (?:included|attached|provided|pasted|there)|(?:did not|didn't)"
    r" (?:come|go|get) through|is missing)",
    rf"^{OPENING}(?:there (?:is|was) no|no) (?:\w+ )?{WORK} (?:(?:is|was|has been) )?(?:given|provided|included"
    r"|attached)\b"
    r"(?! to (?:your|my|the))",
    rf"^(?:the|your) {WORK} (?:is|seems to be|appears to be) (?:missing|empty|incomplete)\b|^(?:this|the|your)"
    r" instruction is incomplete\b",
    r"^<no ?input>|^there is nothing to (?:classif|summari|translat|correct|edit)",
    r"^(?:(?:could|can|would) you )?(?:please )?(?:provide|share|paste|give|send|upload"
    r"|attach)(?: me)?(?: with)? (?:the|some"
    r"|your|more|any|a|an) (?:\w+ )?"
    rf"{WORK}\b(?: (?:that )?you(?:'d| would)? (?:like|want)(?: me)?\b| so (?:that )?i can\b| (?:for me )?to"
    r" (?:translate|summari|analy|correct|edit|review))",
    r"^(?:could|can|would) you (?:please )?(?:provide|share|give)(?: me)?(?: with)? (?:some |a bit )?(?:more"
    r"|additional|further) (?:context|details|information)\W*$",
    rf"{CLAUSE}i (?:need|require) (?:(?:more|additional|further) (?:information|context|details) to (?:complete"
    r"|answer|fulfil|do|help|assist)"
    rf"|the {WORK}\b[^.!?]{{0,30}} first)",
    r"^i (?:don't|do not|can't|cannot) see (?:any |an |the )?(?:attach\w+|file|image|document|text)",
    *OTHER_REFUSALS,
)
SELF_REFERENCES = (
    rf"^(?:{OPENING})(?:as|speaking as|being|since i(?:'m| am)|because i(?:'m| am)|(?:al)?though i(?:'m| am)"
    rf"|(?:given|note) that i(?:'m| am)|while i(?:'m| am)) (?:just |only |merely )?{_AI}",
    rf"(?:^{OPENING}|, (?:but |and |so )?)(?:as|since i am|because i am) (?:just |only )?{_AI}",
    rf"^(?:{OPENING})(?:i am|i'm) (?:just |only |merely |simply )?{_AI}",
    r"^as (?:an?|your) (?:(?:responsible|ethical|helpful|text-based) )?assistant, i(?:'m| am| can|'ve)\b",
    r"^i was (?:trained|created|developed|built) by (?:openai|google|anthropic|meta|microsoft|mistral|alibaba"
    r"|deepseek|xai)\b",
    r"^like (?:all|other|most) (?:large )?language models, i\b",
    r"\bmy (?:training data|knowledge) (?:only )?(?:goes|cuts? off|cutoff|extends|ends)\b",
    r"\bmy (?:knowledge|training) cut-?off\b",
    r"^as of my (?:last |latest |most recent )?(?:knowledge|training) (?:update|cut-?off)",
    rf"^{OPENING}i (?:don't|do not) (?:actually )?have (?:any )?(?:personal (?:experiences?|opinions|feelings"
    r"|beliefs|preferences|emotions)(?! (?:with|in|of|for)\b)"
    r"|(?:feelings|emotions|opinions|beliefs|consciousness) or)\b",
    r"^i (?:don't|do not|lack) (?:possess|experience|have) (?:feelings|emotions|consciousness|a physical (?:body"
    r"|form))\b(?! for)",
    *OTHER_SELF_REFERENCES,
)
