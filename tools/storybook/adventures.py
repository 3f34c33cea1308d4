"""Plots of some danger: an errand far away, a storm, a light in the fog, a dragon, a snowman in the sun."""

from storybook.teller import Tale
from storybook.words import Person

ERRANDS = (
    # what {h} carries, in full, what {r} needs it for, what {r} says
    ("soup", "a pot of hot soup", "who was ill in bed", "The soup is still warm"),
    ("medicine", "a bottle of medicine", "who had a bad cough", "I feel better already"),
    ("letter", "a letter with a red seal", "who had waited for it all year", "It is from my brother across the sea"),
    ("wool", "a bag of wool", "who wanted to knit a blanket before the winter", "Now I shall not be cold"),
    ("lamp oil", "a can of lamp oil", "whose lamp had gone out", "Now I can read again in the evening"),
    ("bread", "a fresh loaf of bread", "who could not walk very far any more", "It smells of home"),
)


CROSSINGS = (
    # what is in the way, what the animal says, what {h} does
    (
        "a river, and the bridge was gone",
        "I will show you where the water is shallow",
        "waded across, with the {load} on {h.his} head",
    ),
    (
        "a dark forest, and the path came to an end",
        "Follow me, I know every tree here",
        "came out on the other side, where the sun was shining",
    ),
    (
        "a high wall, and the gate was locked",
        "There is a hole behind the ivy",
        "crawled through, and pushed the {load} ahead",
    ),
    (
        "a steep hill covered with stones",
        "Go where the grass grows, there the stones hold",
        "climbed to the top without falling once",
    ),
    (
        "a fork in the road, and the signpost had fallen down",
        "The left road goes to the swamp, so take the right one",
        "took the right road and saw smoke rising from a chimney",
    ),
)


def journey(t: Tale) -> None:
    t.child()
    t.relative()
    load, full, who, thanks = t.pick(ERRANDS)
    crossing, advice, done = t.pick(CROSSINGS)
    t.set(load=load, full=full, who=who, thanks=thanks, crossing=crossing, advice=advice)
    t.set(done=done, b=t.pick(("hare", "crow", "goat", "fox", "hedgehog", "frog", "magpie", "old donkey")))
    t.set(
        food=t.pick(("bread", "cheese", "an apple", "a honey cake", "a pear")),
        town=t.pick(("over the hill", "on the other side of the forest", "at the end of the valley", "by the lake")),
    )
    t.meet("garment", "song", "saying")
    t.say("{h.His} {r.kind} lived alone {town}.", "{h.His} {r.kind} had moved to a house {town}.")
    t.say(
        "One morning, {h.he} was to take {full} to {r}, {who}.",
        '<One day|One morning|One afternoon|One fine day>, somebody had to bring {full} to {r}, {who}. "I will go," said {h}.',
    )
    t.say(
        '"Do not lose your way," said the neighbours.',
        "{h} put {food} into {h.his} pocket and set off.",
        "It was a long way, but {h} was not afraid.",
    )
    t.part()
    t.say(
        "By the road sat a {b} that looked thin and tired.",
        "After an hour, {h} met a {b} which was sitting by the road.",
    )
    t.say(
        '"I am so hungry," said the {b}. {h} gave it half of what {h.he} had in {h.his} pocket.',
        '"I have eaten nothing since yesterday," said the {b}. So {h} sat down and shared {h.his} lunch with it.',
    )
    t.say('"I will not forget it," said the {b}.', "The {b} ate every crumb and thanked {h.him}.")
    t.say("{h} went on, until {h.he} came to {crossing}.", "At noon, {h} came to {crossing}.")
    t.say('"What shall I do now?" said {h}.', "{h} did not know how to go on.", "{h} sat down and was close to tears.")
    t.part()
    t.say(
        'Then the {b} stood before {h.him}. "You helped me, now I help you," it said. "{advice}."',
        'But the {b} had followed {h.him}. "{advice}," it said.',
    )
    t.say("{h} did so, and {done}.", "{h} {done}.")
    t.say(
        "In the evening, {h} knocked at {r}'s door.", "When the first star came out, {h} saw the light in {r}'s window."
    )
    t.say(
        '"{thanks}!" said {r}. "And you have come all this way alone?"',
        '{r} kissed {h} on both cheeks. "{thanks}," {r.he} said. "But were you not afraid, all alone?"',
    )
    t.say('"I was not alone," said {h}, and told {r.him} about the {b}.', '"I had a friend on the way," said {h}.')
    t.say(
        "A little kindness finds its way back.",
        "What one gives away on the road is not lost.",
        "And before {h} went to sleep, {h.he} put a plate outside the door, for the {b}.",
    )


def storm(t: Tale) -> None:
    t.child()
    t.relative()
    t.trade()
    t.set(animal=t.pick(("an old dog", "a donkey", "three hens", "a small goat", "a grey cat", "two lambs")))
    t.set(them="them" if t.facts["animal"].startswith(("three", "two")) else "it")
    t.set(
        they="they" if t.facts["them"] == "them" else "it",
        were="were" if t.facts["them"] == "them" else "was",
        noun=t.facts["animal"].split()[-1],
    )
    t.meet("dish", "song", "saying")
    t.say(
        "One evening in autumn, black clouds came over the hills.",
        "One evening, the sky turned dark green, and the birds fell silent.",
    )
    t.say('"A storm is coming," said {r}. "Close the shutters!"', "{r} looked at the sky and brought in the washing.")
    t.say(
        "Then it began. The thunder rolled, and rain beat against the windows.",
        "Soon the wind was howling, and lightning lit up the whole room.",
    )
    t.say("The lamp flickered and went out.", "With a bang, the door flew open, and the candle went out.")
    t.say(
        '{h} moved closer to {r}. "Will the roof hold?" {h.he} asked. "It has held for a hundred years," said {r}.',
        '"Are you afraid?" asked {r}. "Only a little," said {h}.',
    )
    t.part()
    t.say(
        "Between two claps of thunder, {h} heard a cry. Somebody was out there!",
        '<Suddenly|All at once|All of a sudden>, {h} sat up. "I can hear something outside," {h.he} said.',
    )
    t.say(
        "{h} and {r} put on their coats and took the lantern. By the gate stood {animal}, wet and trembling.",
        "They opened the door a little. There {were} {animal}, wet to the bone.",
    )
    t.say(
        '"Come in, come in!" <cried|called|exclaimed> {h}.',
        '"Poor things! Quickly, to the stove," said {h}.'
        if t.facts["they"] == "they"
        else '"You poor thing! Quickly, to the stove," said {h}.',
    )
    t.say(
        "They rubbed {them} dry with an old blanket and put some straw by the stove.",
        "{h} fetched a towel, and {r} warmed some milk.",
    )
    t.say(
        "Outside it thundered, but inside it was warm, and {h} told {them} stories until {they} fell asleep.",
        "{h} was so busy that {h.he} forgot to be afraid.",
    )
    t.part()
    t.say(
        "<In the morning|The next morning>, the sky was clear, and the world was washed clean.",
        "When {h} woke up, the storm was over. The sun was shining on broken branches.",
    )
    t.say(
        'There was a knock. Outside stood {p}, who had searched all night. "Have you seen my {noun}?" {p.he} asked.',
        '<Then|And then|After that,> {p} came down the road, pale and tired. "My {noun} ran away in the storm," {p.he} said.',
    )
    t.say(
        "{h} opened the kitchen door, and {p} <laughed|cried> for joy.",
        '"Look by the stove," said {h}, and {p} could not believe {p.his} eyes.',
    )
    t.say(
        "{p} mended the broken roof to thank them.",
        "As a thank you, {p} brought {h.him} a basket of pears.",
        "{p} shook {h}'s hand as if {h.he} were a grown-up.",
    )
    t.say(
        "Now, when it thunders, {h} thinks of that night and is not afraid.",
        "A storm is only weather, but a warm stove is a home.",
        "{h} was a little sorry that the storm was over.",
    )


def fog_light(t: Tale) -> None:
    t.child()
    t.relative()
    t.set(
        boat=t.pick(("Seagull", "Northern Star", "Old Turtle", "Blue Dolphin", "Morning Song")),
        other=t.pick(("mother", "father", "uncle", "aunt", "brother")),
    )
    he = {"mother": "she", "aunt": "she"}.get(t.facts["other"], "he")
    t.set(o=he)
    t.set(
        trouble=t.pick(
            (
                "the keeper had fallen from the stairs and hurt his leg",
                "the keeper lay in bed with a fever",
                "the keeper had gone to town and could not come back in the fog",
            )
        )
    )
    sound, made = t.pick((("bell", "rang"), ("horn", "blew"), ("drum", "beat")))
    t.set(sound=sound, made=made)
    t.say(
        "{h} lived by the sea, near an old lighthouse. {h.His} {other} had a fishing boat, the {boat}.",
        "In a village by the sea lived a {h.child} named {h}. {h.His} {other} went out to fish every day in a boat that was called the {boat}.",
    )
    t.say(
        "Each evening, {h} stood on the pier and waited for the boat.",
        "{h} knew every rock on the coast and every light on the water.",
    )
    t.weave("companion", "garment", "song", "saying")
    t.say(
        "One evening, the fog came in from the sea. It was so thick that one could not see one's own hand.",
        "One evening, thick grey fog rolled over the water, and soon the harbour was gone.",
    )
    t.say("The {boat} was still out there.", "All the boats had come back, but not the {boat}.")
    t.say('"Why is the lighthouse dark?" asked {h}.', "{h} looked up at the lighthouse, but there was no light.")
    t.part()
    t.say("{h} ran to the tower and found out that {trouble}.", "It was dark because {trouble}.")
    t.say(
        '"Then I must do it," said {h}.',
        "There was no time to lose.",
        '"Somebody must light the lamp," said {h}, and there was nobody else.',
    )
    t.say(
        "{h.He} climbed the stairs, round and round, a hundred steps and more. At the top, {h.he} lit the big lamp.",
        "With shaking knees, {h.he} climbed up the dark stairs. The first match went out, and the second, but the third one burned, and the lamp was lit.",
    )
    t.say(
        "But the fog swallowed the light. So {h} {made} the big {sound}, again and again.",
        "The light alone was not enough. Then {h} remembered the big {sound} and {made} it as loudly as {h.he} could.",
    )
    t.say("{h.His} arms were tired, but {h.he} did not stop.", "An hour went by, and then another.")
    t.part()
    t.say(
        '<At last|Finally|In the end>, a faint call came over the water. "I hear you!"',
        "Then, far out, a small light appeared and came closer and closer.",
    )
    t.say(
        "It was the {boat}. {h.His} {other} jumped onto the pier and held {h.him} tight.",
        "Slowly the {boat} came out of the fog. {h} ran down all the stairs and into {h.his} {other}'s arms.",
    )
    t.say(
        '"I could not see anything," {o} said. "But I heard the {sound} and steered towards it."',
        '"Who made the light and the sound?" {o} asked. "It was me," said {h}.',
    )
    t.say(
        "The keeper thanked {h} and gave {h.him} a key to the tower.",
        "<The next day|The next morning|A day later>, the whole village talked about the brave {h.child} in the tower.",
    )
    t.say(
        "And whenever there is fog, {h} climbs the stairs and helps.",
        "{h} has never been afraid of fog since then, for {h.he} knows that a small light goes a long way.",
        "When {h} grew up, {h.he} became the keeper of the lighthouse.",
    )


DRAGONS = (
    # the trouble, its name, the advice, what comes of it
    (
        "had the hiccups, and with every hiccup a flame shot out",
        "hiccups",
        "drink a whole lake without taking a breath",
        "the hiccups were gone",
    ),
    (
        "had a cold and sneezed sparks over the roofs",
        "cold",
        "drink forty pots of tea with honey",
        "the sneezing stopped",
    ),
    (
        "roared all night, so that nobody could sleep",
        "roaring",
        "let me pull out the splinter that is stuck in your tooth",
        "the pain was gone, and so was the roaring",
    ),
    (
        "ate all the apples from the trees",
        "hunger",
        "plant your own orchard, and I will show you how",
        "there were apples enough for everybody",
    ),
    (
        "wept so much that the river rose",
        "weeping",
        "come and live near us, because you are lonely",
        "the tears dried up",
    ),
)


def dragon(t: Tale) -> None:
    t.child()
    t.trade("p")
    does, noun, advice, solved = t.pick(DRAGONS)
    gender = t.pick("fm")
    t.set(d=Person(t.name(gender), gender, "dragon"))
    t.set(
        does=does, noun=noun, advice=advice, solved=solved, colour=t.pick(("green", "red", "blue", "silver", "purple"))
    )
    t.set(
        job=t.pick(
            (
                "lights the stoves in winter",
                "carries the children to school on rainy days",
                "warms the water for the bath house",
                "dries the washing with one warm breath",
                "melts the snow on the roads",
            )
        )
    )
    t.say(
        "On a mountain near {home} lived a {colour} dragon, and the people were afraid of it.",
        "Once upon a time, a {colour} dragon came to live on the mountain above a small village.",
    )
    t.say("The dragon {does}.", "Every day there was trouble, because the dragon {does}.")
    t.say(
        '"Somebody must do something," said {p}, but nobody wanted to go.',
        "The people met in the square and argued, but nobody had an idea.",
    )
    t.say(
        '"I will go and ask it what is wrong," said {h}, a <small|young> {h.child} with <freckles|big boots|a big hat>.',
        'Then a {h.child} named {h} stood up. "Has anybody asked the dragon?" {h.he} said.',
    )
    t.say(
        "Everybody shook their heads, but {h} packed some bread and went.",
        '"It will eat you!" they cried. But {h} had already left.',
    )
    t.part()
    t.say(
        "The way was steep, and it smelled of smoke. In front of a cave lay the dragon.",
        "At the top of the mountain, {h} saw two big yellow eyes in a dark cave.",
    )
    t.say(
        '"Are you not afraid of me?" asked the dragon. "A little," said {h}. "What is your name?"',
        '{h}\'s heart beat fast, but {h.he} bowed and said: "Good day. My name is {h}."',
    )
    t.say(
        'The dragon was surprised. "I am {d}," {d.he} said. "Nobody has ever asked me."',
        '"I am {d}," said the dragon in a low voice. "You are the first who has come to talk."',
    )
    t.say(
        '"Why is there so much trouble with you?" asked {h}. "I cannot help it," said {d}, and told {h.him} about the {noun}.',
        '{d} sighed. "I do not want to frighten anybody. It is only the {noun}," {d.he} said.',
    )
    t.say(
        '{h} thought about it. "You could {advice}," {h.he} said.',
        '"I know what will help," said {h}. "{advice}."',
    )
    t.say("They tried it together, and {solved}.", "{d} did it, and truly, {solved}.")
    t.part()
    t.say(
        "{h} rode back to the village on {d}'s back.",
        "<The next day|The next morning|A day later>, {h} came down from the mountain, and behind {h.him} walked {d}.",
    )
    t.say(
        "At first, everybody ran into their houses. But when they saw {h} laugh, they came out again.",
        '"This is {d}," said {h}. "{d.He} wants to say sorry."',
    )
    t.say("Now {d} {job}, and nobody would do without {d.him}.", "Since that day, {d} {job}.")
    t.say(
        "It helps to ask before one is afraid.",
        "And {h} and {d} are the best of friends.",
        "And {p} says that it was all {p.his} own idea.",
    )


def snowman(t: Tale) -> None:
    t.child()
    t.friend()
    t.relative()
    t.set(
        nose=t.pick(("a carrot", "a red potato", "a pine cone", "a turnip")),
        hat=t.pick(("an old pot", "a straw hat", "a bucket", "a green cap")),
    )
    t.set(
        s=t.pick(("Mister Frost", "Sir Icicle", "Captain Snow", "Old Whitebeard", "Professor Flake")),
        what=t.pick(("talked to him", "told him a secret", "read him a story", "wished him a good night")),
    )
    t.meet("garment", "song", "dish")
    t.say(
        "One winter morning, the whole world was white. {h} called {f}, and they built a snowman.",
        "When the first snow fell, {h} and {h.his} friend {f} built a snowman behind the house.",
    )
    t.say(
        "He had {nose} for a nose and wore {hat} on his head.",
        "They gave him {nose} for a nose, two pieces of coal for eyes and {hat} for his head.",
    )
    t.say("They called him {s}.", '"His name shall be {s}," said {f}.')
    t.say("Every evening, {h} went out and {what}.", "Each day before dinner, {h} {what}. {s} was a good listener.")
    t.part()
    t.say(
        "Then the days grew longer, and the sun grew warmer.",
        "But one morning, there was a mild wind, and water was dripping from the roof.",
    )
    t.say(
        "{s} became thinner and thinner. First he lost his nose, and then his hat slid over his eyes.",
        "Day after day, {s} became a little smaller. At last his hat sat on a little heap of snow.",
    )
    t.say(
        '"Can we not stop the sun?" asked {h}.', "{h} tried to hold up an umbrella against the sun, but it was no use."
    )
    t.say(
        "<One day|One morning|One afternoon|One fine day>, there was only a puddle, and his hat was lying in it.",
        "And then he was gone. In the wet grass lay his hat.",
    )
    t.say("{h} wept, and {f} did not know what to say.", "{h} did not want to eat anything that day.")
    t.part()
    t.say(
        '"He has not gone forever," said {r}. "Come, I will show you."',
        '{r} took {h.him} by the hand. "Do you know where the water goes?" {r.he} asked.',
    )
    t.say(
        '"The puddle runs into the brook, and the brook runs into the river, and the river runs into the sea. The sun lifts it up into a cloud, and when it is cold, the cloud lets it fall as snow."',
        '"The water seeps down to the roots and helps the flowers to grow. What is left goes up into the clouds, and in winter it comes back as snow."',
    )
    t.say(
        '"<Then|And then|After that,> {s} will come again?" asked {h}. "Next winter," said {r}.',
        '"So he is only travelling," said {h}, and dried {h.his} tears.',
    )
    t.say(
        "In summer, whenever a white cloud sailed by, {h} waved to it.",
        "That summer, {h} waved to every cloud, just in case.",
    )
    t.say(
        "And when the first snow fell again, {h} and {f} were ready, with {hat} and {nose}.",
        'And in December, big white flakes fell from the sky. "Welcome home, {s}," said {h}.',
    )
