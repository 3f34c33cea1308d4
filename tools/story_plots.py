"""Plots of everyday life: a child, a wish or a trouble, what was done about it, how it ended.

Each plot draws its cast and its facts first and only then speaks, so that what is lost is what is found.
"""

from story_teller import Tale

FOUND_STATE = {
    "sunny": "a little dusty", "rainy": "wet and muddy", "windy": "covered with leaves",
    "snowy": "cold and covered with snow", "foggy": "damp with dew",
}  # fmt: skip


def lost_and_found(t: Tale) -> None:
    t.child()
    t.relative()
    t.thing()
    t.scene()
    t.set(mishap=t.pick(t.facts["weather"].mishap), state=FOUND_STATE[t.facts["weather"].adjective])
    t.meet()
    t.say(
        "<{h}|{h.He}> had {t.a}, which {h.his} {r.kind} {t.made}.",
        "The best thing that {h} owned was {t.a}. {h.His} {r.kind} {t.made} {t.them}." if "bought" not in t.facts["t"].made
        else "The best thing that {h} owned was {t.a}, a present from {h.his} {r.kind}.",
        "For {h.his} birthday, {h.he} had been given {t.a}, which {h.his} {r.kind} {t.made}.",
    )
    t.say("{h.He} loved to {t.use}.", "{h.He} liked to {t.use}, and never wanted to be without {t.them}.")
    t.part()
    t.day()
    t.say("{h.He} took the {t} along.", "of course, the {t.noun} came along too.", "{h.He} had the {t} in {h.his} bag.")
    t.say(
        "<Suddenly|Then>, {mishap}, and when {h.he} looked again, the {t.noun} {t.was} gone.",
        "<Suddenly|But then>, {mishap}. After that, the {t.noun} {t.was} nowhere to be seen.",
    )
    t.say(
        '"Oh no! Where {t.is_} my {t.noun}?" cried {h}.',
        '"My {t}!" cried {h}, and tears came to {h.his} eyes.',
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
        "{h} was so <happy|glad> that {h.he} <jumped up and down|laughed out loud|did not know what to say>.",
        "{h} hugged the {t.noun} and <would not let go|danced around in a circle>.",
    )
    t.part()
    t.home_again()
    t.say(
        "{h.He} told {h.his} {r.kind} everything. {r} <smiled|laughed> and <cleaned|brushed> the {t.noun} until {t.it} looked like new.",
        "\"What you love, you must look after,\" said {r}, and {h} promised to be more careful.",
        "From that day on, {h} always <held on to {t.them} tightly|looked twice before going home>.",
    )
    t.good_night()


def _friend_finds(t: Tale) -> None:
    t.friend()
    t.say("Just then, {h.his} friend {f} came by.", "{f}, who lived next door, heard {h.him} and came running.")
    t.say(
        '"What is the matter?" asked {f}. "I have lost my {t.noun}," said {h}. "I will help you look," said {f}.',
        '"Why do you look so sad?" asked {f}. "My {t.noun} {t.is_} gone," {h} answered. "Then we will look together," said {f}.',
    )
    t.say(
        "The two friends looked everywhere. At last, {f} saw something {t.look} {spot3}.",
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
    t.say("{p} came along the path.", "Then {p} walked by with a heavy basket.")
    t.say(
        '"Are you looking for something?" asked {p}. "Yes, for my {t.noun}," said {h}.',
        '"Child, why are you crying?" asked {p}. {h} told {p.him} about the {t}.',
    )
    t.say(
        '"I saw something {t.look} {spot3}," said {p}. {h} ran there as fast as {h.he} could.',
        '{p} thought for a moment. "Have you looked {spot3}?" asked {p.he}. {h} had not, and so {h.he} did.',
    )


SKILLS = (
    # to do, who fails how, the advice, doing it right, who is shown
    ("whistle", "only air came out", "make your lips small and round, and blow softly", "a clear, high note rang out", "The birds whistled back"),
    ("swim", "{h.he} swallowed water and coughed", "Lie on the water as if it were your bed", "the water carried {h.him}", "Even the ducks seemed surprised"),
    ("skate", "{h.he} fell down again and again", "Bend your knees and look ahead, not down", "{h.he} was gliding over the ice like a bird", "{h.His} cheeks were red with joy"),
    ("ride a bicycle", "{h.he} wobbled and tumbled into a bush", "Keep your eyes on the road and do not stop pedalling", "the wheels ran straight, all the way down the lane", "The wind blew through {h.his} hair"),
    ("play the fiddle", "it sounded like an angry cat", "Hold the bow as gently as you would hold a chick", "a sweet little tune filled the room", "Even the cat came to listen"),
    ("tie a knot", "the string came apart every time", "The end goes around the tree and back into its hole", "the knot held, however hard {h.he} pulled", "{h.He} tied up everything in the house"),
    ("read", "the letters danced before {h.his} eyes", "Take one letter by the hand, and then the next", "the letters turned into words, and the words into a story", "{h.He} read until the candle went out"),
    ("bake bread", "it came out as hard as a stone", "Dough needs warmth and time, just as you do", "the bread rose, golden and soft", "The whole house smelled of it"),
    ("climb a tree", "{h.he} slid down and scraped {h.his} knees", "Move one hand or one foot, and never both", "{h.he} was sitting on the highest branch", "From there {h.he} could see the whole village"),
    ("dance", "{h.he} stepped on everybody's toes", "Do not count the steps, but listen to the drum", "{h.his} feet knew by themselves where to go", "Everybody clapped their hands"),
)  # fmt: skip


def wish_for_a_skill(t: Tale) -> None:
    t.child()
    t.relative()
    t.friend()
    skill, fails, advice, works, after = t.pick(SKILLS)
    t.set(skill=skill, days=t.pick(("three days", "a week", "two weeks", "a whole month", "five days")))
    t.set(fails=fails, advice=advice, works=works, after=after)
    t.meet()
    t.say(
        "More than anything, {h.he} wanted to learn to {skill}.",
        "{h} had one great wish: {h.he} wanted to {skill}.",
        "All {h.his} friends could {skill}, but {h.he} could not.",
    )
    t.say("{h.His} friend {f} could do it <already|very well>.", "{f}, {h.his} best friend, had learned it last year.")
    t.part()
    t.say("One day, {h} tried for the first time, but {fails}.", "One <morning|afternoon>, {h} tried it alone. It did not go well: {fails}.")
    t.say(
        "{h.He} tried a second time, and a third time, but it was no use.",
        "{h.He} tried once more, and it was even worse.",
    )
    t.say(
        '"I will never learn to {skill}," said {h}, and sat down on the ground.',
        '"It is too hard for me," {h} said sadly.',
        '"Why can everybody do it but me?" asked {h}, and {h.his} voice shook.',
    )
    t.set(teacher=t.pick((t.facts["r"], t.facts["f"])))
    t.say(
        "{teacher} had seen it all and sat down beside {h.him}.",
        "{teacher} heard this and put a hand on {h.his} shoulder.",
    )
    t.say(
        '"I could not do it at first either," said {teacher}. "{advice}."',
        '"Let me tell you a secret," said {teacher}. "{advice}."',
        '"Nobody is born with it," said {teacher}. "{advice}."',
    )
    t.part()
    t.say(
        "{h} did as {teacher} had said and practised every day for {days}.",
        "So {h.he} practised. {h.He} practised in the morning and in the evening, for {days}.",
    )
    t.say("Every day it went a little better.", "Some days were good and some were bad, but {h.he} did not give up.")
    t.say("And then, one day, {works}.", "After {days}, all at once, {works}.")
    t.say('"I can do it! I can {skill}!" shouted {h}.', '"Look at me!" cried {h}.', '"Did you see that?" cried {h}.')
    t.say("{after}.")
    t.say(
        "{teacher} <smiled|laughed> and said: \"You see? You only had to keep trying.\"",
        "{teacher} was very proud of {h.him}.",
        "Now, when somebody says that it is too hard, {h} says: \"{advice}.\"",
    )
    t.good_night()


QUARRELS = (
    ("build a raft", "{h} wanted a sail, and {f} wanted oars", "a raft with a sail and two oars", "it floated all the way across the pond"),
    ("paint a big picture", "{h} wanted to paint the sea, and {f} wanted to paint the mountains", "a picture of mountains beside the sea", "it was hung up in the school"),
    ("build a tree house", "{h} wanted a round window, and {f} wanted a rope ladder", "a tree house with a round window and a rope ladder", "there was room in it for everybody"),
    ("put on a play", "{h} wanted a play about pirates, and {f} wanted one about a queen", "a play about a pirate queen", "the whole village came to see it"),
    ("bake a cake", "{h} wanted apples in it, and {f} wanted nuts", "a cake with apples and nuts", "not one crumb was left"),
    ("make a song", "{h} wanted it to be loud and fast, and {f} wanted it to be soft and slow", "a song that began softly and ended loudly", "everybody in the street sang along"),
    ("plant a garden", "{h} wanted flowers, and {f} wanted beans", "a garden with flowers between the beans", "the bees and the cooks were happy with it"),
    ("build a snowman", "{h} wanted it to look like a king, and {f} wanted it to look like a bear", "a bear of snow with a crown on its head", "people came from far away to look at it"),
)  # fmt: skip


def quarrel(t: Tale) -> None:
    t.child()
    t.friend()
    plan, disagree, both, praise = t.pick(QUARRELS)
    t.set(plan=plan, disagree=disagree, both=both, praise=praise, days=t.pick(("Two", "Three", "Four")))
    t.say(
        "{h} and {f} were best friends. They lived in {home} and did everything together.",
        "In {home} lived two friends, {h} and {f}. Nobody ever saw one without the other.",
        "Once upon a time, there were two friends who were called {h} and {f}.",
    )
    t.say("One day, they decided to {plan}.", "One <morning|afternoon>, they made up their minds to {plan}.")
    t.say("But {disagree}.", "It began well, but soon there was trouble: {disagree}.")
    t.say(
        '"My idea is better!" shouted {h}. "No, mine is better!" shouted {f}.',
        '"You never listen to me," said {h}. "And you always want to decide," said {f}.',
        '"Then do it without me!" cried {h}. "I will!" cried {f}.',
    )
    t.say("They turned their backs on each other and went home.", "{h} ran home, and {f} ran home too, and both slammed the door.")
    t.part()
    t.say(
        "{days} days passed. {h} tried to {plan} alone, but it was no fun, and nobody was there to laugh with {h.him}.",
        "{h} tried to begin alone. But alone, everything was twice as hard and half as much fun.",
    )
    t.say("{f} sat at the window and was lonely too.", "{f} tried it as well, but without {h} nothing went right.")
    t.relative()
    t.say(
        '"Why are you so quiet?" asked {r}. {h} told {r.him} about the quarrel.',
        "{h.His} {r.kind} saw that {h} was unhappy and asked why. {h} told {r.him} everything.",
    )
    t.say(
        '"Two ideas are not too many," said {r}. "Perhaps they fit together."',
        '"Is it more important to be right or to have a friend?" asked {r}. {h} thought about that for a long time.',
        '"The one who says sorry first is the brave one," said {r}.',
    )
    t.part()
    t.say(
        "The next morning, {h} went to {f}'s house. {f} was just coming out of the door to look for {h}.",
        "So {h} put on {h.his} shoes and went to see {f}. They met in the middle of the road, for {f} was on the way to {h}.",
    )
    t.say(
        '"I am sorry that I shouted," said {h}. "I am sorry too," said {f}.',
        '"I was wrong not to listen," said {h}. "So was I," said {f}.',
    )
    t.say('Then {h} had an idea. "Why not both?" {h.he} asked.', '"What if we do both?" asked {f}, and {h} began to laugh.')
    t.say("Together they made {both}, and {praise}.", "In the end it was {both}, and {praise}.")
    t.say(
        "They still quarrel now and then, but never for long.",
        "Since that day, they have always listened to each other first.",
        "It was better than anything that one of them could have made alone.",
    )


GIFTS = (
    ("a scarf", "red wool", "knit", "the wool ran out before the end", "{f} gave {h.him} some blue wool, and so the scarf became red and blue", "It will keep me warm all winter"),
    ("a bird house", "old boards", "build", "there were not enough nails", "{f} found some nails in an old box", "Now I will hear birds every morning"),
    ("a necklace", "shells from the beach", "make", "the string broke and the shells rolled under the bed", "{f} crawled under the bed and found every shell", "It sounds like the sea"),
    ("a picture", "paint and paper", "paint", "a drop of blue paint fell right into the middle", "{f} turned the drop into a blue bird", "The blue bird is the best part of it"),
    ("a cushion", "bits of cloth", "sew", "a hole was left that no piece would fit", "{f} cut a piece in the shape of a heart out of an old shirt", "I will think of you whenever I sit down"),
    ("a candle", "wax from the beehive", "make", "the candle came out crooked", "{f} tied a ribbon around it so that it stood straight", "It will give light on dark evenings"),
    ("a walking stick", "an ash branch", "carve", "the knife slipped and left a deep cut", "{f} showed {h.him} how to carve the cut into a leaf", "With this I can walk up the hill again"),
    ("a crown", "paper and gold paint", "make", "the rain came in and made the paper soft", "{f} strengthened it with thin willow twigs", "Today I feel like a king in a story"),
)  # fmt: skip


def gift(t: Tale) -> None:
    t.child()
    t.friend()
    t.relative()
    present, stuff, make, trouble, mended, thanks = t.pick(GIFTS)
    if t.facts["r"].gender == "f":
        thanks = thanks.replace("a king", "a queen")
    t.set(present=present, stuff=stuff, make=make, trouble=trouble, mended=mended, thanks=thanks)
    t.set(noun=present.split(" ", 1)[1], when=t.pick(("in three days", "tomorrow", "on Sunday", "in a week")))
    t.meet()
    t.say("{h.His} {r.kind}'s birthday was {when}, but {h.he} had no money for a present.", "{h.He} wanted to give {h.his} {r.kind} something for {r.his} birthday, but {h.his} pockets were empty.")
    t.say(
        "{h} looked around the house and found {stuff}. That gave {h.him} an idea.",
        "Then {h.he} opened the <old chest|drawer|cupboard> and saw {stuff}.",
    )
    t.say('"I will {make} {present}," {h.he} <said|thought>.', "{h.He} decided to {make} {present}.")
    t.part()
    t.say("{h} worked <until it was dark|the whole afternoon|in secret, behind the closed door>.", "{h} began at once and worked very carefully.")
    t.say("But then {trouble}.", "Everything went well until {trouble}.")
    t.say('"What a pity!" cried {h}.', "{h} could have cried.", '"What shall I do now?" sighed {h}.')
    t.say("{h.His} friend {f} came to see what the matter was.", "Luckily, {h.his} friend {f} was there.")
    t.say("{mended}.", '"Do not worry," said {f}. And {mended}.')
    t.say("Now it was even <better|more beautiful> than before.", "Nobody could see that anything had gone wrong.")
    t.part()
    t.say("On the birthday, {h} gave the {noun} to {h.his} {r.kind}.", "The birthday came, and {h} held out the {noun} with both hands.")
    t.say("{r} <looked at it for a long time|turned it around and around|had tears in {r.his} eyes>.", "{r} did not say anything at first.")
    t.say('Then {r.he} said: "{thanks}. You made it yourself, and that is why I love it."', '"{thanks}," {r.he} said, and hugged {h}.')
    t.say(
        "{h} was happier than if it had been {h.his} own birthday.",
        "That was worth more than anything that money can buy.",
        "\"{f} helped me,\" said {h}, and so {f} was given the biggest piece of cake.",
    )
    t.good_night()


BAKES = (
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
    t.set(why=t.pick(("It was {f}'s birthday", "Guests were coming in the evening", "It was a cold day, and everybody was hungry", "{r} had been ill and needed something good")))
    t.meet()
    t.say("{why}, and so {h} wanted to bake {cake}.", "{why}. \"I will bake {cake},\" said {h}.")
    t.say("{h.He} took {fruit}, {others} and put everything on the table.", "On the table lay {fruit}, {others}.")
    t.say("But when {h.he} looked for {missing}, the shelf was empty.", "Only the {missing} <could not be found|could be found nowhere>.")
    t.say('"Without {missing} I cannot bake {cake}," said {h}.', '"What now? It will not work without {missing}," {h} thought.')
    t.part()
    t.say("So {h} ran across the street to {p}.", "{h} put on {h.his} shoes and ran to {p}.")
    t.say('"Could you give me some {missing}, please?" {h.he} asked.', '"Please, do you have some {missing}?" {h.he} asked.')
    favour = t.pick((("carry in some wood", "carried in the wood"), ("sweep the yard", "swept the yard"), ("feed my hens", "fed the hens"), ("fetch some water from the well", "fetched the water"), ("find my glasses", "found the glasses on {p.his} own nose")))  # fmt: skip
    t.set(do=favour[0], did=favour[1])
    t.say('"Gladly," said {p}, "if you help me to {do}."', '"I have plenty," said {p}. "But first, will you {do}?"')
    t.say("{h} {did}, and {p} gave {h.him} the {missing}.", "So {h} {did}. Then {p} filled {h.his} basket with {missing}.")
    t.part()
    t.say("At home, {h} mixed everything in the big bowl and put it into the oven.", "{h} hurried home, stirred the dough with a wooden spoon and put it into the hot oven.")
    t.say("Soon a wonderful smell filled the <house|kitchen>.", "{h} sat in front of the oven and <watched the dough rise|counted the minutes>.")
    t.say("At last the {noun} was <golden and warm|brown and sweet>.", "One side was a little burnt, but the {noun} was <golden and warm|brown and sweet>.")
    t.say("{h} cut it into <six|eight|ten|twelve> pieces.", "Everybody sat down at the table.")
    t.say('The first piece was for {p}, "because without you there would be no {noun}," said {h}.', "{h} invited {f} and {p}, and {r} came too.", "{h} took a big piece to {p}, who had helped.")
    t.say('"This is the best {noun} in the world," said {r}.', "{f} ate three pieces and could not move any more.", '"What is the secret?" asked {f}. "A neighbour," said {h}, and laughed.')
    t.good_night()


SEEDS = (
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
    t.meet()
    t.say("One spring day, {giver} gave {h.him} a <tiny|small|little> brown seed.", "In spring, {giver} put a single seed into {h.his} hand.")
    t.say('"What is it?" asked {h}. "Plant it and wait," said {giver}, "and you will see."', '"Inside it sleeps {plant}," said {giver}.', '"It does not look like much," said {h}. "Nobody does at first," said {giver}.')
    t.say("{h} dug a hole in the <garden|earth beside the door>, laid the seed into it and covered it with earth.", "{h} filled a big pot with earth and pushed the seed in with {h.his} thumb.")
    t.say("{h.He} watered it every <morning|evening>.", "Each day, {h.he} gave it a little water.")
    t.part()
    t.say("One week went by, and nothing happened. Two weeks went by, and still there was nothing to be seen.", "{h} waited and waited, but the earth stayed brown and bare.")
    t.say('"It is dead," said {h}.', '"Perhaps it has forgotten to grow," said {h}.', "{h} wanted to dig it up again to see what was wrong.")
    t.say('"Be patient," said {r}. "The roots come first, and roots cannot be seen."', '"It is busy under the earth," said {r}. "Give it time."')
    t.say("Then it rained for a whole night, and in the morning the sun shone.", "Then came three warm days, one after the other.")
    t.say("And look, a tiny green <leaf|tip> was sticking out of the earth!", "and when {h} came out, there stood a small green shoot!")
    t.part()
    t.set(care=t.pick(("chased away the snails", "tied it to a stick so that the wind could not break it", "pulled out the weeds around it", "put straw around it to keep it warm")))
    t.say("{h} {care}, and the plant grew and grew.", "It grew a little every day, and {h} {care}.")
    t.say("By the end of summer, it was {plant}, {grown}.", "At last it had become {plant}, {grown}.")
    t.say("{h} was so proud that {h.he} showed it to everybody.", '"All that was in the little seed?" asked {h}. "All that, and your patience too," said {r}.')
    t.say("And {end}.", "{end}.")
    t.say("{h} kept one seed for the next spring.", "and one seed {h} gave to a child who had none.", "Since then, {h} knows that good things take time.")


NOISES = (
    ("a scratching at the window", "a giant with long fingers", "the branch of the old tree, which was moving in the wind"),
    ("a soft knocking under the bed", "a monster with three heads", "{pet} the {pet.kind}, who was hitting the floor with {pet.his} tail"),
    ("a long, deep humming", "a bear in the cellar", "{r}, who was snoring in the next room"),
    ("a rustling in the corner", "a snake", "a little mouse, which was eating a crumb of cake"),
    ("a cry from the garden", "a ghost", "an owl, which was sitting on the fence in the moonlight"),
    ("a tapping on the roof", "a witch with iron shoes", "the rain, which was falling on the tiles"),
    ("a creaking on the stairs", "a thief", "{r}, who was bringing a glass of warm milk"),
)


def night_fear(t: Tale) -> None:
    t.child()
    t.relative()
    t.pet()
    noise, fear, truth = t.pick(NOISES)
    t.set(noise=noise, fear=fear, truth=truth, noun=fear.split()[1])
    t.meet()
    t.say("But there was one thing that {h.he} did not like, and that was the dark.", "Only at night, {h.he} was sometimes afraid." if t.facts["trait"] != "brave" else "{h.He} had never been afraid, until one night.")
    t.say("One night, {h.he} woke up, because there was {noise}.", "One night, when everybody was asleep, {h} heard something. It was {noise}.")
    t.say('"What is that?" whispered {h}.', "{h.His} heart beat fast.", "{h} pulled the blanket over {h.his} head.")
    t.say('"It must be {fear}," thought {h}.', "In {h.his} mind {h} saw {fear}.", '"What if it is {fear}?" {h.he} thought.')
    t.say("There it was again, and this time it was louder.", "{h} held {h.his} breath, and there it was again.", "{h.He} lay as still as a stone and listened.")
    t.part()
    t.say("At last, {h} could not bear it any longer. {h.He} lit the little lamp and got up.", '"I want to know," {h} said to {h.himself}, and put one foot on the cold floor, and then the other.', "{h} took {h.his} lamp in one hand and all {h.his} courage in the other.")
    t.say("Slowly, step by step, {h.he} went towards the sound.", "{h.His} knees were shaking, but {h.he} did not turn back.")
    t.say("{h.He} lifted the lamp. And what did {h.he} see? It was {truth}!", "The light fell on it, and {h} saw that it was only {truth}.")
    t.say("There was no {noun} at all. {h} began to laugh.", '"You are no {noun}!" said {h}, and laughed until {h.his} belly hurt.', "and {h.he} had thought of {fear}! {h} had to laugh.")
    t.part()
    t.say("In the morning, {h} told {r} about it.", "The next day, {h} told the whole story at breakfast.")
    t.say('"The dark makes small things big," said {r}. "But a lamp makes them small again."', '"You were afraid, and you went to look," said {r}. "That is what being brave means."', '"Most monsters are like that when one comes close," said {r}.')
    t.say("Since that night, {h} is not afraid of the dark any more.", "and the next night, when there was {noise}, {h} only smiled and went on sleeping.", "After that, {h} slept well, with the little lamp beside the bed.")


RESCUES = (
    ("a kitten", "high up in a tree and could not get down", "fetched the long ladder and climbed up", "a bowl of milk", "purred"),
    ("a little bird", "on the ground with a hurt wing", "carried it home in {h.his} hat", "some seeds", "sang"),
    ("a duckling", "in a deep hole and could not get out", "lay down on {h.his} belly and lifted it out", "some bread crumbs", "quacked softly"),
    ("a lamb", "caught in the thorns of a hedge", "bent the thorns aside, one after the other", "some warm milk", "bleated"),
    ("a puppy", "shivering under a cart, with no collar and no home", "wrapped it in {h.his} own coat", "a piece of sausage", "wagged its tail"),
    ("a hedgehog", "in a bucket and could not climb out", "tipped the bucket over very slowly", "a slice of apple", "snuffled"),
    ("a young fox", "with one paw under a fallen branch", "pushed the heavy branch away", "some berries", "licked its paw"),
)


def rescue(t: Tale) -> None:
    t.child()
    t.relative()
    t.scene()
    animal, where, how, food, joy = t.pick(RESCUES)
    t.set(noun=animal.split(" ", 1)[1].split()[-1], where=where, food=food, joy=joy, animal=animal)
    t.set(how=how)
    t.meet()
    t.part()
    t.day()
    t.say("On the way, {h.he} heard a weak cry.", "Suddenly, {h} stopped. Something was crying.", "All at once, {h.he} heard a thin little voice.")
    t.say("It was {animal}. It was {where}.", "{h} followed the sound and saw {animal}. The poor thing was {where}.")
    t.say('"Do not be afraid, I will help you," {h} said softly.', '"You poor little {noun}," said {h}.')
    t.say("The {noun} trembled, but {h} <spoke to it in a low voice|waited until it was calm>.", "At first, the {noun} was afraid of {h}, and so {h.he} <sat very still|moved very slowly>.")
    t.say("Then {h.he} {how}.", "{h} thought for a moment, and then {h.he} {how}.")
    t.part()
    t.say("At home, {r} brought {food}.", "{h} ran home with the {noun}, and {r} brought {food}.")
    t.say("The {noun} ate a little, and then it {joy}.", "The {noun} was very hungry. When it was full, it {joy}.")
    t.say('"May I keep it?" asked {h}.', '"Can it stay with us?" asked {h}.')
    if t.chance(0.5):
        t.say('"Until it is strong again," said {r}. "Then it must choose for itself."', '"For some days," said {r}. "It has a home somewhere, just as you do."')
        t.say("{h} cared for it day and night. After <a week|ten days|two weeks>, the {noun} was strong again.")
        t.say("One morning, {h} opened the door. The {noun} looked back once, and then it was gone.", "So {h} took it back to where it had come from and let it go. {h.He} was glad and sad at once.")
        t.say("But now and then, in the evening, the {noun} comes to visit.", "In spring, it came back, and it had three little ones with it.", "and every year, it comes back to the garden to say hello.")
    else:
        t.pet("n", (t.facts["noun"],))
        t.say('"If you look after it, it may stay," said {r}.', '{r} looked at the {noun}, and the {noun} looked at {r}. "Very well," said {r}.')
        t.say("{h} called it {n}. {n} slept in a basket beside {h.his} bed.", 'They gave it the name {n}, and {n} followed {h} everywhere.')
        t.say("{h} fed {n} every morning before school.", "and when {h} was sad, {n} came and lay down beside {h.him}.")
        t.say("So {h} had saved {n}, and {n} had given {h} a friend.", "Since then, the two of them have never been apart.")


NEWCOMERS = (
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
    t.set(talent=talent, asked=asked, land=t.pick(("the mountains", "an island far away", "a big city", "the other side of the sea", "the north")))
    t.set(game=t.pick(("hide and seek", "catch", "marbles", "skipping rope", "football")))
    t.say("One morning, a new {f.child} came to the school in {h}'s village. {f.His} name was {f}.", "One day, a {f.child} named {f} moved into the empty house next to {h}'s.")
    t.say("{f} came from {land} and did not know anybody.", "{f.He} came from {land}, and everything here was strange to {f.him}.")
    t.say("{f.He} spoke so softly that one could hardly hear {f.him}.", "At noon, {f.he} sat alone under a tree and looked at {f.his} shoes.")
    t.say("The other children played {game} and did not <look at|think of> {f.him}.")
    t.part()
    t.say("{h} saw this and thought: how would I feel if I were all alone?", "{h} remembered how it feels to be alone.", "{h} could not enjoy the game, because {h.he} had to look at {f} again and again.")
    t.say('{h} went over and sat down next to {f.him}. "Would you like half of my apple?" {h.he} asked.', '"Do you want to play {game} with us?" asked {h}.', '{h} held out {h.his} hand. "I am {h}. Who are you?"')
    t.say("{f} shook {f.his} head and said nothing.", "{f} blushed and did not answer.", '"Perhaps tomorrow," said {f} very quietly.')
    t.say("But {h} did not go away. {h.He} came back the next day, and the day after that.", '"Then tell me about {land}," said {h}. And slowly, word by word, {f} began to talk.')
    t.say("And so {h} found out that {f} could {talent}.", "One afternoon, {h} saw what nobody knew: {f} could {talent}.")
    t.part()
    t.say('"You must show this to the others!" said {h}.', "{h} called the other children together.")
    t.say("Then everybody {asked}.", "The children stood in a circle and {asked}.")
    t.say("{f} was afraid at first, but {h} nodded to {f.him}, and {f} began.", "{f} looked at {h}, took a deep breath and began.")
    t.say("When it was over, everybody clapped, and {f} smiled for the first time.", 'Everybody was amazed. "Will you teach us?" they asked.')
    t.say("From then on, {f} was never alone at noon.", "and when they played {game} again, {f} was in the middle of it.", "Since that day, {h} and {f} have been best friends.")
    t.say('"How did you do it?" asked {h.his} {r.kind}. "I only asked {f.him}," said {h}.', "and when another new child came, it was {f} who went over first.", "Sometimes, all that a friendship needs is half an apple and a little time.")


BREAKAGES = (
    ("a blue vase", "vase", "{h} was playing with a ball in the house", "the vase fell from the shelf and broke into pieces"),
    ("a big window", "window", "{h} threw a stone to see how far it would fly", "the stone hit the window, and the glass broke"),
    ("a clock", "clock", "{h} wanted to see what was inside", "a little wheel jumped out, and the clock stopped ticking"),
    ("a teapot", "teapot", "{h} was dancing around the kitchen", "the teapot slid from the table and lost its handle"),
    ("a music box", "music box", "{h} was chasing a fly through the room", "the music box fell down and lost its lid"),
    ("a flower pot", "flower pot", "{h} was climbing over the wall", "the flower pot tumbled down and broke in two"),
)


def broken(t: Tale) -> None:
    t.child()
    t.pet(kinds=("cat", "dog"))
    t.relative()
    a, noun, doing, breaks = t.pick(BREAKAGES)
    t.set(a=a, noun=noun, doing=doing, breaks=breaks)
    t.meet()
    t.say("In the house of {h.his} {r.kind} there was {a}, which {r} liked very much.", "{h.His} {r.kind} had {a} and was very fond of it.")
    t.say("One day, {doing}. Then came a crash: {breaks}.", "One rainy afternoon, {doing}, and then it happened: {breaks}.")
    t.say("{h} stood there and did not dare to breathe.", "for a moment, it was very quiet. {h} felt hot and cold.")
    t.say("Quickly, {h.he} hid the <pieces|traces> and ran to {h.his} room.", '"Nobody has seen it," thought {h}, and crept away.')
    t.part()
    t.say('In the evening, {r} saw the {noun}. "Who did this?" asked {r}. "Perhaps it was {pet} the {pet.kind}," said {h}.', '"What has happened to my {noun}?" asked {r}. "I think that {pet} the {pet.kind} did it," said {h}.')
    t.say("So {pet} had to stay outside that night.", "{pet} was given no supper and looked at {h} with big eyes.")
    t.say("{h} lay in bed and could not sleep. {h.He} heard {pet} <crying|scratching> at the door.", "At supper, {h} could not eat a bite. There was a lump in {h.his} throat.")
    t.say("The lie grew heavier and heavier, like a stone.", "It was not {pet}'s fault, and {h} knew it.")
    t.part()
    t.say('At last, {h.he} got up and went to {r}. "It was not {pet}," {h.he} said. "It was me."', 'Then {h} ran to {r}. "I broke it, and I told a lie," {h.he} said, and began to cry.')
    t.say("{r} was silent for a while.", "{r} looked at {h.him} for a long time.")
    t.say('Then {r.he} said: "I am sad about the {noun}. But I am glad that you told me the truth."', '"A {noun} can be mended," {r.he} said at last. "A lie is much harder to mend. You have done it."')
    t.say("{h} opened the door, hugged {pet} and said sorry to {pet.him} too.", "First, {pet} was let in, and {h} gave {pet.him} the best piece from {h.his} own plate.")
    t.say("The next day, {r} and {h} mended the {noun} together. One could still see where it had been broken, but {r} said that {r.he} liked it even better so.", "Then they sat down together and mended the {noun}, and it took them the whole <day|Sunday>.", "To make up for it, {h} helped {r} in the garden for a whole week.")
    t.say("And {h} slept well that night.", "and the stone on {h.his} heart was gone.", "Ever since, {h} has told the truth, even when it was hard.")
