"""Plots of making and learning: a skill, a plan that two friends quarrel over, a gift."""

from storybook.teller import Tale


SKILLS = (
    # what to learn, how it fails at first, the advice, how it works at last, what comes of it
    (
        "whistle",
        "only air came out",
        "Make your lips small and round, and blow softly",
        "a clear, high note rang out",
        "The birds whistled back",
    ),
    (
        "swim",
        "{h.he} swallowed water and coughed",
        "Lie on the water as if it were your bed",
        "the water carried {h.him}",
        "Even the ducks seemed surprised",
    ),
    (
        "skate",
        "{h.he} fell down again and again",
        "Bend your knees and look ahead, not down",
        "{h.he} was gliding over the ice like a bird",
        "{h.His} cheeks were red with joy",
    ),
    (
        "ride a bicycle",
        "{h.he} wobbled and tumbled into a bush",
        "Keep your eyes on the road and do not stop pedalling",
        "the wheels ran straight, all the way down the lane",
        "The wind blew through {h.his} hair",
    ),
    (
        "play the fiddle",
        "it sounded like an angry cat",
        "Hold the bow as gently as you would hold a chick",
        "a sweet little tune filled the room",
        "Even the cat came to listen",
    ),
    (
        "tie a knot",
        "the string came apart every time",
        "The end goes around the tree and back into its hole",
        "the knot held, however hard {h.he} pulled",
        "{h.He} tied up everything in the house",
    ),
    (
        "read",
        "the letters danced before {h.his} eyes",
        "Take one letter by the hand, and then the next",
        "the letters turned into words, and the words into a story",
        "{h.He} read until the candle went out",
    ),
    (
        "bake bread",
        "it came out as hard as a stone",
        "Dough needs warmth and time, just as you do",
        "the bread rose, golden and soft",
        "The whole house smelled of it",
    ),
    (
        "climb a tree",
        "{h.he} slid down and scraped {h.his} knees",
        "Move one hand or one foot, and never both",
        "{h.he} was sitting on the highest branch",
        "From there {h.he} could see the whole village",
    ),
    (
        "row a boat",
        "the boat went round in circles",
        "Pull with both arms as if they were one",
        "the boat ran straight to the other bank",
        "The oars splashed in the sun",
    ),
    (
        "draw a horse",
        "it looked like a sack with four legs",
        "Look longer than you draw",
        "the horse on the paper looked as if it might gallop away",
        "It was hung up over the fireplace",
    ),
    (
        "milk a goat",
        "the goat kicked over the bucket",
        "Sing to her, and keep your hands warm",
        "the bucket was full to the brim",
        "The goat looked quite content",
    ),
    (
        "walk on stilts",
        "{h.he} fell off after one step",
        "Do not stand still, for who stands still will fall",
        "{h.he} strode across the yard like a stork",
        "The hens ran out of the way",
    ),
    (
        "speak in front of the class",
        "not one word came out",
        "Look at one friend and speak to that one alone",
        "the words came all by themselves",
        "When it was over, everybody clapped",
    ),
    (
        "light a fire",
        "there was nothing but smoke",
        "Begin with the smallest twigs",
        "a little flame rose and began to dance",
        "Soon the whole room was warm",
    ),
    (
        "dance",
        "{h.he} stepped on everybody's toes",
        "Do not count the steps, but listen to the drum",
        "{h.his} feet knew by themselves where to go",
        "Everybody clapped their hands",
    ),
)


def wish_for_a_skill(t: Tale) -> None:
    t.child()
    t.relative()
    t.friend()
    skill, fails, advice, works, after = t.pick(SKILLS)
    t.set(skill=skill, days=t.pick(("three days", "a week", "two weeks", "a whole month", "five days")))
    t.set(fails=fails, advice=advice, works=works, after=after)
    t.meet("companion", "dish", "saying")
    t.say(
        "More than anything, {h.he} wanted to learn to {skill}.",
        "{h} had one great wish: {h.he} wanted to {skill}.",
        "All {h.his} friends could {skill}, but {h.he} could not.",
    )
    t.say("{h.His} friend {f} could do it <already|very well>.", "{f}, {h.his} best friend, had learned it last year.")
    t.part()
    t.say(
        "<One day|One morning|One afternoon|One fine day>, {h} tried for the first time, but {fails}.",
        "One <morning|afternoon>, {h} tried it alone. It did not go well: {fails}.",
    )
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
    t.say(
        "Every day it went a little better.",
        "Some days were good and some were bad, but {h.he} <did not give up|went on trying|never stopped>.",
    )
    t.say("And then, one day, {works}.", "After {days}, all at once, {works}.")
    t.say(
        '"I can do it! I can {skill}!" shouted {h}.',
        '"Look at me!" <cried|called|exclaimed> {h}.',
        '"Did you see that?" <cried|called|exclaimed> {h}.',
    )
    t.say("{after}.")
    t.say(
        '{teacher} <smiled|laughed> and said: "You see? You only had to keep trying."',
        "{teacher} was very proud of {h.him}.",
        'Now, when somebody says that it is too hard, {h} says: "{advice}."',
    )
    t.good_night()


QUARRELS = (
    # what to do together, what each one wants, what it becomes, how it is received
    (
        "build a raft",
        "{h} wanted a sail, and {f} wanted oars",
        "a raft with a sail and two oars",
        "it floated all the way across the pond",
    ),
    (
        "paint a big picture",
        "{h} wanted to paint the sea, and {f} wanted to paint the mountains",
        "a picture of mountains beside the sea",
        "it was hung up in the school",
    ),
    (
        "build a tree house",
        "{h} wanted a round window, and {f} wanted a rope ladder",
        "a tree house with a round window and a rope ladder",
        "there was room in it for everybody",
    ),
    (
        "put on a play",
        "{h} wanted a play about pirates, and {f} wanted one about a queen",
        "a play about a pirate queen",
        "the whole village came to see it",
    ),
    (
        "bake a cake",
        "{h} wanted apples in it, and {f} wanted nuts",
        "a cake with apples and nuts",
        "not one crumb was left",
    ),
    (
        "make a song",
        "{h} wanted it to be loud and fast, and {f} wanted it to be soft and slow",
        "a song that began softly and ended loudly",
        "everybody in the street sang along",
    ),
    (
        "plant a garden",
        "{h} wanted flowers, and {f} wanted beans",
        "a garden with flowers between the beans",
        "the bees and the cooks were happy with it",
    ),
    (
        "write a story",
        "{h} wanted a happy one, and {f} wanted a scary one",
        "a scary story with a happy end",
        "everybody wanted to hear it twice",
    ),
    (
        "build a kite",
        "{h} wanted a dragon, and {f} wanted a fish",
        "a kite with the head of a dragon and the tail of a fish",
        "it flew higher than the church tower",
    ),
    (
        "open a shop",
        "{h} wanted to sell lemonade, and {f} wanted to sell cookies",
        "a shop with lemonade and cookies",
        "by noon there was nothing left",
    ),
    (
        "cook a soup",
        "{h} wanted carrots, and {f} wanted potatoes",
        "a soup with carrots and potatoes",
        "there was enough for the whole street",
    ),
    (
        "build a snowman",
        "{h} wanted it to look like a king, and {f} wanted it to look like a bear",
        "a bear of snow with a crown on its head",
        "people came from far away to look at it",
    ),
)


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
    t.say(
        "<One day|One morning|One afternoon|One fine day>, they decided to {plan}.",
        "One <morning|afternoon>, they made up their minds to {plan}.",
    )
    t.say("But {disagree}.", "It began well, but soon there was trouble: {disagree}.")
    t.say(
        '"My idea is better!" shouted {h}. "No, mine is better!" shouted {f}.',
        '"You never listen to me," said {h}. "And you always want to decide," said {f}.',
        '"Then do it without me!" <cried|called|exclaimed> {h}. "I will!" <cried|called|exclaimed> {f}.',
    )
    t.say(
        "They turned their backs on each other and went home.",
        "{h} ran home, and {f} ran home too, and both slammed the door.",
    )
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
        '"Is it more important to be right or to have a friend?" asked {r}. {h} thought about that <for a long time|for a while>.',
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
    t.say(
        'Then {h} had an idea. "Why not both?" {h.he} asked.',
        '"What if we do both?" asked {f}, and {h} began to laugh.',
    )
    t.say("Together they made {both}, and {praise}.", "In the end it was {both}, and {praise}.")
    t.say(
        "They still quarrel now and then, but never for long.",
        "Since that day, they have always listened to each other first.",
        "It was better than anything that one of them could have made alone.",
    )


GIFTS = (
    # the present, what it is made of, how, what goes wrong, how {f} mends it, what {r} says
    (
        "a scarf",
        "red wool",
        "knit",
        "the wool ran out before the end",
        "{f} gave {h.him} some blue wool, and so the scarf became red and blue",
        "It will keep me warm all winter",
    ),
    (
        "a bird house",
        "old boards",
        "build",
        "there were not enough nails",
        "{f} found some nails in an old box",
        "Now I will hear birds every morning",
    ),
    (
        "a necklace",
        "shells from the beach",
        "make",
        "the string broke and the shells rolled under the bed",
        "{f} crawled under the bed and found every shell",
        "It sounds like the sea",
    ),
    (
        "a picture",
        "paint and paper",
        "paint",
        "a drop of blue paint fell right into the middle",
        "{f} turned the drop into a blue bird",
        "The blue bird is the best part of it",
    ),
    (
        "a cushion",
        "bits of cloth",
        "sew",
        "a hole was left that no piece would fit",
        "{f} cut a piece in the shape of a heart out of an old shirt",
        "I will think of you whenever I sit down",
    ),
    (
        "a candle",
        "wax from the beehive",
        "make",
        "the candle came out crooked",
        "{f} tied a ribbon around it so that it stood straight",
        "It will give light on dark evenings",
    ),
    (
        "a walking stick",
        "an ash branch",
        "carve",
        "the knife slipped and left a deep cut",
        "{f} showed {h.him} how to carve the cut into a leaf",
        "With this I can walk up the hill again",
    ),
    (
        "a pair of slippers",
        "an old felt blanket",
        "sew",
        "one slipper turned out bigger than the other",
        "{f} stuffed the bigger one with soft wool",
        "My feet have never been so warm",
    ),
    (
        "a jar of jam",
        "wild blackberries",
        "make",
        "the sugar was not enough",
        "{f} brought a spoon of honey from home",
        "It tastes like the end of summer",
    ),
    (
        "a lantern",
        "glass and wire",
        "build",
        "the wire would not hold its shape",
        "{f} bent it around a bottle, and so it kept its shape",
        "Now I can walk home in the dark",
    ),
    (
        "a little book",
        "paper and thread",
        "make",
        "a whole page was torn",
        "{f} made the torn page into a door that could be opened",
        "I will read in it every evening",
    ),
    (
        "a crown",
        "paper and gold paint",
        "make",
        "the rain came in and made the paper soft",
        "{f} strengthened it with thin willow twigs",
        "Today I feel like a king in a story",
    ),
)


def gift(t: Tale) -> None:
    t.child()
    t.friend()
    t.relative()
    present, stuff, make, trouble, mended, thanks = t.pick(GIFTS)
    if t.facts["r"].gender == "f":
        thanks = thanks.replace("a king", "a queen")
    t.set(present=present, stuff=stuff, make=make, trouble=trouble, mended=mended, thanks=thanks)
    t.set(noun=present.split(" ", 1)[1], when=t.pick(("in three days", "tomorrow", "on Sunday", "in a week")))
    t.meet("companion", "dish", "song")
    t.say(
        "{h.His} {r.kind}'s birthday was {when}, but {h.he} had no money for a present.",
        "{h.He} wanted to give {h.his} {r.kind} something for {r.his} birthday, but {h.his} pockets were empty.",
    )
    t.say(
        "{h} looked around the house and found {stuff}. That gave {h.him} an idea.",
        "<Then|And then|After that,> {h.he} opened the <old chest|drawer|cupboard> and saw {stuff}.",
    )
    t.say('"I will {make} {present}," {h.he} <said|thought>.', "{h.He} decided to {make} {present}.")
    t.part()
    t.say(
        "{h} worked <until it was dark|the whole afternoon|in secret, behind the closed door>.",
        "{h} began at once and worked very carefully.",
    )
    t.say("But then {trouble}.", "Everything went well until {trouble}.")
    t.say('"What a pity!" <cried|called|exclaimed> {h}.', "{h} could have cried.", '"What shall I do now?" sighed {h}.')
    t.say("{h.His} friend {f} came to see what the matter was.", "Luckily, {h.his} friend {f} was there.")
    t.say("{mended}.", '"Do not worry," said {f}. And {mended}.')
    t.say("Now it was even <better|more beautiful> than before.", "Nobody could see that anything had gone wrong.")
    t.part()
    t.say(
        "On the birthday, {h} gave the {noun} to {h.his} {r.kind}.",
        "The birthday came, and {h} held out the {noun} with both hands.",
    )
    t.say(
        "{r} <looked at it for a long time|turned it around and around|had tears in {r.his} eyes>.",
        "{r} did not say anything at first.",
    )
    t.say(
        'Then {r.he} said: "{thanks}. You made it yourself, and that is why I love it."',
        '"{thanks}," {r.he} said, and hugged {h}.',
    )
    t.say(
        "{h} was happier than if it had been {h.his} own birthday.",
        "That was worth more than anything that money can buy.",
        '"{f} helped me," said {h}, and so {f} was given the biggest piece of cake.',
    )
    t.good_night()
