"""Plots of fairy tales: a secret helper, a foolish wish, a ruler who lacks something."""

from storybook.teller import Tale
from storybook.words import BAD_TRAITS, Person


CHORES = (
    # what is found done, what {s} is seen doing, the reward
    ("the floor was swept", "sweeping the floor", "a tiny broom"),
    ("the dishes were washed", "drying the last cup", "a little apron"),
    ("the wood was stacked by the stove", "carrying a stick of wood", "a small pair of gloves"),
    ("the torn shirts were mended", "threading a needle", "a silver thimble"),
    ("the shoes were polished", "polishing a boot with {s.his} own sleeve", "a soft red cloth"),
    ("the garden was weeded", "pulling up a weed", "a straw hat"),
)


def secret_helper(t: Tale) -> None:
    t.trade("p")
    t.child()
    t.beasts("s")
    t.set(s=Person("the " + t.facts["s"].kind, t.facts["s"].gender, t.facts["s"].kind))
    chore, doing, present = t.pick(CHORES)
    t.set(chore=chore, doing=doing, present=present)
    t.set(
        why=t.pick(
            (
                "Last winter you put out food for me",
                "You once pulled a thorn out of my foot",
                "You let me live under your house",
                "You gave me shelter when it rained",
            )
        )
    )
    t.say(
        "{h} lived with {p} in {home}, and the two had a lot of work.",
        "In {home}, {p} had a young helper, a {h.child} named {h}.",
        "Once upon a time, there was a {h.child} named {h}, who worked for {p}.",
    )
    t.say(
        "In the evening they were so tired that they left everything as it was.",
        "One night, they were too tired to finish their work.",
    )
    t.say("But in the morning, {chore}.", "But when they got up the next day, {chore}.")
    t.say(
        '"Was it you?" asked {p}. "No," said {h}. "I thought that it was you."',
        '"How kind of you," said {h}. "But it was not me," said {p}.',
    )
    t.say("The next night, it was the same, and the night after that.", "So it went on for a whole week.")
    t.part()
    t.say('"I want to know who it is," said {h}.', "{h} could not stop thinking about it.")
    t.say(
        "That night, {h.he} hid behind the curtain and pinched {h.his} arm so as not to fall asleep.",
        "So {h.he} crept under the table and waited, with one eye open.",
    )
    t.say(
        "The clock struck <eleven|twelve>. A board creaked.", "At midnight, the moon shone in, and something rustled."
    )
    t.say(
        "And there, in the moonlight, {h} saw {s}, who was {doing}!",
        "{h} held {h.his} breath. It was {s}! {s.He} was {doing}.",
    )
    t.say(
        '"Why do you do this for us?" {h} asked softly.',
        '"Do not run away," whispered {h}. "I only want to thank you."',
    )
    t.say(
        '{s} was startled, but then {s.he} said: "{why}. I do not forget such things."',
        '"{why}," said {s}. "Now it is my turn."',
    )
    t.part()
    t.say(
        "<In the morning|The next morning>, {h} told {p} about it.",
        "{p} could hardly believe it when {h} told {p.him}.",
    )
    t.say('"Then we must give something back," said {p}.', '"Whoever works should have a reward," said {p}.')
    t.say(
        "They made {present} and set it down by the door, together with {s_kind.food}.",
        "They put {s_kind.food} on a plate, and beside it they laid {present}.",
    )
    t.say(
        "In the night, they heard somebody laugh for joy.",
        "The next morning, the plate was empty, and the present was gone.",
    )
    t.say(
        "<After that|From then on>, {s} came every Sunday and sat with them at the table.",
        "And since that day, there have been three in the house instead of two.",
        "One good deed had come home, and another had gone out.",
    )


WISHES = (
    # the wish, what comes of it, how {h} feels about it, what {h} wants instead
    (
        "that everything {h.he} touched should turn into cake",
        "{h.His} bed turned into cake, and so did {h.his} shoes and the front door",
        "{h.he} could not stand the sight of cake any more",
        "a piece of plain bread",
    ),
    (
        "that it should never be night again",
        "The sun stayed in the sky, and nobody could sleep, neither the hens nor the people",
        "everybody was tired and cross",
        "a dark night full of stars",
    ),
    (
        "that {h.he} should be as tall as a tree",
        "{h.He} grew until {h.his} head was in the clouds, and {h.he} did not fit into {h.his} house any more",
        "{h.he} was lonely up there",
        "a seat at the small kitchen table",
    ),
    (
        "that all animals could talk",
        "The hens complained, the flies told jokes, and the cow talked all night",
        "{h.he} longed for a quiet hour",
        "a cat that only purred",
    ),
    (
        "that {h.he} should never have to go to school again",
        "The days were long, and all the other children were in school and had no time",
        "{h.he} was bored from morning to night",
        "a seat beside {h.his} friends",
    ),
    (
        "that it should be winter all year round",
        "The snow did not melt, no apple grew, and the swallows stayed away",
        "{h.he} could not remember what a flower smelled like",
        "one warm ray of sun",
    ),
    (
        "that everything {h.he} owned should be of gold",
        "{h.His} pillow was hard, {h.his} soup was hard, and even {h.his} old teddy bear was cold and hard",
        "{h.he} was hungry and could not sleep",
        "a soft pillow",
    ),
)


WISH_GIVERS = (
    # who, where it is stuck, how {h} frees it
    ("a silver fish", "in a net", "set it free"),
    ("a tiny fairy", "in a spider's web", "cut the web open"),
    ("an old frog", "in a dry well", "lifted it out with a bucket"),
    ("a golden beetle", "on its back", "turned it over with a straw"),
    ("a little star", "in a thorn bush, where it had fallen down", "threw it back up into the sky"),
)


def foolish_wish(t: Tale) -> None:
    t.child(traits=BAD_TRAITS)
    giver, stuck, freed = t.pick(WISH_GIVERS)
    wish, result, regret, longed = t.pick(WISHES)
    t.set(giver=giver, noun=giver.split()[-1], stuck=stuck, freed=freed)
    t.set(wish=wish, result=result, regret=regret, longed=longed)
    t.meet("garment", "song")
    t.say(
        "<One day|One morning|One afternoon|One fine day>, {h.he} found {giver} {stuck}.",
        "One morning, {h.he} heard a small voice. It came from {giver} {stuck}.",
    )
    t.say(
        '"Help me, and I will grant you one wish," said the {noun}. So {h.he} {freed}.',
        '{h} {freed}. "For that you have one wish," said the {noun}.',
    )
    t.say(
        '"But think well before you speak," the {noun} said.',
        '"Take your time," said the {noun}. "A wish is quickly made."',
    )
    t.say("But {h} did not think for long. {h.He} wished {wish}.", "{h} did not listen. At once {h.he} wished {wish}.")
    t.say('"So be it," said the {noun}.', "The {noun} sighed, and there was a flash of light.")
    t.part()
    t.say(
        "At first, it was wonderful.",
        "{h} laughed and clapped {h.his} hands.",
        "For one day, {h} was the happiest {h.child} in the world.",
    )
    t.say("But then the trouble began. {result}.", "{result}.")
    t.say("After <three days|a week|ten days>, {regret}.", "It did not take long until {regret}.")
    t.say(
        '"What have I done?" said {h}.',
        '"I never thought of that," said {h}, and began to cry.',
        '"Oh, if only I had thought before I spoke!" <cried|called|exclaimed> {h}.',
    )
    t.say("All {h.he} wanted now was {longed}.", "How {h.he} longed for {longed}!")
    t.part()
    t.say(
        "So {h} went back to where {h.he} had met the {noun} and called for it.",
        "{h} looked for the {noun} for a whole day, until at last it appeared.",
    )
    t.say(
        '"Please, take my wish back," {h.he} begged. "I will never ask for such a thing again."',
        '"Please," said {h}, "make everything as it was before."',
    )
    t.say(
        '"What have you learned?" asked the {noun}. "That I had enough all the time," said {h}.',
        'The {noun} smiled. "Most people ask me for that in the end," it said.',
    )
    t.say(
        "There was a flash of light, and everything was as it had been.", "In the wink of an eye, the magic was gone."
    )
    t.say(
        "That evening, {h} had {longed}, and nothing had ever been so good.",
        "And when {h} came home, there it was waiting for {h.him}: {longed}.",
    )
    t.say(
        "<After that|From then on>, {h} thought first and wished afterwards.",
        "{h} never wished for too much again.",
        "Be careful with wishes, for they may come true.",
    )


def sad_ruler(t: Tale) -> None:
    t.trade("p")
    t.trade("q")
    t.child()
    ruler = t.pick(("king", "queen"))
    t.set(k=Person("the " + ruler, "m" if ruler == "king" else "f", ruler))
    lack, promise, first, second, cure, effect = t.pick(
        (
            (
                "could not sleep",
                "sleep",
                "brought a bed of the softest feathers",
                "played on a harp of gold",
                "told {k} a story, very slowly, in which a hundred sheep walked over a bridge, one after the other",
                "At the thirtieth sheep, {k} yawned, and at the fortieth {k.he} was asleep",
            ),
            (
                "could not laugh",
                "laugh",
                "wore a hat with forty bells",
                "told jokes for three days",
                "wanted to bow, stepped on {h.his} own coat and landed in the pudding",
                "It was quiet for a moment. Then {k} began to laugh and could not stop",
            ),
            (
                "was never hungry",
                "eat",
                "cooked a dish with a hundred spices",
                "baked a cake as high as a tower",
                "took {k} to the fields to dig up potatoes all day, and baked them in the fire",
                "{k} ate seven potatoes and said that {k.he} had never tasted anything so good",
            ),
            (
                "was always cold",
                "be warm",
                "brought a coat of seven furs",
                "lit a fire in every room",
                "took {k} by the hand and danced through the whole castle",
                "Soon {k} had red cheeks and threw off the heavy coat",
            ),
            (
                "was always sad",
                "be glad",
                "brought a chest full of jewels",
                "let a parrot sing a song",
                "asked {k} to help a lost little lamb find its mother",
                "When the lamb found its mother, {k} smiled for the first time",
            ),
        )
    )
    t.set(lack=lack, promise=promise, first=first, second=second, cure=cure, effect=effect)
    t.set(reward=t.pick(("a bag of gold", "a white horse", "a house with a garden", "a silver chain")))
    t.say(
        "Once upon a time, there was a {k.kind} who {lack}.",
        "Long ago, in a castle on a hill, lived a {k.kind} who {lack}.",
        "In a land far away, there ruled a {k.kind} who {lack}.",
    )
    t.say(
        '"Whoever helps me to {promise} shall have {reward}," said {k}.',
        "{k} promised {reward} to anybody who could help {k.him} to {promise}.",
    )
    t.say("From everywhere, clever people came to the castle.", "Many came and tried their luck.")
    t.say("{p} {first}, but it did not help.", "First came {p}, who {first}. It was all in vain.")
    t.say("{q} {second}, but it did not help either.", "Then came {q}, who {second}. But {k} only sighed.")
    t.part()
    t.say(
        "<One day|One morning|One afternoon|One fine day>, a {h.child} named {h} stood at the gate. {h.He} had come on foot and had nothing but a piece of bread.",
        "At last came {h}, a {h.child} from a small village, with holes in {h.his} shoes.",
    )
    t.say(
        '"What can you do that all the others could not?" asked the guard. "I do not know yet," said {h}.',
        'The guards laughed, but {k} said: "Let {h.him} try."',
    )
    t.say(
        '{h} looked at {k} for a while. "Have you ever tried something simple?" {h.he} asked.',
        '"May I see how you live?" asked {h}. {k} showed {h.him} everything, and {h} thought about it.',
    )
    t.say("<Then|And then|After that,> {h} {cure}.", "And what did {h} do? {h.He} {cure}.")
    t.say("{effect}.", "{effect}, and everybody in the castle was amazed.")
    t.part()
    t.say('"You shall have {reward}," said {k}.', "{k} gave {h} {reward}, as {k.he} had promised.")
    t.say(
        '"May I come back tomorrow?" asked {h}. "I hope that you will," said {k}.',
        '"And stay for dinner," said {k}, "for you are good company."',
        "But what {h} liked even more was that {k} became {h.his} friend.",
    )
    t.say(
        "{h} went home with {reward} and told everybody that rulers are people too.",
        "So it was neither gold nor cleverness that helped, but a little time and a warm heart.",
        "And from then on, {k} sent for {h} every Sunday.",
    )
