"""Refusals that name no inability of the speaker: idioms, rules without a speaker, and what is missing.

Each form ties the idiom to the request ("this", "that one", "your question") or to what refusals are about, since
every idiom also has an everyday meaning: a kitchen takes lobster off the table, and a goalkeeper sits one out.
"""

from __future__ import annotations

from selfinstruct.filters.refusal_forms import CLAUSE, HARM, MAKE, OPENING, WORK

__all__ = ["IDIOMS", "IDIOM_TRIGGERS"]

IDIOM_TRIGGERS = (
    r"\b(?:denied|declined|rejected|refused|blocked|flagged|disallowed|prohibited|restricted|forbidden|disabled"
    r"|permitted|allowed|off|sit|steer|skip|withh[eo]ld\w*|irresponsible|wrong|improper|reckless|unwise|tied|scope"
    r"|remit"
    r"|limits|bounds|stop|without|mentioned|reach|line|like me|against|policy|policies|safety|hand out|draw|ground"
    r"|subject|go there|no-go|taboo|rules?|only|leave|path|road|place|party|another|such as|unable|forgotten|means"
    r"|opinions?|views?|stance|break|cross(?:es)?|settings|no can|rather|since|unethical|harmful|illegal|offensive"
    r"|avoid|reach(?:ed)?|returned|makers"
    r"|creators|operators?|developers|designers|programmers|drawing|told|option|cards|something)\b"
)

_THIS = r"(?:this|that|these|those|such|the requested|what you(?:'re| are) asking(?: for)?)"
_ASKED = (
    r"(?:request|query|prompt|question|topic|subject|material|content|instructions?|input|task|conversation"
    r"|discussion|response|output|text|kind|type|sort)s?"
)
_GERUND = (
    r"(?:generat|provid|produc|writ|shar|creat|giv|offer|discuss|describ|explain|answer|respond|help|assist|engag"
    r"|continu|complet|fulfil+|supply|outlin|list|promot|post|do)ing"
)
_SENSING = (
    r"(?:open|access|view|brows|watch|read|hear|see|look|play|visit|runn|execut|retriev|download|listen|check|search"
    r"|call)ing"
)
_BANNED = (
    r"(?:flagged|blocked|disallowed|prohibited|restricted|forbidden|barred|disabled|rejected|off[- ]limits"
    r"|out of bounds"
    r"|(?:not|n't) (?:allowed|permitted|supported|available|acceptable|appropriate|okay|ok|possible)"
    r"|(?:outside|beyond)(?: of)? (?:the |my |our |its )?(?:\w+ )?(?:scope|remit|limits|bounds|boundaries)"
    r"|against (?:the |my |our )?(?:\w+ )?(?:rules|polic\w+|guidelines|terms|values|principles)"
    r"|(?:a )?(?:no-go|taboo|forbidden|closed)\b(?: \w+)? (?:for me|with me|here)"
    r"|out of the question)"
)
_RULES = (
    r"(?:(?:content|safety|usage|use|moderation|ethical|ai|operating|core|community) (?:\w+ )?(?:polic(?:y|ies)"
    r"|guidelines|rules|standards|terms|settings|filters?|principles)"
    r"|rules(?= i \w+ (?:under|by|within))|(?:principles|values|rules|guidelines) i (?:was|am|were|follow"
    r"|live by|must))(?: (?:that )?i \w+ (?:under|by|within|with|to))?"
)
_ASSISTANT = (
    r"(?:this (?:ai |virtual |digital |online |chat )?(?:assistant|chat ?bot|bot|ai|language model)"
    r"|the (?:ai|virtual|digital|online|chat) (?:assistant|bot|model))"
)
_SERVED = r"(?:answer|respond|repl|help|assist|discuss|provide|question|request|topic|inquir|enquir|quer)"
_END = r"(?=\W*$|,| (?:for me|for you|with you|here|as|because|since|due)\b)"

_REQUEST = r"(?:request|prompt|question|query|instruction|task|topic|scenario|demand)s?"
_DISPUTED = (
    r"(?:elect|vot(?:e|ing)|politic|candidate|part(?:y|ies)\b|religio|god\b|abortion|faith|war\b|(?:this|that"
    r"|such)(?: matters?| topics?)?\W*$)"
)

IDIOMS = (
    # The speaker and an inability, with a request or a harm as the object, in wider wordings than ``REFUSALS`` has.
    rf"{CLAUSE}(?:i|we) ?(?:can't|cannot|won't|will not|am unable to|are unable to|'m unable to|'re unable to"
    r"|refuse to)"
    r" (?!believe|remember|recall|recommend|imagine|wait|help but|find|hear|see|afford)[^.!?]{0,40}?\b(?:this"
    r"|that|your|such"
    rf"|the) (?:\w+ )?{_REQUEST}\b(?! (?:without|until|again)|, (?-i:[A-Z]))",
    rf"^{OPENING}we (?:can't|cannot|won't|will not|are unable to|are not able to) {MAKE}\b[^.!?]{{0,60}}?{HARM}",
    rf"{CLAUSE}(?:i|we)(?:'ll| will)? (?:must|have to|need to|always|generally|would)? ?(?:turn down|decline|refuse"
    r"|reject) (?:any"
    rf" |all |such )?(?:\w+ )?{_REQUEST} (?:that|which|for|about|to|involving|like|of this)\b",
    rf"^{OPENING}(?:unable|not able|not allowed|not permitted) to (?:comply|assist|help|answer|respond|fulfil+"
    r"|process|proceed"
    r"|continue|generate|provide|complete|produce)\b(?=\W*$|[:,;]| (?:with )?(?:this|that|the request|your|such)\b)",
    rf"{CLAUSE}(?:i|we) (?:have no|hold no|take no|don't have an?y?|do not have an?y?|don't hold|do not hold"
    r"|don't take|do not take)"
    r" (?:\w+ )?(?:opinions?|views?|positions?|stance|preference|sides?) (?:on|about|regarding"
    rf"|in) [^.!?]{{0,40}}?{_DISPUTED}",
    rf"\b(?:this|that|your|such) (?:\w+ )?{_REQUEST} (?:crosses (?:a|the) line|goes too far|is something i"
    r"|asks for something i"
    r"|asks me to|would require me to)\b",
    r"\bmy (?:settings|configuration|instructions|guidelines|rules|safeguards|filters|programming|design|makers?"
    r"|safety \w+)"
    r" (?:won't|will not|don't|do not|doesn't|does not|can't) (?:let|allow|permit|enable) me\b",
    rf"\b{_GERUND} (?:this|that|it|such|your)\b[^.!?]{{0,40}} would (?:break|violate|breach|contradict"
    r"|conflict with|go against)"
    r" (?:my|the|our)\b",
    rf"\b{_GERUND}\b[^.!?]{{0,60}} (?:is|are)(?:n't| not) something (?:that )?(?:i|we)(?:'d|'m)?(?: (?:do|would"
    r"|will|could|can|am"
    r"|are))?\b(?! (?:\w+ )?(?:enjoy|like|love|often))",
    r"\byou (?:seem to have|appear to have|may have|have|'ve)? ?forgotten to (?:paste|attach|include|add|provide"
    r"|upload|share"
    rf"|send)\b(?= (?:me )?(?:the|your|any|an?) (?:\w+ )?(?:{WORK}|picture|photo|attachment|link))",
    # A rule without a speaker: this query has been flagged; request denied; generating this is prohibited.
    rf"^{OPENING}(?:request|query|prompt|access) (?:denied|declined|refused|rejected|blocked)\W*$",
    rf"\b(?:{_THIS}|your) (?:[\w-]+ ){{0,3}}?{_ASKED}\b(?: of \w+)?(?: (?:\w+ ){{0,4}}?)?(?:is|are|was|were"
    r"|has been|have"
    rf" been|falls?|lies?|goes|isn't|aren't|seems?)\b[^.!?]{{0,25}}?\b{_BANNED}(?! (?:until|in|at|from)\b"
    r"| by (?!(?:the |my |our )?(?:\w+ )?(?:operator|developer"
    r"|provider|system|safety|moderat|filter|polic|model|content)))",
    rf"\b(?:{_THIS}) (?:[\w-]+ ){{0,2}}?{_ASKED} (?:falls?|comes?) (?:under|within|into) [^.!?]{{0,30}}(?:restricted"
    r"|prohibited|disallowed|blocked|banned|unsafe|sensitive)\b",
    rf"^{OPENING}(?:this|that|it) (?:falls?|comes?|goes) (?:under|within|into|beyond"
    r"|outside) [^.!?]{0,30}(?:restricted"
    r"|prohibited|disallowed|banned) (?:content|topics?|material|categor)",
    rf"\b{_GERUND} (?:{_THIS}|any|more|further|it)\b[^.!?]{{0,60}}\b(?:is|are|would be|'s) (?:\w+ )?(?:{_BANNED}"
    r"|irresponsible|unethical|wrong|illegal|something i|where i)",
    rf"^{OPENING}(?:please understand that |kindly note that )?{_GERUND}\b[^.!?]{{0,60}}\b(?:would go|goes|would be"
    r"|is)"
    rf" against (?:the |my |our )?(?:\w+ )?{_RULES}",
    rf"\b(?:our|my|the) {_RULES}(?: \w+)? (?:(?:do(?:es)?(?: not|n't)|will not|won't) (?:let|allow|permit)|prohibits?"
    r"|forbids?|prevents?|bars?|blocks?|keeps?|stops?|rules? out)\b[^.!?]{0,30}?\b(?:me\b|us\b|responses?\b"
    r"|answers?\b|replies\b"
    rf"|this\b|that\b|it\b|such\b|{_GERUND})",
    r"\bno (?:answer|response|reply|output|content) (?:(?:will|can|may) be|is|has been) (?:generated|given|provided"
    r"|returned|produced|available)\b(?=\W*$| (?:for|to|on|about) (?:this|that|your|such))",
    rf"\b(?:{_THIS}|it|your \w+) (?:falls?|lies?|is|goes|sits?) (?:outside|beyond)(?: of)? (?:what|anything"
    r"|the \w+ (?:that|of"
    r" what)) (?:i|we)\b",
    rf"^{OPENING}{_GERUND}\b[^.!?]{{0,60}} (?:is|are)(?:n't| not)? something (?:that )?i(?:'m| am)? (?:refuse"
    r"|decline|won't"
    r"|will not|can't|cannot|don't|do not|never|not|steer|avoid)\b",
    r"\b(?:my|our) (?:makers|creators|developers|designers|programmers|operators?|owners)(?: have| has)? (?:asked"
    r"|told"
    r"|instructed|programmed|designed|trained|built|taught|forbids?|forbade|forbidden|(?:don't|do not|won't"
    r"|will not) (?:let"
    r"|allow|permit)) me\b",
    rf"^{OPENING}(?:please note that |kindly note that |please understand that )?{_ASSISTANT} (?:is (?:restricted"
    r"|limited"
    r"|unable|not (?:able|allowed|permitted|designed|intended|meant))|(?:can|may) (?:only|not)|cannot|can't|won't"
    rf"|will not|only)\b[^.!?]{{0,50}}{_SERVED}",
    # An idiom about the request: that's off the table, I'll sit this one out, not something I'm able to get into.
    rf"^(?:(?:hmm+|um+|uh|ah|eh),? )?{OPENING}(?:that|this|it)(?: (?:one|topic|subject|question))?(?: is|'s"
    r"|'ll have to be| has to be)(?: \w+)? (?:off"
    r"(?: the table|[- ]limits)|out of bounds|a (?:hard |firm )?(?:no|pass|no-go)|not up for discussion"
    r"|a (?:line|place) i (?:won't|don't|will not|can't)[^.!?]{0,12}|not going to happen"
    r"|where i draw the line)(?:(?=\W*$|, (?!said))| (?:for|from|with) (?:me|you|us)\b| here\b)",
    r"\b(?:is|are|'s) where i draw the line\W*$",
    rf"{CLAUSE}i(?:'m| am|'ll| will|'ve| have)? (?:draw|drawing|drawn) (?:the|a) line (?:here|there"
    rf"|at)\b[^.!?]{{0,80}}{HARM}",
    rf"^{OPENING}(?:i|we)(?:'m|'re| am| are|'ll| will)? ?(?:not|n't|won't)(?: be)? (?:going to "
    r"|gonna )?(?:go(?:ing)? (?:there"
    r"|down (?:this|that) (?:road|path|route))|touch(?:ing)? (?:this|that))(?! (?:until|before|again))",
    rf"^{OPENING}it(?:'s| is) not (?:my (?:place|role|job)|for me|up to me) to (?:decide|judge|say|answer|give|rule"
    r"|comment"
    r"|speculate|advise|take|choose|pick)\b",
    r"\bi (?:won't|will not|refuse to|can't|cannot) be (?:a |any )?party to (?:this|that|such|any)\b",
    rf"{CLAUSE}i(?:'ll| will|'m going to|'d rather| would rather|'d prefer to| prefer to| must| have"
    r" to|'ll have to|'m afraid i (?:must|have to)|'m going to have to)*(?: respectfully| politely"
    r"| just)? ?(?:sit this(?:"
    rf" one)? out|pass on (?:this|that)(?: one)?{_END}|skip (?:this|that)(?: (?:one|question|request|topic))?{_END}"
    r"|(?:steer|stay) (?:clear|away) (?:of|from) (?:this|that|such)\b|leave (?:this|that) (?:one )?(?:alone|there"
    r"|unanswered"
    r"|unsaid)|withhold (?:a|my|any|an) (?:\w+ )?(?:response|answer|reply))",
    rf"^{OPENING}let's (?:(?:steer|stay) (?:clear|away) (?:of|from) (?:this|that)|not go (?:there|down that (?:road"
    r"|path))"
    r"|(?:talk about|try|discuss|pick|choose|move (?:on )?to|explore|find) (?:something else|(?:another|a different"
    r"|a safer)"
    r" (?:topic|subject|question))|change the (?:subject|topic)|keep (?:it|things|this|our \w+)"
    r" (?:on safer ground|appropriate|respectful|civil|safe|friendly))\b",
    r"^(?:sorry|apologies|oh|no|nope|hmm),? (?:not|nothing) (?:something|anything|a (?:topic|subject|thing)|one) i\b",
    r"^(?:not|nothing) (?:something|anything|a (?:topic|subject|thing)|one) (?:that )?i(?:'m| am|'ll| will| can"
    r"| could|'d)"
    rf" (?:(?:able|willing|allowed|going|prepared|comfortable|at liberty)\b|{_SERVED}|do\b|get into|go into|touch)",
    r"^(?:sorry|no|nope|uh-uh|nah|apologies|afraid)?,? ?(?:not (?:doing|writing|answering|touching|helping with|going"
    rf" (?:to|there))(?: {MAKE})?(?: (?:that|this|it|with))?(?: one| for you)?|no can do)\W*$",
    r"^(?:sorry,? )?no can (?:do|help|answer|comply)\b(?!\W*:)",
    r"\bi (?:can |may |could |am able to |'m able to )?only (?:help|assist|answer|respond"
    r"|reply)\b[^.!?]{0,20}\b(?:questions?"
    r"|requests?|topics?|quer(?:y|ies)|inquiries)\b",
    rf"\b(?:{_THIS}|your) (?:\w+ )?(?:request|prompt|question|query|task|topic) (?:is|seems|looks"
    r"|appears) (?:\w+ )?(?:inappropriate"
    r"|unethical|harmful|illegal|offensive|unsafe|dangerous|unlawful|immoral)\b",
    r"\b(?:subject|topic|matter|question|area)s? (?:that )?i (?:avoid|stay (?:away|out)|steer|(?:don't|do not|can't"
    r"|cannot|won't"
    r"|will not) (?:discuss|touch|cover|address|comment|go into|get into))\b",
    rf"{CLAUSE}i(?:'d| would) rather not (?:weigh in|comment|answer|say|discuss|speculate|take sides|write|get into"
    r"|go into)\b"
    r"(?=\W*$|[,;]| (?:on|about|that|this|which|whether|such))",
    rf"^{OPENING}(?:since|as|because|being|given that) i (?:have no|lack an?y?|lack|don't have an?y?) ?(?:body"
    r"|senses|eyes|ears|hands"
    r"|tongue|taste|feelings|physical|mouth|nose|emotions)\b",
    rf"\bthere(?:'s| is| are| was) no (?:\w+ )?(?:{WORK}|picture|photo|attachment|link) in (?:your|this"
    r"|the) (?:message|prompt|request"
    r"|question|input)\b",
    rf"^{OPENING}please (?:paste|provide|share|attach|upload|include|send)(?: me)? (?:the"
    rf"|your) (?:\w+ )?{WORK} first\b",
    r"\bi have no (?:means|way|ability|method|tools?) (?:of|to|for) (?:check|see|know|verify|brows|look|access|view"
    r"|open|search"
    r"|track|read|hear)\w*\b[^.!?]{0,30}?(?:today|current|latest|live|real-time|internet|\bweb\b|online|link|image"
    r"|photo|file"
    r"|video|your|rates|weather|news)",
    r"\bmy hands are tied(?: here| on (?:this|that)(?: one)?| with (?:this|that))\b",
    r"\b(?:it would be|it is|it's|it'd be) (?:\w+ly )?(?:irresponsible|wrong|unethical|inappropriate|improper"
    r"|reckless"
    r"|unwise|dangerous|unsafe|harmful|illegal) (?:of|for) me to\b",
    r"\bno way (?:that )?i(?:'m| am|'ll| will|'d| would| can"
    rf"| could)\b[^.!?]{{0,15}}\b{MAKE}\b[^.!?]{{0,60}}(?:for you\b|to"
    rf" you\b|how to\b|{HARM})",
    rf"\bi (?:don't|do not) have it in me to {MAKE} (?:something|anything|this|that|such)\b",
    r"\b(?:an?|your|this) (?:[\w'-]+ ){1,4}(?:like|such as) (?:me|myself|yours truly),? (?:won't|will not|can't"
    r"|cannot|can not|wouldn't|would never"
    rf"|shouldn't|doesn't|does not|ain't|never)\b[^.!?]{{0,80}}{HARM}",
    rf"^{OPENING}as (?:an?|your) [\w' -]{{3,40}}, i (?:don't|do not|won't|will not|can't|cannot|never) (?:hand|give"
    r"|dish|pass)"
    r" out\b",
    rf"{CLAUSE}i(?:'ll| will)? (?:have|need|must|got|'ve got)(?: to)? (?:stop|halt|end)(?: (?:you|this|it|the \w+))?"
    rf" (?:here|there|now|right here)\b[^.!?]{{0,120}}{HARM}",
    # Something is missing, or out of reach of a text model.
    rf"\bwithout (?:the|an?|any|your|that|access to the) (?:\w+ )?{WORK}\b[^.!?]{{0,30}}, (?:i|it|there) (?:(?:have"
    r"|has|is) no"
    r" way|can't|cannot|am unable|'m unable|could only|would only|(?:is|'s) (?:not possible|impossible|hard))",
    rf"\b(?:nothing|no (?:\w+ )?{WORK}|(?:the|your) (?:\w+ )?{WORK}) (?:\w+ )?(?:came|come|comes|got|get|went"
    r"|shows?|made it"
    r"|arrived|appears?)(?: \w+)? (?:on|at|to) my (?:end|side)",
    rf"{CLAUSE}i(?:'d| would)?(?: first)? (?:need|have) to see (?:the|your|that|this|some"
    rf"|an?) (?:\w+ )?{WORK}\b[^.!?]{{0,20}}"
    r"\b(?:before|first|in order|to)\b",
    r"\byou (?:haven't|have not|didn't|did not) (?:told|given|shown|sent|let) me (?:\w+ )?(?:which|what|the|any"
    r"|an?) (?:\w+ )?"
    rf"{WORK}\b",
    rf"\b(?:the|your|that) (?:{WORK}|pictures?|photos?|attachments?|links?|pdf) (?:that )?(?:you(?:'ve"
    r"| have)? (?:refer\w*"
    r"|mention\w*|describ\w*|sent|attach\w*|upload\w*|shared?)(?: to)? )?(?:didn't|did not|hasn't|has not|never"
    r"|failed to)"
    r" (?:reach(?:ed)? me|arrived?|c[oa]me through|load|upload|open|make it)\b",
    rf"\b(?:{_SENSING}|describing) (?:the|your|that|this|any|an?)\b[^.!?]{{0,30}} (?:is|are)(?:n't"
    r"| not) (?:on the cards|an option"
    r"|possible|going to happen|something)",
    rf"\b{_SENSING}\b[^.!?]{{0,40}} (?:is|are|'s) (?:(?:out of|beyond|outside) (?:my (?:reach|abilit|capabilit"
    r"|means|power)"
    r"|me\b|what i)|(?:not|n't) (?:possible for me|something i)|impossible for me)",
)
