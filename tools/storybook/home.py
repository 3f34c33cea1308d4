"""Plots at home: a cake, something broken, a noise in the night.

A plot draws its cast and its facts first and only then speaks, so that what is lost is what is found.
"""

from storybook.teller import Tale
from storybook.words import GOOD_TRAITS

BAKES = (
    # the cake, what it is named for, what is missing, what is there
    ("an apple cake", "apples", "eggs", ("flour", "butter")),
    ("a plum pie", "plums", "butter", ("flour", "sugar")),
    ("a honey bread", "honey", "flour", ("milk", "salt")),
    ("a nut cake", "nuts", "sugar", ("flour", "eggs")),
    ("a cherry tart", "cherries", "milk", ("flour", "butter")),
    ("a carrot cake", "carrots", "eggs", ("flour", "nuts")),
    ("a pumpkin pie", "a fat pumpkin", "cream", ("flour", "sugar")),
)


def baking(t: Tale) -> None:
    t.child()
    t.relative()
    t.trade()
    t.friend()
    cake, fruit, missing, others = t.pick(BAKES)
    t.set(cake=cake, noun=cake.split(" ", 1)[1], fruit=fruit, missing=missing, others=" and ".join(others))
    t.set(
        why=t.pick(
            (
                "It was {f}'s birthday",
                "Guests were coming in the evening",
                "It was a cold day, and everybody was hungry",
                "{r} had been ill and needed something good",
            )
        )
    )
    t.meet("companion", "song", "saying")
    t.say("{why}, and so {h} wanted to bake {cake}.", '{why}. "I will bake {cake}," said {h}.')
    t.say("{h.He} took {fruit}, {others} and put everything on the table.", "On the table lay {fruit}, {others}.")
    t.say(
        "But when {h.he} looked for {missing}, the shelf was empty.",
        "Only the {missing} <could not be found|could be found nowhere>.",
    )
    t.say(
        '"Without {missing} I cannot bake {cake}," said {h}.',
        '"What now? It will not work without {missing}," {h} thought.',
    )
    t.part()
    t.say("So {h} ran across the street to {p}.", "{h} put on {h.his} shoes and ran to {p}.")
    t.say(
        '"Could you give me some {missing}, please?" {h.he} asked.',
        '"Please, do you have some {missing}?" {h.he} asked.',
    )
    favour = t.pick(
        (
            ("carry in some wood", "carried in the wood"),
            ("sweep the yard", "swept the yard"),
            ("feed my hens", "fed the hens"),
            ("fetch some water from the well", "fetched the water"),
            ("find my glasses", "found the glasses on {p.his} own nose"),
        )
    )
    t.set(do=favour[0], did=favour[1])
    t.say('"Gladly," said {p}, "if you help me to {do}."', '"I have plenty," said {p}. "But first, will you {do}?"')
    t.say(
        "{h} {did}, and {p} gave {h.him} the {missing}.", "So {h} {did}. Then {p} filled {h.his} basket with {missing}."
    )
    t.part()
    t.say(
        "At home, {h} mixed everything in the big bowl and put it into the oven.",
        "{h} hurried home, stirred the dough with a wooden spoon and put it into the hot oven.",
    )
    t.say(
        "Soon a wonderful smell filled the <house|kitchen>.",
        "{h} sat in front of the oven and <watched the dough rise|counted the minutes>.",
    )
    t.say(
        "At last the {noun} was <golden and warm|brown and sweet>.",
        "One side was a little burnt, but the {noun} was <golden and warm|brown and sweet>.",
    )
    t.say("{h} cut it into <six|eight|ten|twelve> pieces.", "Everybody sat down at the table.")
    t.say(
        'The first piece was for {p}, "because without you there would be no {noun}," said {h}.',
        "{h} invited {f} and {p}, and {r} came too.",
        "{h} took a big piece to {p}, who had helped.",
    )
    t.say(
        '"This is the best {noun} in the world," said {r}.',
        "{f} ate three pieces and could not move any more.",
        '"What is the secret?" asked {f}. "A neighbour," said {h}, and laughed.',
    )
    t.good_night()


BREAKAGES = (
    # what breaks, its noun, what {h} is doing, what happens
    (
        "a blue vase",
        "vase",
        "{h} was playing with a ball in the house",
        "the vase fell from the shelf and broke into pieces",
    ),
    (
        "a big window",
        "window",
        "{h} threw a stone to see how far it would fly",
        "the stone hit the window, and the glass broke",
    ),
    (
        "a clock",
        "clock",
        "{h} wanted to see what was inside",
        "a little wheel jumped out, and the clock stopped ticking",
    ),
    ("a teapot", "teapot", "{h} was dancing around the kitchen", "the teapot slid from the table and lost its handle"),
    ("a music box", "music box", "{h} was chasing a fly through the room", "the music box fell down and lost its lid"),
    ("a flower pot", "flower pot", "{h} was climbing over the wall", "the flower pot tumbled down and broke in two"),
)


def broken(t: Tale) -> None:
    t.child(traits={k: v for k, v in GOOD_TRAITS.items() if k not in ("honest", "careful")})
    t.pet(kinds=("cat", "dog"))
    t.relative()
    a, noun, doing, breaks = t.pick(BREAKAGES)
    t.set(a=a, noun=noun, doing=doing, breaks=breaks)
    t.meet("dish", "song")
    t.say(
        "In the house of {h.his} {r.kind} there was {a}, which {r} liked very much.",
        "{h.His} {r.kind} had {a} and was very fond of it.",
    )
    t.say(
        "<One day|One morning|One afternoon|One fine day>, {doing}. Then came a crash: {breaks}.",
        "One rainy afternoon, {doing}, and then it happened: {breaks}.",
    )
    t.say("{h} stood there and did not dare to breathe.", "For a moment, it was very quiet. {h} felt hot and cold.")
    t.say(
        "Quickly, {h.he} hid the <pieces|traces> and ran to {h.his} room.",
        '"Nobody has seen it," thought {h}, and crept away.',
    )
    t.part()
    t.say(
        'In the evening, {r} saw the {noun}. "Who did this?" asked {r}. "Perhaps it was {pet} the {pet.kind}," said {h}.',
        '"What has happened to my {noun}?" asked {r}. "I think that {pet} the {pet.kind} did it," said {h}.',
    )
    t.say("So {pet} had to stay outside that night.", "{pet} was given no supper and looked at {h} with big eyes.")
    t.say(
        "{h} lay in bed and could not sleep. {h.He} heard {pet} <crying|scratching> at the door.",
        "At supper, {h} could not eat a bite. There was a lump in {h.his} throat.",
    )
    t.say("The lie grew heavier and heavier, like a stone.", "It was not {pet}'s fault, and {h} knew it.")
    t.part()
    t.say(
        '<At last|Finally|In the end>, {h.he} got up and went to {r}. "It was not {pet}," {h.he} said. "It was me."',
        'Then {h} ran to {r}. "I broke it, and I told a lie," {h.he} said, and began to cry.',
    )
    t.say("{r} was silent for a while.", "{r} looked at {h.him} <for a long time|for a while>.")
    t.say(
        'Then {r.he} said: "I am sad about the {noun}. But I am glad that you told me the truth."',
        '"A {noun} can be mended," {r.he} said at last. "A lie is much harder to mend. You have done it."',
    )
    t.say(
        "{h} opened the door, hugged {pet} and said sorry to {pet.him} too.",
        "First, {pet} was let in, and {h} gave {pet.him} the best piece from {h.his} own plate.",
    )
    t.say(
        "<The next day|The next morning|A day later>, {r} and {h} mended the {noun} together. One could still see where it had been broken, but {r} said that {r.he} liked it even better so.",
        "Then they sat down together and mended the {noun}, and it took them the whole <day|Sunday>.",
        "To make up for it, {h} helped {r} in the garden for a whole week.",
    )
    t.say(
        "And {h} slept well that night.",
        "And the stone on {h.his} heart was gone.",
        "Ever since, {h} has told the truth, even when it was hard.",
    )


NOISES = (
    # what is heard, what it might be, what it is
    (
        "a scratching at the window",
        "a giant with long fingers",
        "the branch of the old tree, which was moving in the wind",
    ),
    (
        "a soft knocking under the bed",
        "a monster with three heads",
        "{pet} the {pet.kind}, who was hitting the floor with {pet.his} tail",
    ),
    ("a long, deep humming", "a bear in the cellar", "{r}, who was snoring in the next room"),
    ("a rustling in the corner", "a snake", "a little mouse, which was eating a crumb of cake"),
    ("a cry from the garden", "a ghost", "an owl, which was sitting on the fence in the moonlight"),
    ("a tapping on the roof", "a witch with iron shoes", "the rain, which was falling on the tiles"),
    ("a splashing in the bathroom", "a sea serpent", "the old tap, which was dripping into the tub"),
    ("a clinking in the kitchen", "a robber", "{r}, who was looking for the last piece of cake"),
    ("a fluttering at the ceiling", "a vampire", "a moth, which was dancing around in the dark"),
    ("a creaking on the stairs", "a thief", "{r}, who was bringing a glass of warm milk"),
)


def night_fear(t: Tale) -> None:
    t.child()
    t.relative()
    t.pet()
    noise, fear, truth = t.pick(NOISES)
    t.set(noise=noise, fear=fear, truth=truth, noun=fear.split()[1])
    t.meet("dish", "song")
    t.say(
        "But there was one thing that {h.he} did not like, and that was the dark.",
        "Only at night, {h.he} was sometimes afraid."
        if t.facts["trait"] != "brave"
        else "{h.He} had never been afraid, until one night.",
    )
    t.say(
        "One night, {h.he} woke up, because there was {noise}.",
        "One night, when everybody was asleep, {h} heard something. It was {noise}.",
    )
    t.say('"What is that?" whispered {h}.', "{h.His} heart beat fast.", "{h} pulled the blanket over {h.his} head.")
    t.say(
        '"It must be {fear}," thought {h}.',
        "In {h.his} mind {h} saw {fear}.",
        '"What if it is {fear}?" {h.he} thought.',
    )
    t.say(
        "There it was again, and this time it was louder.",
        "{h} held {h.his} breath, and there it was again.",
        "{h.He} lay as still as a stone and listened.",
    )
    t.part()
    t.say(
        "<At last|Finally|In the end>, {h} could not bear it any longer. {h.He} lit the little lamp and got up.",
        '"I want to know," {h} said to {h.himself}, and put one foot on the cold floor, and then the other.',
        "{h} took {h.his} lamp in one hand and all {h.his} courage in the other.",
    )
    t.say(
        "Slowly, step by step, {h.he} went towards the sound.",
        "{h.His} knees were shaking, but {h.he} did not turn back.",
    )
    t.say(
        "{h.He} lifted the lamp. And what did {h.he} see? It was {truth}!",
        "The light fell on it, and {h} saw that it was only {truth}.",
    )
    t.say(
        "There was no {noun} at all. {h} began to laugh.",
        '"You are no {noun}!" said {h}, and laughed until {h.his} belly hurt.',
        "And {h.he} had thought of {fear}! {h} had to laugh.",
    )
    t.part()
    t.say(
        "<In the morning|The next morning>, {h} told {r} about it.",
        "<The next day|The next morning|A day later>, {h} told the whole story at breakfast.",
    )
    t.say(
        '"The dark makes small things big," said {r}. "But a lamp makes them small again."',
        '"You were afraid, and you went to look," said {r}. "That is what being brave means."',
        '"Most monsters are like that when one comes close," said {r}.',
    )
    t.say(
        "Since that night, {h} is not afraid of the dark any more.",
        "And the next night, when there was {noise}, {h} only smiled and went on sleeping.",
        "After that, {h} slept well, with the little lamp beside the bed.",
    )
