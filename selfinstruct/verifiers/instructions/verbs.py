"""Whether an English word can be a verb: a list of common verbs and the regular forms of each."""

from __future__ import annotations

from selfinstruct.verifiers.instructions.lexicon import words_of

__all__ = ["is_verb"]

_AUXILIARIES = words_of(
    "am is are was were be been being do does did done doing have has had having can could may might must shall should "
    "will would let"
)
_VERBS = words_of(
    """
    abandon absorb accelerate accept access accommodate accompany accomplish account accumulate achieve acknowledge
    acquire act activate adapt add address adjust admire admit adopt advance advise advocate affect afford aim align
    allocate allow alter amplify analyse analyze animate announce answer anticipate apologize appear apply
    appreciate approach approve argue arise arrange arrive articulate ask assemble assert assess assign assist
    associate assume assure attach attack attain attempt attend attract automate avoid awaken back bake balance ban
    base bask bear beat become befriend beg begin behave behold believe belong bend bet beware bind bite blame blend
    bless block bloom blow boast book boost borrow bounce bow brace brainstorm break breathe brew bring broaden
    browse brush build burn burst bury buy calculate call calm camp capture care carry carve cast catch categorize
    cause celebrate challenge change characterize charge chart chase chat check cheer cherish choose cite claim
    clarify clean clear click climb close coat code collaborate collect combine come comfort command commence commit
    communicate compare compete compile complain complete compose comprehend compute conceive concentrate conclude
    conduct confess configure confirm connect conquer consider consist consolidate construct consult consume contact
    contain contemplate continue contrast contribute control convert convey convince cook cool cooperate coordinate
    copy correct count cover crack craft create cross cry cultivate cure cut dance dare deal debate decide declare
    decode decorate decrease dedicate define delete deliver delve demand demonstrate denote deny depart depend
    depict deploy derive descend describe deserve design desire destroy detect determine develop devise devote
    diagnose dictate die differentiate dig diminish direct disagree disappear discard discover discuss display
    distinguish distribute dive diversify divide document dodge dominate donate double draft drag draw dream drift
    drill drink drive drop dry earn ease eat echo edit educate elaborate elect elevate eliminate embark embody
    embrace emerge emit emphasize employ empower enable encompass encounter encourage end endure energize enforce
    engage enhance enjoy enlarge enlighten enrich ensure enter entertain envision equip escape establish estimate
    evaluate evolve examine exceed exchange excite execute exercise exist expand expect experience experiment
    explain exploit explore export expose express extend extract face facilitate fade fail fall fancy fascinate
    fasten favor fear feature feed feel fetch fight figure file fill filter find finish fire fit fix flee float flow
    fly focus fold follow forbid force forecast forge forget forgive form formulate foster frame free freeze fulfil
    fulfill function gain gather gauge gaze generate get give glance glide glow go govern grab grant grasp greet
    grill grow guarantee guard guess guide halt hand handle hang happen harness hate haunt head heal hear heat
    heighten help hesitate hide highlight hike hire hit hold honor honour hope host hover hug hunt hurry hurt
    identify ignite ignore illuminate illustrate imagine imitate immerse impact implement imply import impose
    improve include incorporate increase indicate induce indulge influence inform inherit initialize initiate inject
    innovate inquire insert inspect inspire install instruct integrate intend interact interpret interview introduce
    invade invent invest investigate invite involve iterate join journey judge jump justify keep kick kill kindle
    kiss kneel knit knock know label lack land laugh launch lay lead leap learn leave lend lessen leverage lie lift
    light like limit linger link list listen live load locate lock log look loop lose love lower maintain make
    manage manipulate map march mark market marry master match maximize mean measure meditate meet melt memorize
    mend mention merge mind minimize mix modify mold monitor motivate mount move multiply narrate navigate
    necessitate need negotiate nest nestle note notice notify nourish number nurture obey obtain occur offer open
    operate opt optimize orchestrate order organize originate outline outperform overcome overlook oversee owe own
    pack paint park participate partition pass paste pause pave pay perceive perform persist persuade pick picture
    pin place plan plant play plead please plot plug plunge point polish ponder pose position possess post postpone
    pour practice practise pray preach predict prefer prepare present preserve press presume pretend prevail prevent
    print prioritize proceed process procure produce program prohibit project promise promote prompt propose protect
    prove provide publish pull pump purchase pursue push put qualify quantify query question quit quote race raise
    range rank rate reach react read realize reap reason recall receive recite recognize recommend reconcile record
    recover recruit reduce refer refine reflect refrain refuse regard register regret regulate reinforce reject
    relate relax release rely remain remember remind remove render renew repair repeat replace replicate reply
    report represent request require rescue research reserve reset reside resist resolve respect respond rest
    restore restrict result retain retrieve retry return reveal review revise revisit revolutionize reward rewrite
    ride ring rise risk roast rock roll rotate rule run rush sail satisfy save savor say scale scan scatter schedule
    search secure see seek select sell send separate serve set settle shake shape share sharpen shift shine shoot
    shop shout show shut sign simplify simulate sing sit sketch skip sleep slice slide slow smell smile solve sort
    sound spark speak specify spend spin split spot spread stand start state stay steer step stick stimulate stir
    stop store streamline strengthen stress stretch strike strive structure struggle study submit substitute succeed
    suffer suggest suit summarize supply support suppose suppress surf surge surround survive suspect sustain swap
    sweep swim switch synthesize tackle tag take talk target taste teach tear tell tend test thank think thrive
    throw thrust tie toast touch tour trace track trade trail train transcend transfer transform translate transmit
    travel traverse treat trek trigger trim trust try tune turn twist type uncover underestimate undergo understand
    undertake unearth unfold unify unite unleash unlock unravel unveil update upgrade uphold urge use utilize
    validate value vary venture verify view visit visualize volunteer vote wait wake walk wander want warm warn wash
    waste watch wave weave weigh welcome whip whisper win wipe wish witness wonder work worry wrap write yell yield
    zoom
    """
)
_IRREGULAR = words_of(
    """
    arose ate became began begun bent blew bore born bought bound broke broken brought built burnt came caught chose
    chosen clung crept dealing dealt drank drawn drew driven drove dug eaten fallen fell felt flew flown forgot
    forgotten fought found froze frozen gave given gone got gotten grew grown heard held hid hidden hung kept knew
    known laid led left lent lit lost made meant met paid ran rang risen rode rose said sang sank sat saw seen sent
    shaken shone shot shown shrunk slept slid sold sought spent spoke spoken spread sprung stole stolen stood strove
    struck stuck sung swam swept swore taken taught thought threw thrown told took tore torn understood underwent
    went woke woken won wore worn wove woven written wrote
    """
)


def is_verb(word: str) -> bool:
    """Return whether a word is a form of a common English verb; many of them may be nouns as well."""
    word = word.lower()
    return word in _AUXILIARIES or word in _IRREGULAR or any(form in _VERBS for form in _base_forms(word))


def _base_forms(word: str) -> list[str]:
    """Return what may be the base form of a regular form: tried, trying, tries, stopped, making."""
    forms = [word]
    for ending in ("ing", "ed", "es", "s"):
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < 2:
            continue
        forms += [stem, f"{stem}e"]
        if stem[-1] == "i":
            forms.append(f"{stem[:-1]}y")
        if ending in ("ing", "ed") and len(stem) > 2 and stem[-1] == stem[-2]:
            forms.append(stem[:-1])
    return forms
