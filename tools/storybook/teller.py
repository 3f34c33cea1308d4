"""How a story is told: who is in it, and how templates become sentences. Has no plot of its own.

A template holds {slots}, filled by `str.format` from the tale's facts, and <alternatives|like|these>.
"""

import random
import re
from collections.abc import Sequence

from storybook.threads import THREADS, Thread
from storybook.words import (
    ANIMALS, BOYS, COLOURS, COMPANIONS, DISHES, ENDINGS, GARMENTS, GIRLS, GOOD_TRAITS, HOMES, MIDDLES,
    ONSETS, PETS, PLACES, RELATIVES, SAYINGS, SEASONS, SIZES, SONGS, THINGS, TRADES, VOWELS, WEATHERS, Person,
)  # fmt: skip

INVENTED_NAMES = 0.15  # the share of names that are made up of syllables

_ALTERNATIVES = re.compile(r"<([^<>]*)>")
_A_VOWEL = re.compile(r"\b([Aa]) (?=[aeiouAEIO])(?!one\b|uni|use)")
# A sentence begins: at the start, after a full stop or a mark outside of quotes, after an opening quote
# (but not after a comma and a quote, where speech goes on).
_START = re.compile(r'(?:^|[.!?]\s+|[.]"\s+|(?:^|(?<!,)\s)")([a-z])')


class Tale:
    """A story in the making: an rng, the facts so far, the sentences so far."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.facts: dict[str, object] = {}
        self._parts: list[list[str]] = [[]]
        self._names: set[str] = set()
        self._threads: list[Thread] = []

    # ---- telling

    def pick(self, options: Sequence):
        """One of them, each as likely."""
        return options[int(self.rng.random() * len(options))]

    def chance(self, share: float) -> bool:
        """True in this share of the tales."""
        return self.rng.random() < share

    def set(self, **facts) -> None:
        """Fix facts; a text is expanded now, with the facts so far."""
        for name, value in facts.items():
            self.facts[name] = self.text(value) if isinstance(value, str) else value

    def text(self, template: str) -> str:
        """The template with its alternatives drawn and its slots filled."""
        while "<" in template:
            template = _ALTERNATIVES.sub(lambda m: self.pick(m[1].split("|")), template)
        return template.format(**self.facts)

    def say(self, *options: str) -> None:
        """Add one of the templates to the story."""
        text = self.text(self.pick(options))
        self._parts[-1].append(text[0].upper() + text[1:])

    def maybe(self, *options: str) -> None:
        """Add one of the templates, or none."""
        if self.chance(0.5):
            self.say(*options)

    def part(self) -> None:
        """Begin a new paragraph; the second one ends with what becomes of the threads meanwhile."""
        if len(self._parts) == 2:
            for thread in self._threads:
                self.maybe(*thread.middle)
        self._parts.append([])

    def finish(self) -> str:
        """The story: threads tied up, capitals where sentences begin, "an" before vowels, paragraphs apart."""
        for thread in self._threads:
            self.maybe(*thread.end)
        if self.chance(0.15):
            self.say("The end.")
        return "\n\n".join(_polish(" ".join(part)) for part in self._parts if part)

    # ---- casting

    def name(self, gender: str) -> str:
        """A name that nobody in this tale has."""
        while True:
            if self.chance(INVENTED_NAMES):
                parts = (ONSETS, VOWELS, MIDDLES, ENDINGS[gender])
                name = "".join(self.pick(p) for p in parts).capitalize()
            else:
                name = self.pick(GIRLS if gender == "f" else BOYS)
            if name not in self._names:
                self._names.add(name)
                return name

    def child(self, traits: dict[str, str] = GOOD_TRAITS) -> None:
        """The hero {h}: a child with one of these traits and a home."""
        gender = self.pick("fm")
        self.set(h=Person(self.name(gender), gender))
        trait = self.pick(tuple(traits))
        self.set(
            trait=trait,
            home=self.pick(HOMES),
            place_word=self.pick(("mill", "old bridge", "corner house", "last house", "bakery", "farm")),
        )
        self.set(does=traits[trait])

    def friend(self) -> None:
        """Another child {f}; usually of the other gender, so that "she" and "he" stay clear."""
        other = {"f": "m", "m": "f"}[self.facts["h"].gender]
        gender = other if self.chance(0.8) else self.facts["h"].gender
        self.set(f=Person(self.name(gender), gender))

    def relative(self) -> None:
        """A relative {r} of {h}; aunts and uncles have names."""
        kind = self.pick((*RELATIVES, "aunt", "uncle"))
        if isinstance(kind, str):
            gender = "f" if kind == "aunt" else "m"
            kind = Person(f"{kind.capitalize()} {self.name(gender)}", gender, kind)
        self.set(r=kind)

    def trade(self, slot: str = "p") -> None:
        """A grown-up with a trade: "the baker", a different one for each slot."""
        taken = {str(v) for v in self.facts.values()}
        trade = self.pick([x for x in TRADES if f"the {x}" not in taken])
        self.set(**{slot: Person(f"the {trade}", "m" if trade.endswith("man") else self.pick("fm"), trade)})

    def pet(self, slot: str = "pet", kinds: tuple[str, ...] = ("dog", "cat", "puppy", "kitten")) -> None:
        """An animal of one of these kinds that has a name."""
        name = self.pick([n for n in PETS if n not in self._names])
        self._names.add(name)
        self.set(**{slot: Person(name, self.pick("fm"), self.pick(kinds))})

    def beasts(self, *slots: str) -> None:
        """Animals of different kinds that talk and have names; `h_kind` and so on hold the kind."""
        for slot, kind in zip(slots, self.rng.sample(ANIMALS, len(slots))):
            gender = self.pick("fm")
            self.set(**{slot: Person(self.name(gender), gender, kind.noun), slot + "_kind": kind})

    def thing(self) -> None:
        """A thing {t} of some colour or size."""
        thing = self.pick(THINGS)
        self.set(t=thing.looking(self.pick(COLOURS if self.chance(0.75) or thing.plural else SIZES)))

    def scene(self) -> None:
        """Season, weather and a place, and what follows from them."""
        season = self.pick(tuple(SEASONS))
        weather = WEATHERS[self.pick(SEASONS[season])]
        place = self.pick(PLACES)
        lively = weather.adjective in ("sunny", "windy")
        spots = self.rng.sample(place.spots, 3)
        self.set(season=season, weather=weather, place=place, spot=spots[0], spot2=spots[1], spot3=spots[2])
        self.set(seen=self.pick(weather.seen), sight=self.pick(place.sights if lively else weather.ground))
        self.set(beast=self.pick(place.animals))

    # ---- beats that many plots share

    def weave(self, *names: str) -> None:
        """Begin none, one or two of the threads of these names."""
        buddy = self.pick(tuple(COMPANIONS))
        noise, treat = COMPANIONS[buddy]
        self.pet("buddy", (buddy,))
        self.set(buddy_a=self.pick(("a big", "an old", "a small", "a young", "a clever", "a fat", "a grey", "a brown")))
        self.set(buddy_noise=noise, treat_for_buddy=treat, song=self.pick(SONGS), saying=self.pick(SAYINGS))
        self.set(garment=f"{self.pick(COLOURS)} {self.pick(GARMENTS)}", dish=self.pick(DISHES))
        for name in self.rng.sample(names, min(self.pick((0, 1, 1, 1, 2, 2)), len(names))):
            self._threads.append(THREADS[name])
            self.say(*THREADS[name].begin)

    def meet(self, *threads: str) -> None:
        """Who the story is about, and which of these threads go with it."""
        self.say(
            "Once upon a time, there was a {trait} {h.child} <named|called> {h} who lived in {home}.",
            "Once upon a time, in {home}, there lived a {trait} {h.child} <named|called> {h}.",
            "In {home} lived a {trait} {h.child} <named|called> {h}.",
            "{h} was a {trait} {h.child} who lived in {home}.",
            "There was once a {trait} {h.child} whose name was {h}. {h.He} lived in {home}.",
            "Long ago, a {h.child} <named|called> {h} lived in {home}.",
            "Once there was a {h.child} <named|called> {h}, and {h.he} was very {trait}.",
            "This is the story of {h}, a {trait} {h.child} from {home}.",
            "Not so long ago, a {trait} {h.child} <named|called> {h} lived in {home}.",
            "Everybody in the village knew {h}, the {trait} {h.child} from the {place_word}.",
            "{h} lived in {home} and was the most {trait} {h.child} far and wide.",
            "If you had come to {home} in those days, you would have met {h}, a {trait} {h.child}.",
            "My grandmother told me of a {h.child} named {h}, who was so {trait} that people still talk about it.",
        )
        self.maybe(
            "{h.He} {does}.",
            "{h.He} {does}, and everybody knew it.",
            "Everybody knew that {h.he} {does}.",
            "It was well known that {h.he} {does}.",
        )
        self.weave(*threads)

    def day(self) -> None:
        """A day begins, and {h} goes to the place."""
        self.say(
            "One {weather.adjective} <morning|day|afternoon> in {season}, {h} <went|walked> to {place.the}.",
            "One {season} <morning|day|afternoon>, {h} was {place.at}, and {seen}.",
            "It was a {weather.adjective} day in {season}, and {h} was {place.at}.",
            "On a {weather.adjective} {season} day, {h} wanted to play {place.at}.",
            "One <morning|day>, {seen}, and {h} <went|ran> to {place.the}.",
            "One day in {season}, {h} had nothing to do and walked to {place.the}. {seen}.",
            "When {h} woke up, {seen}. After breakfast {h.he} set off for {place.the}.",
            "It was <Sunday|Monday|Friday|Saturday>, {seen}, and {h} was {place.at}.",
        )
        self.maybe("{sight}.")

    def home_again(self) -> None:
        """The evening of a day out, under the day's weather."""
        self.set(evening=self.pick(self.facts["weather"].home))
        self.maybe("when {h} came home, {evening}.")

    def good_night(self) -> None:
        """A last sentence that fits any happy end."""
        self.maybe(
            "That night, {h} fell asleep with a smile.",
            "That evening, {h} went to bed tired and happy.",
            "And {h} dreamed of it all night long.",
            "It was the best day that {h} could remember.",
            "Before {h} fell asleep, {h.he} thought of it once more.",
            "{h} told the story again and again, and each time it grew a little longer.",
            "The moon looked in at the window and saw {h} smile in {h.his} sleep.",
            "Many years later, {h} still liked to talk about that day.",
            "And if nobody has told {h} to stop, {h.he} is smiling still.",
        )


def _polish(text: str) -> str:
    text = _A_VOWEL.sub(r"\1n ", text)
    return _START.sub(lambda m: m[0][:-1] + m[1].upper(), text)
