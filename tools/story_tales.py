"""Plots of fables and fairy tales: talking animals, a dragon, a king, a wish, a long way to go.

As in story_plots, cast and facts are drawn first; what the end needs has been told before.
"""

from story_teller import Tale
from story_words import BAD_TRAITS, Person


def race(t: Tale) -> None:
    t.beasts("h", "f", "x")
    t.set(goal=t.pick(("the old oak", "the bridge", "the top of the hill", "the mill", "the end of the meadow", "the big stone")))
    t.set(prize=t.pick(("a basket of cherries", "a golden bell", "a crown of flowers", "a jar of honey")))
    t.say("{h} the {h.kind} was the fastest of all, and {h.he} told everybody so.", "There was once a {h.kind} named {h} who could run very fast and never stopped talking about it.")
    t.say('"Nobody can beat me," {h.he} said every morning.', '"You are all snails," {h.he} liked to say.')
    t.say("One day, {f} the {f.kind} had enough of it. \"Let us run a race to {goal},\" said {f}.", 'Then {f} the {f.kind} said in a calm voice: "I will race with you, as far as {goal}."')
    t.say("{h} laughed until {h.he} had to sit down.", 'Everybody was surprised, and {h} laughed. "You? Against me?"')
    t.say("The winner was to have {prize}.", "They agreed that {prize} should be the prize.")
    t.part()
    t.say('"One, two, three, go!" called {x} the {x.kind}.', "{x} the {x.kind} gave the sign, and off they went.")
    t.say("Soon {h} was so far ahead that {h.he} could not see {f} any more.", "{h} shot away like an arrow, and {f} was left behind in the dust.")
    if t.chance(0.5):
        t.say('"I have plenty of time," thought {h}, and lay down under a tree. Before long, {h.he} was fast asleep.', "On the way, {h} found {h_kind.food} and stopped to eat. {h.He} ate and ate, until {h.he} could hardly move.")
        t.say("But {f} went on, step by step, and never stopped.", "Meanwhile {f} came along, slowly but surely, and passed by without a sound.")
        t.say("When {h} looked up, {f} was almost at {goal}. {h} ran as fast as {h.he} could, but it was too late.", "When {h} jumped up at last and came to {goal}, {f} was already sitting there.")
        t.part()
        t.say("{f} was given {prize} and shared it with everybody, even with {h}." if "bell" not in t.facts["prize"] and "crown" not in t.facts["prize"] else "{f} was given {prize}, and all the animals cheered.")
        t.say('"I was fast, but I was foolish," said {h}.', "{h} was ashamed and said: \"You have won, because you did not stop.\"")
        t.say("Those who go slowly but never stop come far.", "From that day on, {h} did not boast any more.", "and since then, {h} has never called anybody a snail.")
    else:
        t.set(trouble=t.pick(("had fallen into a ditch", "was caught in the brambles", "had hurt a leg on a stone")))
        t.say("But halfway, {h} stepped into a hole and could not get out.", "but then {h} tripped over a root and rolled down into a deep ditch.")
        t.say('"Help!" called {h}. "Who will help me?"', "{h} called and called, but nobody seemed to hear.")
        t.say("{f} came along the path. {f.He} could have gone on and won the race. But {f} stopped, held out a long stick and pulled {h} out.", "{f} heard the cry, left the path and pulled {h} out with all {f.his} strength.")
        t.say('"Why did you stop?" asked {h}. "You could have won." {f} said: "What is {prize} against a neighbour?"', '"Thank you," said {h} in a small voice. {f} only nodded.')
        t.part()
        t.say("Then the two of them went on together, side by side, and reached {goal} at the same time.", "They crossed the line together, {h} on the left and {f} on the right.")
        t.say("So both of them had won, and {prize} belonged to both.", "{x} did not know who had won, and so {h} said: \"It was {f}.\"")
        t.say("{h} still runs fast, but now {h.he} looks back to see who is behind {h.him}.", "and {h} never boasted again, at least not about running.")


ERRANDS = (
    ("soup", "a pot of hot soup", "who was ill in bed", "The soup is still warm"),
    ("medicine", "a bottle of medicine", "who had a bad cough", "I feel better already"),
    ("letter", "a letter with a red seal", "who had waited for it all year", "It is from my brother across the sea"),
    ("wool", "a bag of wool", "who wanted to knit a blanket before the winter", "Now I shall not be cold"),
    ("lamp oil", "a can of lamp oil", "whose lamp had gone out", "Now I can read again in the evening"),
    ("bread", "a fresh loaf of bread", "who could not walk very far any more", "It smells of home"),
)
CROSSINGS = (
    ("a river, and the bridge was gone", "I will show you where the water is shallow", "waded across, with the {load} on {h.his} head"),
    ("a dark forest, and the path came to an end", "Follow me, I know every tree here", "came out on the other side, where the sun was shining"),
    ("a high wall, and the gate was locked", "There is a hole behind the ivy", "crawled through, and pushed the {load} ahead"),
    ("a steep hill covered with stones", "Go where the grass grows, there the stones hold", "climbed to the top without falling once"),
    ("a fork in the road, and the signpost had fallen down", "The left road goes to the swamp, so take the right one", "took the right road and saw smoke rising from a chimney"),
)  # fmt: skip


def journey(t: Tale) -> None:
    t.child()
    t.relative()
    load, full, who, thanks = t.pick(ERRANDS)
    crossing, advice, done = t.pick(CROSSINGS)
    t.set(load=load, full=full, who=who, thanks=thanks, crossing=crossing, advice=advice)
    t.set(done=done, b=t.pick(("hare", "crow", "goat", "fox", "hedgehog", "frog", "magpie", "old donkey")))
    t.set(food=t.pick(("bread", "cheese", "an apple", "a honey cake", "a pear")), town=t.pick(("over the hill", "on the other side of the forest", "at the end of the valley", "by the lake")))
    t.meet()
    t.say("{h.His} {r.kind} lived alone {town}.", "{h} had a {r.kind} who lived {town}.")
    t.say("One morning, {h.he} was to take {full} to {r}, {who}.", "One day, somebody had to bring {full} to {r}, {who}. \"I will go,\" said {h}.")
    t.say('"Do not lose your way," said the neighbours.', "{h} put {food} into {h.his} pocket and set off.", "It was a long way, but {h} was not afraid.")
    t.part()
    t.say("By the road sat a {b} that looked thin and tired.", "After an hour, {h} met a {b} which was sitting by the road.")
    t.say('"I am so hungry," said the {b}. {h} gave it half of what {h.he} had in {h.his} pocket.', '"I have eaten nothing since yesterday," said the {b}. So {h} sat down and shared {h.his} lunch with it.')
    t.say('"I will not forget it," said the {b}.', "The {b} ate every crumb and thanked {h.him}.")
    t.say("{h} went on, until {h.he} came to {crossing}.", "At noon, {h} came to {crossing}.")
    t.say('"What shall I do now?" said {h}.', "{h} did not know how to go on.", "{h} sat down and was close to tears.")
    t.part()
    t.say('Then the {b} stood before {h.him}. "You helped me, now I help you," it said. "{advice}."', 'But the {b} had followed {h.him}. "{advice}," it said.')
    t.say("{h} did so, and {done}.", "{h} {done}.")
    t.say("In the evening, {h} knocked at {r}'s door.", "When the first star came out, {h} saw the light in {r}'s window.")
    t.say('"{thanks}!" said {r}. "And you have come all this way alone?"', '{r} kissed {h} on both cheeks. "{thanks}," {r.he} said. "But were you not afraid, all alone?"')
    t.say('"I was not alone," said {h}, and told {r.him} about the {b}.', '"I had a friend on the way," said {h}.')
    t.say("A little kindness finds its way back.", "What one gives away on the road is not lost.", "and before {h} went to sleep, {h.he} put a plate outside the door, for the {b}.")


def storm(t: Tale) -> None:
    t.child()
    t.relative()
    t.trade()
    t.set(animal=t.pick(("an old dog", "a donkey", "three hens", "a small goat", "a grey cat", "two lambs")))
    t.set(them="them" if t.facts["animal"].startswith(("three", "two")) else "it")
    t.set(they="they" if t.facts["them"] == "them" else "it", were="were" if t.facts["them"] == "them" else "was", noun=t.facts["animal"].split()[-1])
    t.meet()
    t.say("One evening in autumn, black clouds came over the hills.", "One evening, the sky turned dark green, and the birds fell silent.")
    t.say('"A storm is coming," said {r}. "Close the shutters!"', "{r} looked at the sky and brought in the washing.")
    t.say("Then it began. The thunder rolled, and rain beat against the windows.", "Soon the wind was howling, and lightning lit up the whole room.")
    t.say("The lamp flickered and went out.", "With a bang, the door flew open, and the candle went out.")
    t.say("{h} moved closer to {r}. \"Will the roof hold?\" {h.he} asked. \"It has held for a hundred years,\" said {r}.", '"Are you afraid?" asked {r}. "Only a little," said {h}.')
    t.part()
    t.say("Between two claps of thunder, {h} heard a cry. Somebody was out there!", "Suddenly, {h} sat up. \"I can hear something outside,\" {h.he} said.")
    t.say("{h} and {r} put on their coats and took the lantern. By the gate stood {animal}, wet and trembling.", "They opened the door a little. There {were} {animal}, wet to the bone.")
    t.say('"Come in, come in!" cried {h}.', '"Poor things! Quickly, to the stove," said {h}.' if t.facts["they"] == "they" else '"You poor thing! Quickly, to the stove," said {h}.')
    t.say("They rubbed {them} dry with an old blanket and put some straw by the stove.", "{h} fetched a towel, and {r} warmed some milk.")
    t.say("Outside it thundered, but inside it was warm, and {h} told {them} stories until {they} fell asleep.", "{h} was so busy that {h.he} forgot to be afraid.")
    t.part()
    t.say("In the morning, the sky was clear, and the world was washed clean.", "When {h} woke up, the storm was over. The sun was shining on broken branches.")
    t.say("There was a knock. Outside stood {p}, who had searched all night. \"Have you seen my {noun}?\" {p.he} asked.", "Then {p} came down the road, pale and tired. \"My {noun} ran away in the storm,\" {p.he} said.")
    t.say("{h} opened the kitchen door, and {p} <laughed|cried> for joy.", '"Look by the stove," said {h}, and {p} could not believe {p.his} eyes.')
    t.say("{p} mended the broken roof to thank them.", "As a thank you, {p} brought {h.him} a basket of pears.", "{p} shook {h}'s hand as if {h.he} were a grown-up.")
    t.say("Now, when it thunders, {h} thinks of that night and is not afraid.", "A storm is only weather, but a warm stove is a home.", "{h} was a little sorry that the storm was over.")


CHORES = (
    ("the floor was swept", "sweeping the floor", "a tiny broom"),
    ("the dishes were washed", "drying the last cup", "a little apron"),
    ("the wood was stacked by the stove", "carrying a stick of wood", "a small pair of gloves"),
    ("the torn shirts were mended", "threading a needle", "a silver thimble"),
    ("the shoes were polished", "polishing a boot with {s.his} own sleeve", "a soft red cloth"),
    ("the garden was weeded", "pulling up a weed", "a straw hat"),
)  # fmt: skip


def secret_helper(t: Tale) -> None:
    t.trade("p")
    t.child()
    t.beasts("s")
    t.set(s=Person("the " + t.facts["s"].kind, t.facts["s"].gender, t.facts["s"].kind))
    chore, doing, present = t.pick(CHORES)
    t.set(chore=chore, doing=doing, present=present)
    t.set(why=t.pick(("Last winter you put out food for me", "You once pulled a thorn out of my foot", "You let me live under your house", "You gave me shelter when it rained")))
    t.say("{h} lived with {p} in {home}, and the two had a lot of work.", "In {home}, {p} had a young helper, a {h.child} named {h}.", "Once upon a time, there was a {h.child} named {h}, who worked for {p}.")
    t.say("In the evening they were so tired that they left everything as it was.", "One night, they were too tired to finish their work.")
    t.say("But in the morning, {chore}.", "but when they got up the next day, {chore}.")
    t.say('"Was it you?" asked {p}. "No," said {h}. "I thought that it was you."', '"How kind of you," said {h}. "But it was not me," said {p}.')
    t.say("The next night, it was the same, and the night after that.", "So it went on for a whole week.")
    t.part()
    t.say('"I want to know who it is," said {h}.', "{h} could not stop thinking about it.")
    t.say("That night, {h.he} hid behind the curtain and pinched {h.his} arm so as not to fall asleep.", "So {h.he} crept under the table and waited, with one eye open.")
    t.say("The clock struck <eleven|twelve>. A board creaked.", "At midnight, the moon shone in, and something rustled.")
    t.say("And there, in the moonlight, {h} saw {s}, who was {doing}!", "{h} held {h.his} breath. It was {s}! {s.He} was {doing}.")
    t.say('"Why do you do this for us?" {h} asked softly.', '"Do not run away," whispered {h}. "I only want to thank you."')
    t.say('{s} was startled, but then {s.he} said: "{why}. I do not forget such things."', '"{why}," said {s}. "Now it is my turn."')
    t.part()
    t.say("In the morning, {h} told {p} about it.", "{p} could hardly believe it when {h} told {p.him}.")
    t.say('"Then we must give something back," said {p}.', '"Whoever works should have a reward," said {p}.')
    t.say("They made {present} and set it down by the door, together with {s_kind.food}.", "They put {s_kind.food} on a plate, and beside it they laid {present}.")
    t.say("In the night, they heard somebody laugh for joy.", "The next morning, the plate was empty, and the present was gone.")
    t.say("Since then, {s} comes every Sunday and sits with them at the table.", "and since that day, there have been three in the house instead of two.", "One good deed had come home, and another had gone out.")


def winter_store(t: Tale) -> None:
    t.beasts("h", "f")
    t.set(idle=t.pick(("sang in the sun", "lay in the grass and counted clouds", "danced from morning to night", "slept under a leaf")))
    t.say("{h} the {h.kind} and {f} the {f.kind} were neighbours. {h} lived in {h_kind.home}.", "There was once a {h.kind} named {h}, who lived in {h_kind.home}. {h.His} neighbour was {f} the {f.kind}.")
    t.say("All summer long, {h} worked. {h.He} gathered {h_kind.food} and stored everything for the winter.", "Every day, {h} went out to gather {h_kind.food} and filled {h.his} cupboard.")
    t.say("But {f} {idle}.", "{f}, however, {idle}.")
    t.say('"Come and play!" called {f}. "I cannot," said {h}. "Winter is coming."', '"Why do you work so hard?" asked {f}. "Because the summer will not last," said {h}.')
    t.say('"Winter is far away," said {f}, and laughed.', "{f} yawned and turned over to the other side.")
    t.part()
    t.say("Then the leaves turned yellow and fell, and one morning the meadow was white.", "but the days grew short, the wind turned cold, and one night it began to snow.")
    t.say("{h} sat in {h_kind.home}, warm and full.", "{h} closed the door, lit a small fire and had enough of everything.")
    t.say("{f} found nothing to eat. {f.His} belly growled, and {f.his} feet were as cold as ice.", "{f} searched under the snow, but there was nothing, not one single crumb.")
    t.say("At last, {f} came to {h}'s door and knocked.", "One evening, there was a weak knock at {h}'s door. It was {f}.")
    t.say('"You were right, and I was foolish," said {f}. "Could you spare a little?"', '"I have nothing to eat," whispered {f}. "I should have listened to you."')
    t.part()
    if t.chance(0.6):
        t.say('{h} looked at {f}, who was shaking with cold. "Come in," said {h}. "There is enough for two."', "{h} thought of all the long hot days. But then {h.he} opened the door wide.")
        t.say("They ate {h_kind.food} together, and in the evenings {f} sang all the songs of the summer.", "{f} ate, and when {f.he} was warm again, {f.he} told stories so funny that {h} forgot the snow.")
        t.say('"I did not know how much I had missed songs," said {h}.', '"Now I see that stories, too, are something one can store," said {h}.')
        t.say("When spring came, {f} was the first one to go out and work, and {h} learned to sit in the sun now and then.", "The next summer, they gathered together in the morning and played together in the afternoon.")
    else:
        t.say('"I will share with you," said {h}, "but you must promise me something."', '"You may stay," said {h}. "But next summer you will help me."')
        t.say('"I promise," said {f}.', '"With all my heart," said {f}.')
        t.say("And {f} kept the promise. When summer came again, {f} got up with the sun and worked beside {h}.", "In spring, {f} remembered it. Every morning, {f.he} was there before {h}.")
        t.say("And when the snow fell again, there were two full cupboards.", "That winter, nobody had to knock at anybody's door because of hunger.")


WISHES = (
    ("that everything {h.he} touched should turn into cake", "{h.His} bed turned into cake, and so did {h.his} shoes and the front door", "{h.he} could not stand the sight of cake any more", "a piece of plain bread"),
    ("that it should never be night again", "The sun stayed in the sky, and nobody could sleep, neither the hens nor the people", "everybody was tired and cross", "a dark night full of stars"),
    ("that {h.he} should be as tall as a tree", "{h.He} grew until {h.his} head was in the clouds, and {h.he} did not fit into {h.his} house any more", "{h.he} was lonely up there", "a seat at the small kitchen table"),
    ("that all animals could talk", "The hens complained, the flies told jokes, and the cow talked all night", "{h.he} longed for a quiet hour", "a cat that only purred"),
    ("that {h.he} should never have to go to school again", "The days were long, and all the other children were in school and had no time", "{h.he} was bored from morning to night", "a seat beside {h.his} friends"),
    ("that it should be winter all year round", "The snow did not melt, no apple grew, and the swallows stayed away", "{h.he} could not remember what a flower smelled like", "one warm ray of sun"),
    ("that everything {h.he} owned should be of gold", "{h.His} pillow was hard, {h.his} soup was hard, and even {h.his} old teddy bear was cold and hard", "{h.he} was hungry and could not sleep", "a soft pillow"),
)  # fmt: skip
WISH_GIVERS = (
    ("a silver fish", "in a net", "set it free"), ("a tiny fairy", "in a spider's web", "cut the web open"),
    ("an old frog", "in a dry well", "lifted it out with a bucket"), ("a golden beetle", "on its back", "turned it over with a straw"),
    ("a little star", "in a thorn bush, where it had fallen down", "threw it back up into the sky"),
)  # fmt: skip


def foolish_wish(t: Tale) -> None:
    t.child(traits=BAD_TRAITS)
    giver, stuck, freed = t.pick(WISH_GIVERS)
    wish, result, regret, longed = t.pick(WISHES)
    t.set(giver=giver, noun=giver.split()[-1], stuck=stuck, freed=freed)
    t.set(wish=wish, result=result, regret=regret, longed=longed)
    t.meet()
    t.say("One day, {h.he} found {giver} {stuck}.", "One morning, {h.he} heard a small voice. It came from {giver} {stuck}.")
    t.say('"Help me, and I will grant you one wish," said the {noun}. So {h.he} {freed}.', "{h} {freed}. \"For that you have one wish,\" said the {noun}.")
    t.say('"But think well before you speak," the {noun} said.', '"Take your time," said the {noun}. "A wish is quickly made."')
    t.say("But {h} did not think for long. {h.He} wished {wish}.", "{h} did not listen. At once {h.he} wished {wish}.")
    t.say('"So be it," said the {noun}.', "The {noun} sighed, and there was a flash of light.")
    t.part()
    t.say("At first, it was wonderful.", "{h} laughed and clapped {h.his} hands.", "for one day, {h} was the happiest {h.child} in the world.")
    t.say("But then the trouble began. {result}.", "{result}.")
    t.say("After <three days|a week|ten days>, {regret}.", "It did not take long until {regret}.")
    t.say('"What have I done?" said {h}.', '"I never thought of that," said {h}, and began to cry.', '"Oh, if only I had thought before I spoke!" cried {h}.')
    t.say("All {h.he} wanted now was {longed}.", "How {h.he} longed for {longed}!")
    t.part()
    t.say("So {h} went back to where {h.he} had met the {noun} and called for it.", "{h} looked for the {noun} for a whole day, until at last it appeared.")
    t.say('"Please, take my wish back," {h.he} begged. "I will never ask for such a thing again."', '"Please," said {h}, "make everything as it was before."')
    t.say('"What have you learned?" asked the {noun}. "That I had enough all the time," said {h}.', 'The {noun} smiled. "Most people ask me for that in the end," it said.')
    t.say("There was a flash of light, and everything was as it had been.", "In the wink of an eye, the magic was gone.")
    t.say("That evening, {h} had {longed}, and nothing had ever been so good.", "and when {h} came home, there it was waiting for {h.him}: {longed}.")
    t.say("Since then, {h} thinks first and wishes afterwards.", "{h} never wished for too much again.", "Be careful with wishes, for they may come true.")


def snowman(t: Tale) -> None:
    t.child()
    t.friend()
    t.relative()
    t.set(nose=t.pick(("a carrot", "a red potato", "a pine cone", "a turnip")), hat=t.pick(("an old pot", "a straw hat", "a bucket", "a green cap")))
    t.set(s=t.pick(("Mister Frost", "Sir Icicle", "Captain Snow", "Old Whitebeard", "Professor Flake")), what=t.pick(("talked to him", "told him a secret", "read him a story", "wished him a good night")))
    t.meet()
    t.say("One winter morning, the whole world was white. {h} called {f}, and they built a snowman.", "When the first snow fell, {h} and {h.his} friend {f} built a snowman behind the house.")
    t.say("He had {nose} for a nose and wore {hat} on his head.", "They gave him {nose} for a nose, two pieces of coal for eyes and {hat} for his head.")
    t.say("They called him {s}.", '"His name shall be {s}," said {f}.')
    t.say("Every evening, {h} went out and {what}.", "Each day before dinner, {h} {what}. {s} was a good listener.")
    t.part()
    t.say("Then the days grew longer, and the sun grew warmer.", "but one morning, there was a mild wind, and water was dripping from the roof.")
    t.say("{s} became thinner and thinner. First he lost his nose, and then his hat slid over his eyes.", "Day after day, {s} became a little smaller. At last his hat sat on a little heap of snow.")
    t.say('"Can we not stop the sun?" asked {h}.', "{h} tried to hold up an umbrella against the sun, but it was no use.")
    t.say("One day, there was only a puddle, and his hat was lying in it.", "and then he was gone. In the wet grass lay his hat.")
    t.say("{h} wept, and {f} did not know what to say.", "{h} did not want to eat anything that day.")
    t.part()
    t.say('"He has not gone forever," said {r}. "Come, I will show you."', '{r} took {h.him} by the hand. "Do you know where the water goes?" {r.he} asked.')
    t.say('"The puddle runs into the brook, and the brook runs into the river, and the river runs into the sea. The sun lifts it up into a cloud, and when it is cold, the cloud lets it fall as snow."', '"The water seeps down to the roots and helps the flowers to grow. What is left goes up into the clouds, and in winter it comes back as snow."')
    t.say('"Then {s} will come again?" asked {h}. "Next winter," said {r}.', '"So he is only travelling," said {h}, and dried {h.his} tears.')
    t.say("In summer, whenever a white cloud sailed by, {h} waved to it.", "That summer, {h} waved to every cloud, just in case.")
    t.say("And when the first snow fell again, {h} and {f} were ready, with {hat} and {nose}.", "and in December, big white flakes fell from the sky. \"Welcome home, {s},\" said {h}.")


def sad_ruler(t: Tale) -> None:
    t.trade("p")
    t.trade("q")
    t.child()
    ruler = t.pick(("king", "queen"))
    t.set(k=Person("the " + ruler, "m" if ruler == "king" else "f", ruler))
    lack, promise, first, second, cure, effect = t.pick((
        ("could not sleep", "sleep", "brought a bed of the softest feathers", "played on a harp of gold", "told {k.him} a story, very slowly, in which a hundred sheep walked over a bridge, one after the other", "At the thirtieth sheep, {k} yawned, and at the fortieth {k.he} was asleep"),
        ("could not laugh", "laugh", "wore a hat with forty bells", "told jokes for three days", "wanted to bow, stepped on {h.his} own coat and landed in the pudding", "It was quiet for a moment. Then {k} began to laugh and could not stop"),
        ("was never hungry", "eat", "cooked a dish with a hundred spices", "baked a cake as high as a tower", "took {k.him} to the fields to dig up potatoes all day, and baked them in the fire", "{k} ate seven potatoes and said that {k.he} had never tasted anything so good"),
        ("was always cold", "be warm", "brought a coat of seven furs", "lit a fire in every room", "took {k.him} by the hand and danced with {k.him} through the whole castle", "Soon {k.his} cheeks were red, and {k.he} threw off {k.his} coat"),
        ("was always sad", "be glad", "brought a chest full of jewels", "let a parrot sing a song", "asked {k.him} to help a lost little lamb find its mother", "When the lamb found its mother, {k} smiled for the first time"),
    ))  # fmt: skip
    t.set(lack=lack, promise=promise, first=first, second=second, cure=cure, effect=effect)
    t.set(reward=t.pick(("a bag of gold", "a white horse", "a house with a garden", "a silver chain")))
    t.say("Once upon a time, there was a {k.kind} who {lack}.", "Long ago, in a castle on a hill, lived a {k.kind} who {lack}.", "In a land far away, there ruled a {k.kind} who {lack}.")
    t.say('"Whoever helps me to {promise} shall have {reward}," said {k}.', "{k} promised {reward} to anybody who could help {k.him} to {promise}.")
    t.say("From everywhere, clever people came to the castle.", "Many came and tried their luck.")
    t.say("{p} {first}, but it did not help.", "First came {p}, who {first}. It was all in vain.")
    t.say("{q} {second}, but it did not help either.", "Then came {q}, who {second}. But {k} only sighed.")
    t.part()
    t.say("One day, a {h.child} named {h} stood at the gate. {h.He} had come on foot and had nothing but a piece of bread.", "At last came {h}, a {h.child} from a small village, with holes in {h.his} shoes.")
    t.say('"What can you do that all the others could not?" asked the guard. "I do not know yet," said {h}.', 'The guards laughed, but {k} said: "Let {h.him} try."')
    t.say('{h} looked at {k} for a while. "Have you ever tried something simple?" {h.he} asked.', '"May I see how you live?" asked {h}. {k} showed {h.him} everything, and {h} thought about it.')
    t.say("Then {h} {cure}.", "and what did {h} do? {h.He} {cure}.")
    t.say("{effect}.", "{effect}, and everybody in the castle was amazed.")
    t.part()
    t.say('"You shall have {reward}," said {k}.', "{k} gave {h} {reward}, as {k.he} had promised.")
    t.say('"May I come back tomorrow?" asked {h}. "I hope that you will," said {k}.', '"And stay for dinner," said {k}, "for you are good company."', "but what {h} liked even more was that {k} became {h.his} friend.")
    t.say("{h} went home with {reward} and told everybody that rulers are people too.", "So it was neither gold nor cleverness that helped, but a little time and a warm heart.", "and from then on, {k} sent for {h} every Sunday.")


def fog_light(t: Tale) -> None:
    t.child()
    t.relative()
    t.set(boat=t.pick(("Seagull", "Northern Star", "Old Turtle", "Blue Dolphin", "Morning Song")), other=t.pick(("mother", "father", "uncle", "aunt", "brother")))
    he = {"mother": "she", "aunt": "she"}.get(t.facts["other"], "he")
    t.set(o=he, oh="her" if he == "she" else "him")
    t.set(trouble=t.pick(("the keeper had fallen from the stairs and hurt his leg", "the keeper lay in bed with a fever", "the keeper had gone to town and could not come back in the fog")))
    sound, made = t.pick((("bell", "rang"), ("horn", "blew"), ("drum", "beat")))
    t.set(sound=sound, made=made)
    t.say("{h} lived by the sea, near an old lighthouse. {h.His} {other} had a fishing boat, the {boat}.", "In a village by the sea lived a {h.child} named {h}. {h.His} {other} went out to fish every day in a boat that was called the {boat}.")
    t.say("Each evening, {h} stood on the pier and waited for the boat.", "{h} knew every rock on the coast and every light on the water.")
    t.say("One evening, the fog came in from the sea. It was so thick that one could not see one's own hand.", "One evening, thick grey fog rolled over the water, and soon the harbour was gone.")
    t.say("The {boat} was still out there.", "All the boats had come back, but not the {boat}.")
    t.say('"Why is the lighthouse dark?" asked {h}.', "{h} looked up at the lighthouse, but there was no light.")
    t.part()
    t.say("{h} ran to the tower and found out that {trouble}.", "It was dark because {trouble}.")
    t.say('"Then I must do it," said {h}.', "There was no time to lose.", '"Somebody must light the lamp," said {h}, and there was nobody else.')
    t.say("{h.He} climbed the stairs, round and round, a hundred steps and more. At the top, {h.he} lit the big lamp.", "With shaking knees, {h.he} climbed up the dark stairs. The first match went out, and the second, but the third one burned, and the lamp was lit.")
    t.say("But the fog swallowed the light. So {h} {made} the big {sound}, again and again.", "The light alone was not enough. Then {h} remembered the big {sound} and {made} it as loudly as {h.he} could.")
    t.say("{h.His} arms were tired, but {h.he} did not stop.", "An hour went by, and then another.")
    t.part()
    t.say("At last, a faint call came over the water. \"I hear you!\"", "Then, far out, a small light appeared and came closer and closer.")
    t.say("It was the {boat}. {h.His} {other} jumped onto the pier and held {h.him} tight.", "Slowly the {boat} came out of the fog. {h} ran down all the stairs and into {h.his} {other}'s arms.")
    t.say("\"I could not see anything,\" {o} said. \"But I heard the {sound} and steered towards it.\"", '"Who made the light and the sound?" {o} asked. "It was me," said {h}.')
    t.say("The keeper thanked {h} and gave {h.him} a key to the tower.", "The next day, the whole village talked about the brave {h.child} in the tower.")
    t.say("And whenever there is fog, {h} climbs the stairs and helps.", "{h} has never been afraid of fog since then, for {h.he} knows that a small light goes a long way.", "When {h} grew up, {h.he} became the keeper of the lighthouse.")


DRAGONS = (
    ("had the hiccups, and with every hiccup a flame shot out", "hiccups", "drink a whole lake without taking a breath", "the hiccups were gone"),
    ("had a cold and sneezed sparks over the roofs", "cold", "drink forty pots of tea with honey", "the sneezing stopped"),
    ("roared all night, so that nobody could sleep", "roaring", "let me pull out the splinter that is stuck in your tooth", "the pain was gone, and so was the roaring"),
    ("ate all the apples from the trees", "hunger", "plant your own orchard, and I will show you how", "there were apples enough for everybody"),
    ("wept so much that the river rose", "weeping", "come and live near us, because you are lonely", "the tears dried up"),
)  # fmt: skip


def dragon(t: Tale) -> None:
    t.child()
    t.trade("p")
    does, noun, advice, solved = t.pick(DRAGONS)
    gender = t.pick("fm")
    t.set(d=Person(t.name(gender), gender, "dragon"))
    t.set(does=does, noun=noun, advice=advice, solved=solved, colour=t.pick(("green", "red", "blue", "silver", "purple")))
    t.set(job=t.pick(("lights the stoves in winter", "carries the children to school on rainy days", "warms the water for the bath house", "dries the washing with one warm breath", "melts the snow on the roads")))
    t.say("On a mountain near {home} lived a {colour} dragon, and the people were afraid of it.", "Once upon a time, a {colour} dragon came to live on the mountain above a small village.")
    t.say("The dragon {does}.", "Every day there was trouble, because the dragon {does}.")
    t.say('"Somebody must do something," said {p}, but nobody wanted to go.', "The people met in the square and argued, but nobody had an idea.")
    t.say('"I will go and ask it what is wrong," said {h}, a <small|young> {h.child} with <freckles|big boots|a big hat>.', "Then a {h.child} named {h} stood up. \"Has anybody asked the dragon?\" {h.he} said.")
    t.say("Everybody shook their heads, but {h} packed some bread and went.", '"It will eat you!" they cried. But {h} had already left.')
    t.part()
    t.say("The way was steep, and it smelled of smoke. In front of a cave lay the dragon.", "At the top of the mountain, {h} saw two big yellow eyes in a dark cave.")
    t.say('"Are you not afraid of me?" asked the dragon. "A little," said {h}. "What is your name?"', "{h}'s heart beat fast, but {h.he} bowed and said: \"Good day. My name is {h}.\"")
    t.say('The dragon was surprised. "I am {d}," {d.he} said. "Nobody has ever asked me."', '"I am {d}," said the dragon in a low voice. "You are the first who has come to talk."')
    t.say('"Why is there so much trouble with you?" asked {h}. "I cannot help it," said {d}, and told {h.him} about the {noun}.', '{d} sighed. "I do not want to frighten anybody. It is only the {noun}," {d.he} said.')
    t.say('{h} thought about it. "You could {advice}," {h.he} said.', '"I know what will help," said {h}. "{advice}."'.replace("{advice}", t.facts["advice"][0].upper() + t.facts["advice"][1:]))
    t.say("They tried it together, and {solved}.", "{d} did it, and truly, {solved}.")
    t.part()
    t.say("{h} rode back to the village on {d}'s back.", "The next day, {h} came down from the mountain, and behind {h.him} walked {d}.")
    t.say("At first, everybody ran into their houses. But when they saw {h} laugh, they came out again.", '"This is {d}," said {h}. "{d.He} wants to say sorry."')
    t.say("Now {d} {job}, and nobody would do without {d.him}.", "Since that day, {d} {job}.")
    t.say("It helps to ask before one is afraid.", "and {h} and {d} are the best of friends.", "and {p} says that it was all {p.his} own idea.")


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
    t.set(total=NUMBERS[total], first=NUMBERS[first], second=NUMBERS[second], middle=NUMBERS[total - first], left=NUMBERS[left])
    many, single = t.pick((("apples", "apple"), ("plums", "plum"), ("pears", "pear"), ("cookies", "cookie"), ("honey cakes", "honey cake"), ("buns", "bun"), ("figs", "fig")))
    t.set(many=many, single=single, firsts=many if first > 1 else single, seconds=many if second > 1 else single, middles=many if total - first > 1 else single, lefts=many if left > 1 else single)
    t.set(why=t.pick(("was tired from work", "had not eaten all day", "looked sad", "had lost a purse")))
    t.set(it="them" if left > 1 else "it", beast=t.pick(("sparrow", "dog", "goat", "squirrel", "duck")))
    t.meet()
    t.say("One day, {h} went to the market and bought {total} {many} for {h.his} {r.kind}.", "{h.His} {r.kind} sent {h.him} to the market for {many}, and {h} bought {total}.")
    t.say("{h.He} put them into {h.his} basket and walked home.", "The basket was heavy, and the sun was shining.")
    t.part()
    t.say("On the way, {h.he} met {p}, who {why}.", "By the well sat {p}, who {why}.")
    t.say('"Please take something from my basket," said {h}, and gave {p.him} {first} {firsts}.', "{h} felt sorry for {p.him} and gave {p.him} {first} {firsts}.")
    t.say("Now there were {middle} {middles} left in the basket." if total - first > 1 else "Now there was one {single} left in the basket.")
    t.say("A little later, {h.he} met {f}, who was playing in the road.", "At the corner stood {f}, {h}'s friend.")
    t.say('"How good that smells!" said {f}. And {h} gave {f.him} {second} {seconds}.', "{f} looked into the basket with big eyes, and so {h} gave {f.him} {second} {seconds}.")
    t.say("{h} counted: {total} take away {first} is {middle}, and {middle} take away {second} is {left}.", "Then {h} looked into the basket, and there {were} only {left} {lefts}.".replace("{were}", "were" if left > 1 else "was"))
    t.part()
    t.say('"What will {r} say?" thought {h}.', "{h} went more and more slowly, for {h.he} was a little afraid.")
    t.say('At home, {r} looked into the basket. "You wanted {total}," said {h}, "but I met so many people."', "{h} put the basket on the table and told {r} everything.")
    t.say('{r} laughed. "Then we will cut {it} into small pieces," {r.he} said.', '"You did well," said {r}. "A basket that is shared is never empty."')
    t.say("Just then, there was a knock at the door. It was {p}, with a big pot of soup to say thank you. And behind {p.him} came {f}, with a loaf of bread.", "In the evening, {p} came with a jar of jam, and {f} brought a fresh loaf, because they wanted to say thank you.")
    t.say("So there was a feast, and nobody got up hungry.", "They all sat down together, and there was more on the table than {h} had bought.", "They ate and laughed until the moon came up.")
    t.good_night()


def flatterer(t: Tale) -> None:
    t.beasts("h", "f", "x")
    t.set(treat=t.pick(("a big piece of cheese", "a whole honey cake", "a loaf of sweet bread", "a juicy pear", "a string of sausages")))
    t.set(noun=t.facts["treat"].split()[-1])
    art, praise = t.pick((("sing", "voice"), ("dance", "step"), ("whistle", "tone"), ("recite poems", "tongue")))
    t.set(art=art, praise=praise)
    t.say("{h} the {h.kind} had found {treat} and was carrying it home to {h_kind.home}.", "One fine day, a {h.kind} named {h} found {treat}. {h.He} wanted to eat it in peace.")
    t.say("{f} the {f.kind} smelled it from far away and was very hungry.", "but {f} the {f.kind} had seen it too, and {f.his} mouth began to water.")
    t.say('"How can I get it?" thought {f}. {f.He} was too lazy to look for food {f.himself}.', "{f} was known to be sly, and soon {f.he} had a plan.")
    t.part()
    t.say('"Good morning, dear {h}," said {f}. "How beautiful you look today!"', '"Ah, {h}!" called {f}. "I have never seen such a fine {h.kind}."')
    t.say("{h} was pleased, but held on to the {noun}.", "{h} nodded proudly and said nothing.")
    t.say('"And they say that nobody can {art} as you can," said {f}. "What a {praise} you must have! Will you not show me?"', '"If only I could see you {art} once!" said {f}. "I would tell the whole forest about it."')
    t.say("{h} could not resist. {h.He} put the {noun} down and began to {art}.", "That was too much for {h}. {h.He} laid the {noun} in the grass, closed {h.his} eyes and began to {art}.")
    t.say("In a moment, {f} had snatched the {noun} and was gone.", "{f} did not wait for the end. {f.He} grabbed the {noun} and ran.")
    t.part()
    if t.chance(0.5):
        t.say('{x} the {x.kind} had watched it all. "Sweet words can be expensive," {x.he} said.', '"I was a fool," {h} said to {x} the {x.kind}. "Yes," said {x}, "but you will not be one twice."')
        t.say("{h} went home hungry, but a little wiser.", "{h} sighed. There was nothing left but a few crumbs.")
        t.say("The next day, {f} came again with sweet words. But this time {h} kept {h.his} food in {h.his} paws and only smiled.".replace("in {h.his} paws", "behind {h.his} back"), "and when somebody praised {h.him} after that, {h} said thank you and held {h.his} dinner tight.")
        t.say("So it is: whoever praises too much wants something.", "and {f} had to look for {f.his} own breakfast.")
    else:
        t.say("But {f} ate so fast that {f.he} had a terrible stomach ache.", "but {f} ran so fast that {f.he} did not look where {f.he} was going and fell into a pit, {noun} and all.")
        t.say('"Oh, oh, help me!" {f} cried. {h} heard it, and {x} the {x.kind} heard it too.', "{f} lay there and groaned, until {h} and {x} the {x.kind} came by.")
        t.say('"It serves you right," said {x}. But {h} helped {f} all the same and brought {f.him} some water.', "They helped {f.him}, for they had kind hearts. \"But why did you not simply ask?\" said {h}. \"I would have given you half.\"")
        t.say('"Nobody has ever been so good to me," said {f}, and was ashamed.', "{f} hung {f.his} head and promised to be honest from now on.")
        t.say("The next day, {f} brought {h_kind.food}, and they ate it together.", "From then on, {f} asked, and {h} shared, and both had enough.")
