"""Plots out of doors: something lost, a seed, an animal in need, a new neighbour, a full basket."""

from storybook.teller import Tale

FOUND_STATE = {
    "sunny": "a little dusty",
    "rainy": "wet and muddy",
    "windy": "covered with leaves",
    "snowy": "cold and covered with snow",
    "foggy": "damp with dew",
}


def lost_and_found(t: Tale) -> None:
    t.child()
    t.relative()
    t.thing()
    t.scene()
    t.set(mishap=t.pick(t.facts["weather"].mishap), state=FOUND_STATE[t.facts["weather"].adjective])
    t.meet("companion", "dish", "song", "saying")
    t.say(
        "<{h}|{h.He}> had {t.a}, which {h.his} {r.kind} {t.made}.",
        "The best thing that {h.he} owned was {t.a}, which {h.his} {r.kind} {t.made}.",
        "For {h.his} birthday, {h.he} had been given {t.a}, which {h.his} {r.kind} {t.made}.",
    )
    t.say("{h.He} loved to {t.use}.", "{h.He} liked to {t.use}, and never wanted to be without {t.them}.")
    t.part()
    t.day()
    t.say("{h.He} took the {t} along.", "of course, the {t.noun} came along too.", "{h.He} had the {t} in {h.his} bag.")
    t.say(
        "<Suddenly|Then|All at once|All of a sudden>, {mishap}, and when {h.he} looked again, the {t.noun} {t.was} gone.",
        "<Suddenly|But then|All at once>, {mishap}. After that, the {t.noun} {t.was} nowhere to be seen.",
    )
    t.say(
        '"Oh no! Where {t.is_} my {t.noun}?" <cried|called|exclaimed> {h}.',
        '"My {t}!" <cried|called|exclaimed> {h}, and tears came to {h.his} eyes.',
        "{h} felt {h.his} heart grow heavy.",
    )
    t.say(
        "{h.He} looked {spot}, but there was nothing <at all|there>. {h.He} looked {spot2}, but {t.it} {t.was} not there either.",
        "First {h.he} looked {spot}, and then {h.he} looked {spot2}. <There was nothing but a <stone|worm|beetle|broken shoe>|Nothing>.",
        "{h} searched {spot} and {spot2}, but could not find {t.them}.",
    )
    t.part()
    t.pick((_friend_finds, _beast_finds, _passer_by_finds))(t)
    t.say(
        "It was the {t}, {state}, but <whole|not broken>!",
        "There {t.was} the {t}, {state}, but safe.",
    )
    t.say(
        "{h} was so <happy|glad|relieved|full of joy> that {h.he} <jumped up and down|laughed out loud|did not know what to say>.",
        "{h} hugged the {t.noun} and <would not let go|danced around in a circle>.",
    )
    t.part()
    t.home_again()
    t.say(
        "{h.He} told {h.his} {r.kind} everything. {r} <smiled|laughed> and <cleaned|brushed> the {t.noun} until {t.it} looked like new.",
        '"What you love, you must look after," said {r}, and {h} promised to be more careful.',
        "<From that day on|From then on|Since that day>, {h} always <held on to {t.them} tightly|looked twice before going home>.",
    )
    t.good_night()


def _friend_finds(t: Tale) -> None:
    t.friend()
    t.say(
        "<Just then|At that moment|Just at that moment>, {h.his} friend {f} came by.",
        "{f}, who lived next door, heard {h.him} and came running.",
    )
    t.say(
        '"What is the matter?" asked {f}. "I have lost my {t.noun}," said {h}. "I will help you look," said {f}.',
        '"Why do you look so sad?" asked {f}. "My {t.noun} {t.is_} gone," {h} answered. "Then we will look together," said {f}.',
    )
    t.say(
        "The two friends <looked everywhere|searched high and low|looked under every stone>. <At last|Finally|In the end>, {f} saw something {t.look} {spot3}.",
        "{f} had sharp eyes. Soon {f.he} pointed to something {t.look} {spot3}.",
    )


def _beast_finds(t: Tale) -> None:
    t.say(
        "Then a little {beast} came out and looked at {h}. It went a few steps, stopped, and looked back.",
        "Not far away sat a {beast}. It was staring at something {spot3}.",
        "All at once {h} heard a small sound. A {beast} was <poking|pulling> at something {spot3}.",
    )
    t.say(
        "{h} followed it, and there, {spot3}, {h.he} saw something {t.look}.",
        "{h} came closer very quietly, for {h.he} did not want to frighten it. Something {t.look} lay {spot3}.",
    )


def _passer_by_finds(t: Tale) -> None:
    t.trade()
    t.say("{p} came along the path.", "<Then|And then|After that,> {p} walked by with a heavy basket.")
    t.say(
        '"Are you looking for something?" asked {p}. "Yes, for my {t.noun}," said {h}.',
        '"Child, why are you crying?" asked {p}. {h} told {p.him} about the {t}.',
    )
    t.say(
        '"I saw something {t.look} {spot3}," said {p}. {h} ran there as fast as {h.he} could.',
        '{p} thought for a moment. "Have you looked {spot3}?" {p.he} asked. {h} had not, and so {h.he} did.',
    )


SEEDS = (
    # what the seed becomes, what it looks like, what it is good for
    ("a sunflower", "taller than the <fence|door|house>", "its seeds fed the birds all winter"),
    ("a pumpkin", "as big as a <wheel|barrel|sheep>", "there was soup for the whole street"),
    ("a bean plant", "higher than the roof", "there were beans for everybody"),
    ("an apple tree", "full of white flowers", "years later, the children of the village ate its red apples"),
    ("a rose bush", "full of red roses", "everybody who passed by stopped to smell them"),
    ("a strawberry plant", "full of sweet red berries", "there was jam on the bread every morning"),
    ("a melon", "as round as the moon", "on the hottest day it was cut into cool, sweet pieces"),
)


def growing(t: Tale) -> None:
    t.child()
    t.relative()
    t.trade()
    plant, grown, end = t.pick(SEEDS)
    t.set(plant=plant, grown=grown, end=end, noun=plant.split(" ", 1)[1])
    t.set(giver=t.pick((t.facts["r"], t.facts["p"])))
    t.meet("companion", "garment", "dish", "song", "saying")
    t.say(
        "One spring day, {giver} gave {h.him} a <tiny|small|little> brown seed.",
        "In spring, {giver} put a single seed into {h.his} hand.",
    )
    t.say(
        '"What is it?" asked {h}. "Plant it and wait," said {giver}, "and you will see."',
        '"Inside it sleeps {plant}," said {giver}.',
        '"It does not look like much," said {h}. "Nobody does at first," said {giver}.',
    )
    t.say(
        "{h} dug a hole in the <garden|earth beside the door>, laid the seed into it and covered it with earth.",
        "{h} filled a big pot with earth and pushed the seed in with {h.his} thumb.",
    )
    t.say("{h.He} watered it every <morning|evening>.", "Each day, {h.he} gave it a little water.")
    t.part()
    t.say(
        "One week went by, and nothing happened. Two weeks went by, and still there was nothing to be seen.",
        "{h} waited and waited, but the earth stayed brown and bare.",
    )
    t.say(
        '"It is dead," said {h}.',
        '"Perhaps it has forgotten to grow," said {h}.',
        "{h} wanted to dig it up again to see what was wrong.",
    )
    t.say(
        '"Be patient," said {r}. "The roots come first, and roots cannot be seen."',
        '"It is busy under the earth," said {r}. "Give it time."',
    )
    t.say(
        "Then it rained for a whole night, and in the morning the sun shone.",
        "Then came three warm days, one after the other.",
    )
    t.say(
        "And look, a tiny green <leaf|tip> was sticking out of the earth!",
        "And when {h} came out, there stood a small green shoot!",
    )
    t.part()
    t.set(
        care=t.pick(
            (
                "chased away the snails",
                "tied it to a stick so that the wind could not break it",
                "pulled out the weeds around it",
                "put straw around it to keep it warm",
            )
        )
    )
    t.say("{h} {care}, and the plant grew and grew.", "It grew a little every day, and {h} {care}.")
    t.say("By the end of summer, it was {plant}, {grown}.", "At last it had become {plant}, {grown}.")
    t.say(
        "{h} was so proud that {h.he} showed it to everybody.",
        '"All that was in the little seed?" asked {h}. "All that, and your patience too," said {r}.',
    )
    t.say("And {end}.", "{end}.")
    t.say(
        "{h} kept one seed for the next spring.",
        "And one seed {h} gave to a child who had none.",
        "<Since then|Ever since>, {h} has known that good things take time.",
    )


RESCUES = (
    # who is in need, where, how {h} helps, what it eats, how it says thank you
    (
        "a kitten",
        "high up in a tree and could not get down",
        "fetched the long ladder and climbed up",
        "a bowl of milk",
        "purred",
    ),
    ("a little bird", "on the ground with a hurt wing", "carried it home in {h.his} hat", "some seeds", "sang"),
    (
        "a duckling",
        "in a deep hole and could not get out",
        "lay down on {h.his} belly and lifted it out",
        "some bread crumbs",
        "quacked softly",
    ),
    (
        "a lamb",
        "caught in the thorns of a hedge",
        "bent the thorns aside, one after the other",
        "some warm milk",
        "bleated",
    ),
    (
        "a puppy",
        "shivering under a cart, with no collar and no home",
        "wrapped it in {h.his} own coat",
        "a piece of sausage",
        "wagged its tail",
    ),
    (
        "a hedgehog",
        "in a bucket and could not climb out",
        "tipped the bucket over very slowly",
        "a slice of apple",
        "snuffled",
    ),
    (
        "a young fox",
        "with one paw under a fallen branch",
        "pushed the heavy branch away",
        "some berries",
        "licked its paw",
    ),
)


def rescue(t: Tale) -> None:
    t.child()
    t.relative()
    t.scene()
    animal, where, how, food, joy = t.pick(RESCUES)
    t.set(noun=animal.split(" ", 1)[1].split()[-1], where=where, food=food, joy=joy, animal=animal)
    t.set(how=how)
    t.meet("garment", "dish", "saying")
    t.part()
    t.day()
    t.say(
        "On the way, {h.he} heard a weak cry.",
        "<Suddenly|All at once|All of a sudden>, {h} stopped. Something was crying.",
        "All at once, {h.he} heard a thin little voice.",
    )
    t.say("It was {animal}. It was {where}.", "{h} followed the sound and saw {animal}. The poor thing was {where}.")
    t.say('"Do not be afraid, I will help you," {h} said softly.', '"You poor little {noun}," said {h}.')
    t.say(
        "The {noun} trembled, but {h} <spoke to it in a low voice|waited until it was calm>.",
        "At first, the {noun} was afraid of {h}, and so {h.he} <sat very still|moved very slowly>.",
    )
    t.say("<Then|And then|After that,> {h.he} {how}.", "{h} thought for a moment, and then {h.he} {how}.")
    t.part()
    t.say("At home, {r} brought {food}.", "{h} ran home with the {noun}, and {r} brought {food}.")
    t.say("The {noun} ate a little, and then it {joy}.", "The {noun} was very hungry. When it was full, it {joy}.")
    t.say('"May I keep it?" asked {h}.', '"Can it stay with us?" asked {h}.')
    if t.chance(0.5):
        t.say(
            '"Until it is strong again," said {r}. "Then it must choose for itself."',
            '"For some days," said {r}. "It has a home somewhere, just as you do."',
        )
        t.say("{h} cared for it day and night. After <a week|ten days|two weeks>, the {noun} was strong again.")
        t.say(
            "One morning, {h} opened the door. The {noun} looked back once, and then it was gone.",
            "So {h} took it back to where it had come from and let it go. {h.He} was glad and sad at once.",
        )
        t.say(
            "But now and then, in the evening, the {noun} comes to visit.",
            "In spring, it came back, and it had three little ones with it.",
            "And every year, it comes back to the garden to say hello.",
        )
    else:
        t.pet("n", (t.facts["noun"],))
        t.say(
            '"If you look after it, it may stay," said {r}.',
            '{r} looked at the {noun}, and the {noun} looked at {r}. "Very well," said {r}.',
        )
        t.say(
            "{h} called it {n}. {n} slept in a basket beside {h.his} bed.",
            "They gave it the name {n}, and {n} followed {h} everywhere.",
        )
        t.say("{h} fed {n} every morning before school.", "And when {h} was sad, {n} came and lay down beside {h.him}.")
        t.say(
            "So {h} had saved {n}, and {n} had given {h} a friend.",
            "<Since then|Ever since>, the two of them have never been apart.",
        )


NEWCOMERS = (
    # what {f} can do, what the others ask for
    ("juggle with five apples", "asked {f} to show the others how to juggle"),
    ("tell wonderful stories", "asked {f} to tell a story"),
    ("draw horses that seemed to gallop", "asked {f} to draw one for the class"),
    ("run faster than anybody else", "asked {f} to run with them"),
    ("play the harmonica", "asked {f} to play a tune"),
    ("make paper birds that really flew", "asked {f} to fold one more"),
)


def new_friend(t: Tale) -> None:
    t.child()
    t.friend()
    t.relative()
    talent, asked = t.pick(NEWCOMERS)
    t.set(
        talent=talent,
        asked=asked,
        land=t.pick(("the mountains", "an island far away", "a big city", "the other side of the sea", "the north")),
    )
    t.set(game=t.pick(("hide and seek", "catch", "marbles", "skipping rope", "football")))
    t.say(
        "One morning, a new {f.child} came to the school in {h}'s village. {f.His} name was {f}.",
        "<One day|One morning|One afternoon|One fine day>, a {f.child} named {f} moved into the empty house next to {h}'s.",
    )
    t.say(
        "{f} came from {land} and did not know anybody.",
        "{f.He} came from {land}, and everything here was strange to {f.him}.",
    )
    t.say(
        "{f.He} spoke so softly that one could hardly hear {f.him}.",
        "At noon, {f.he} sat alone under a tree and looked at {f.his} shoes.",
    )
    t.say("The other children played {game} and did not <look at|think of> {f.him}.")
    t.part()
    t.say(
        "{h} saw this and thought: how would I feel if I were all alone?",
        "{h} remembered how it feels to be alone.",
        "{h} could not enjoy the game, because {h.he} had to look at {f} again and again.",
    )
    t.say(
        '{h} went over and sat down next to {f.him}. "Would you like half of my apple?" {h.he} asked.',
        '"Do you want to play {game} with us?" asked {h}.',
        '{h} held out {h.his} hand. "I am {h}. Who are you?"',
    )
    t.say(
        "{f} shook {f.his} head and said nothing.",
        "{f} blushed and did not answer.",
        '"Perhaps tomorrow," said {f} very quietly.',
    )
    t.say(
        "But {h} did not go away. {h.He} came back the next day, and the day after that.",
        '"Then tell me about your home," said {h}. And slowly, word by word, {f} began to talk.',
    )
    t.say(
        "And so {h} found out that {f} could {talent}.", "One afternoon, {h} saw what nobody knew: {f} could {talent}."
    )
    t.part()
    t.say('"You must show this to the others!" said {h}.', "{h} called the other children together.")
    t.say("Then everybody {asked}.", "The children stood in a circle and {asked}.")
    t.say(
        "{f} was afraid at first, but {h} nodded to {f.him}, and {f} began.",
        "{f} looked at {h}, took a deep breath and began.",
    )
    t.say(
        "When it was over, everybody clapped, and {f} smiled for the first time.",
        'Everybody was amazed. "Will you teach us?" they asked.',
    )
    t.say(
        "From then on, {f} was never alone at noon.",
        "And when they played {game} again, {f} was in the middle of it.",
        "Since that day, {h} and {f} have been best friends.",
    )
    t.say(
        '"How did you do it?" asked {h.his} {r.kind}. "I only asked {f.him}," said {h}.',
        "And when another new child came, it was {f} who went over first.",
        "Sometimes, all that a friendship needs is half an apple and a little time.",
    )


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def sharing(t: Tale) -> None:
    t.child()
    t.trade("p")
    t.friend()
    t.relative()
    total = 5 + int(t.rng.random() * 8)
    first = 1 + int(t.rng.random() * (total - 3))
    second = 1 + int(t.rng.random() * (total - first - 1))
    left = total - first - second
    t.set(
        total=NUMBERS[total],
        first=NUMBERS[first],
        second=NUMBERS[second],
        middle=NUMBERS[total - first],
        left=NUMBERS[left],
    )
    many, single = t.pick(
        (
            ("apples", "apple"),
            ("plums", "plum"),
            ("pears", "pear"),
            ("cookies", "cookie"),
            ("honey cakes", "honey cake"),
            ("buns", "bun"),
            ("figs", "fig"),
        )
    )
    t.set(
        many=many,
        single=single,
        firsts=many if first > 1 else single,
        seconds=many if second > 1 else single,
        middles=many if total - first > 1 else single,
        lefts=many if left > 1 else single,
    )
    t.set(why=t.pick(("was tired from work", "had not eaten all day", "looked sad", "had lost a purse")))
    t.set(
        it="them" if left > 1 else "it",
        were="were" if left > 1 else "was",
        beast=t.pick(("sparrow", "dog", "goat", "squirrel", "duck")),
    )
    t.meet("companion", "garment", "song", "saying")
    t.say(
        "<One day|One morning|One afternoon|One fine day>, {h} went to the market and bought {total} {many} for {h.his} {r.kind}.",
        "{h.His} {r.kind} sent {h.him} to the market for {many}, and {h} bought {total}.",
    )
    t.say("{h.He} put them into {h.his} basket and walked home.", "The basket was heavy, and the sun was shining.")
    t.part()
    t.say("On the way, {h.he} met {p}, who {why}.", "By the well sat {p}, who {why}.")
    t.say(
        '"Please take something from my basket," said {h}, and gave {p.him} {first} {firsts}.',
        "{h} felt sorry for {p.him} and gave {p.him} {first} {firsts}.",
    )
    t.say(
        "Now there were {middle} {middles} left in the basket."
        if total - first > 1
        else "Now there was one {single} left in the basket."
    )
    t.say("A little later, {h.he} met {f}, who was playing in the road.", "At the corner stood {f}, {h}'s friend.")
    t.say(
        '"How good that smells!" said {f}. And {h} gave {f.him} {second} {seconds}.',
        "{f} looked into the basket with big eyes, and so {h} gave {f.him} {second} {seconds}.",
    )
    t.say(
        "{h} counted: {total} take away {first} is {middle}, and {middle} take away {second} is {left}.",
        "<Then|And then|After that,> {h} looked into the basket, and there {were} only {left} {lefts}.",
    )
    t.part()
    t.say('"What will {r} say?" thought {h}.', "{h} went more and more slowly, for {h.he} was a little afraid.")
    t.say(
        'At home, {r} looked into the basket. "You wanted {total}," said {h}, "but I met so many people."',
        "{h} put the basket on the table and told {r} everything.",
    )
    t.say(
        '{r} laughed. "Then we will cut {it} into small pieces," {r.he} said.',
        '"You did well," said {r}. "A basket that is shared is never empty."',
    )
    t.say(
        "<Just then|At that moment|Just at that moment>, there was a knock at the door. It was {p}, with a big pot of soup to say thank you. And behind {p.him} came {f}, with a loaf of bread.",
        "In the evening, {p} came with a jar of jam, and {f} brought a fresh loaf, because they wanted to say thank you.",
    )
    t.say(
        "So there was a feast, and nobody got up hungry.",
        "They all sat down together, and there was more on the table than {h} had bought.",
        "They ate and laughed until the moon came up.",
    )
    t.good_night()
