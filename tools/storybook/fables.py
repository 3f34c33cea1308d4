"""Plots of talking animals: a race, a store for the winter, sweet words."""

from storybook.teller import Tale


def race(t: Tale) -> None:
    t.beasts("h", "f", "x")
    t.set(
        goal=t.pick(
            ("the old oak", "the bridge", "the top of the hill", "the mill", "the end of the meadow", "the big stone")
        )
    )
    t.set(prize=t.pick(("a basket of cherries", "a golden bell", "a crown of flowers", "a jar of honey")))
    t.say(
        "{h} the {h.kind} was the fastest of all, and {h.he} told everybody so.",
        "There was once a {h.kind} named {h} who could run very fast and never stopped talking about it.",
    )
    t.say('"Nobody can beat me," {h.he} said every morning.', '"You are all snails," {h.he} liked to say.')
    t.say(
        '<One day|One morning|One afternoon|One fine day>, {f} the {f.kind} had enough of it. "Let us run a race to {goal}," said {f}.',
        'Then {f} the {f.kind} said in a calm voice: "I will race with you, as far as {goal}."',
    )
    t.say("{h} laughed until {h.he} had to sit down.", 'Everybody was surprised, and {h} laughed. "You? Against me?"')
    t.say("The winner was to have {prize}.", "They agreed that {prize} should be the prize.")
    t.part()
    t.say('"One, two, three, go!" called {x} the {x.kind}.', "{x} the {x.kind} gave the sign, and off they went.")
    t.say(
        "Soon {h} was so far ahead that {h.he} could not see {f} any more.",
        "{h} shot away like an arrow, and {f} was left behind in the dust.",
    )
    if t.chance(0.5):
        t.say(
            '"I have plenty of time," thought {h}, and lay down under a tree. Before long, {h.he} was fast asleep.',
            "On the way, {h} found {h_kind.food} and stopped to eat. {h.He} ate and ate, until {h.he} could hardly move.",
        )
        t.say(
            "But {f} went on, step by step, and never stopped.",
            "Meanwhile {f} came along, slowly but surely, and passed by without a sound.",
        )
        t.say(
            "When {h} looked up, {f} was almost at {goal}. {h} ran as fast as {h.he} could, but it was too late.",
            "When {h} jumped up at last and came to {goal}, {f} was already sitting there.",
        )
        t.part()
        t.say(
            "{f} was given {prize} and shared it with everybody, even with {h}."
            if "bell" not in t.facts["prize"] and "crown" not in t.facts["prize"]
            else "{f} was given {prize}, and all the animals cheered."
        )
        t.say(
            '"I was fast, but I was foolish," said {h}.',
            '{h} was ashamed and said: "You have won, because you did not stop."',
        )
        t.say(
            "Those who go slowly but never stop come far.",
            "<From that day on|From then on|Since that day>, {h} did not boast any more.",
            "And since then, {h} has never called anybody a snail.",
        )
    else:
        t.set(trouble=t.pick(("had fallen into a ditch", "was caught in the brambles", "had hurt a leg on a stone")))
        t.say(
            "But halfway, {h} stepped into a hole and could not get out.",
            "But then {h} tripped over a root and rolled down into a deep ditch.",
        )
        t.say('"Help!" called {h}. "Who will help me?"', "{h} called and called, but nobody seemed to hear.")
        t.say(
            "{f} came along the path. {f.He} could have gone on and won the race. But {f} stopped, held out a long stick and pulled {h} out.",
            "{f} heard the cry, left the path and pulled {h} out with all {f.his} strength.",
        )
        t.say(
            '"Why did you stop?" asked {h}. "You could have won." {f} said: "What is {prize} against a neighbour?"',
            '"Thank you," said {h} in a small voice. {f} only nodded.',
        )
        t.part()
        t.say(
            "Then the two of them went on together, side by side, and reached {goal} at the same time.",
            "They crossed the line together, {h} on the left and {f} on the right.",
        )
        t.say(
            "So both of them had won, and the prize belonged to both.",
            '{x} did not know who had won, and so {h} said: "It was {f}."',
        )
        t.say(
            "{h} still runs fast, but now {h.he} looks back to see who is behind {h.him}.",
            "And {h} never boasted again, at least not about running.",
        )


def winter_store(t: Tale) -> None:
    t.beasts("h", "f")
    t.set(
        idle=t.pick(
            (
                "sang in the sun",
                "lay in the grass and counted clouds",
                "danced from morning to night",
                "slept under a leaf",
            )
        )
    )
    t.say(
        "{h} the {h.kind} and {f} the {f.kind} were neighbours. {h} lived in {h_kind.home}.",
        "There was once a {h.kind} named {h}, who lived in {h_kind.home}. {h.His} neighbour was {f} the {f.kind}.",
    )
    t.weave("garment", "song", "saying")
    t.say(
        "All summer long, {h} worked. {h.He} gathered {h_kind.food} and stored everything for the winter.",
        "Every day, {h} went out to gather {h_kind.food} and filled {h.his} cupboard.",
    )
    t.say("But {f} {idle}.", "{f}, however, {idle}.")
    t.say(
        '"Come and play!" called {f}. "I cannot," said {h}. "Winter is coming."',
        '"Why do you work so hard?" asked {f}. "Because the summer will not last," said {h}.',
    )
    t.say('"Winter is far away," said {f}, and laughed.', "{f} yawned and turned over to the other side.")
    t.part()
    t.say(
        "Then the leaves turned yellow and fell, and one morning the meadow was white.",
        "But the days grew short, the wind turned cold, and one night it began to snow.",
    )
    t.say(
        "{h} sat in {h_kind.home}, warm and full.",
        "{h} closed the door, lit a small fire and had enough of everything.",
    )
    t.say(
        "{f} found nothing to eat. {f.His} belly growled, and {f.his} feet were as cold as ice.",
        "{f} searched under the snow, but there was nothing, not one single crumb.",
    )
    t.say(
        "<At last|Finally|In the end>, {f} came to {h}'s door and knocked.",
        "One evening, there was a weak knock at {h}'s door. It was {f}.",
    )
    t.say(
        '"You were right, and I was foolish," said {f}. "Could you spare a little?"',
        '"I have nothing to eat," whispered {f}. "I should have listened to you."',
    )
    t.part()
    if t.chance(0.6):
        t.say(
            '{h} looked at {f}, who was shaking with cold. "Come in," said {h}. "There is enough for two."',
            "{h} thought of all the long hot days. But then {h.he} opened the door wide.",
        )
        t.say(
            "They ate {h_kind.food} together, and in the evenings {f} sang all the songs of the summer.",
            "{f} ate, and when {f.he} was warm again, {f.he} told stories so funny that {h} forgot the snow.",
        )
        t.say(
            '"I did not know how much I had missed songs," said {h}.',
            '"Now I see that stories, too, are something one can store," said {h}.',
        )
        t.say(
            "When spring came, {f} was the first one to go out and work, and {h} learned to sit in the sun now and then.",
            "The next summer, they gathered together in the morning and played together in the afternoon.",
        )
    else:
        t.say(
            '"I will share with you," said {h}, "but you must promise me something."',
            '"You may stay," said {h}. "But next summer you will help me."',
        )
        t.say('"I promise," said {f}.', '"With all my heart," said {f}.')
        t.say(
            "And {f} kept the promise. When summer came again, {f} got up with the sun and worked beside {h}.",
            "In spring, {f} remembered it. Every morning, {f.he} was there before {h}.",
        )
        t.say(
            "And when the snow fell again, there were two full cupboards.",
            "That winter, nobody had to knock at anybody's door because of hunger.",
        )


def flatterer(t: Tale) -> None:
    t.beasts("h", "f", "x")
    t.set(
        treat=t.pick(
            (
                "a big piece of cheese",
                "a whole honey cake",
                "a loaf of sweet bread",
                "a juicy pear",
                "a string of sausages",
            )
        )
    )
    t.set(noun=t.facts["treat"].split()[-1])
    art, praise = t.pick((("sing", "voice"), ("dance", "step"), ("whistle", "tone"), ("recite poems", "tongue")))
    t.set(art=art, praise=praise)
    t.say(
        "{h} the {h.kind} had found {treat} and was carrying it home to {h_kind.home}.",
        "One fine day, a {h.kind} named {h} found {treat}. {h.He} wanted to eat it in peace.",
    )
    t.weave("garment", "song")
    t.say(
        "{f} the {f.kind} smelled it from far away and was very hungry.",
        "But {f} the {f.kind} had seen it too, and {f.his} mouth began to water.",
    )
    t.say(
        '"How can I get it?" thought {f}. {f.He} was too lazy to look for food {f.himself}.',
        "{f} was known to be sly, and soon {f.he} had a plan.",
    )
    t.part()
    t.say(
        '"Good morning, dear {h}," said {f}. "How beautiful you look today!"',
        '"Ah, {h}!" called {f}. "I have never seen such a fine {h.kind}."',
    )
    t.say("{h} was pleased, but held on to the {noun}.", "{h} nodded proudly and said nothing.")
    t.say(
        '"And they say that nobody can {art} as you can," said {f}. "What a {praise} you must have! Will you not show me?"',
        '"If only I could see you {art} once!" said {f}. "I would tell the whole forest about it."',
    )
    t.say(
        "{h} could not resist. {h.He} put the {noun} down and began to {art}.",
        "That was too much for {h}. {h.He} laid the {noun} in the grass, closed {h.his} eyes and began to {art}.",
    )
    t.say(
        "In a moment, {f} had snatched the {noun} and was gone.",
        "{f} did not wait for the end. {f.He} grabbed the {noun} and ran.",
    )
    t.part()
    if t.chance(0.5):
        t.say(
            '{x} the {x.kind} had watched it all. "Sweet words can be expensive," {x.he} said.',
            '"I was a fool," {h} said to {x} the {x.kind}. "Yes," said {x}, "but you will not be one twice."',
        )
        t.say("{h} went home hungry, but a little wiser.", "{h} sighed. There was nothing left but a few crumbs.")
        t.say(
            "<The next day|The next morning|A day later>, {f} came again with sweet words. But this time {h} kept {h.his} food behind {h.his} back and only smiled.",
            "And when somebody praised {h.him} after that, {h} said thank you and held {h.his} dinner tight.",
        )
        t.say("So it is: whoever praises too much wants something.", "And {f} had to look for {f.his} own breakfast.")
    else:
        t.say(
            "But {f} ate so fast that {f.he} had a terrible stomach ache.",
            "But {f} ran so fast that {f.he} did not look where {f.he} was going and fell into a pit, {noun} and all.",
        )
        t.say(
            '"Oh, oh, help me!" {f} cried. {h} heard it, and {x} the {x.kind} heard it too.',
            "{f} lay there and groaned, until {h} and {x} the {x.kind} came by.",
        )
        t.say(
            '"It serves you right," said {x}. But {h} helped {f} all the same and brought {f.him} some water.',
            'They helped {f.him}, for they had kind hearts. "But why did you not simply ask?" said {h}. "I would have given you half."',
        )
        t.say(
            '"Nobody has ever been so good to me," said {f}, and was ashamed.',
            "{f} hung {f.his} head and promised to be honest from now on.",
        )
        t.say(
            "<The next day|The next morning|A day later>, {f} brought {h_kind.food}, and they ate it together.",
            "From then on, {f} asked, and {h} shared, and both had enough.",
        )
