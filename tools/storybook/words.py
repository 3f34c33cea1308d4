"""The words that stories are made of: people, animals, things, places, weather. Tells no story.

A word carries what follows from it (a mouse its hole, mittens their plural, rain its puddles), so that
a plot that uses the fields stays sound whatever is drawn.
"""

from dataclasses import dataclass, replace

PRONOUNS = {"f": ("she", "her", "her"), "m": ("he", "him", "his")}


@dataclass(frozen=True)
class Person:
    """Who can act: a name ("Rosa", "the baker") and its pronouns; `kind` is what a child is not."""

    name: str
    gender: str
    kind: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def he(self) -> str:
        return PRONOUNS[self.gender][0]

    @property
    def He(self) -> str:
        return self.he.capitalize()

    @property
    def him(self) -> str:
        return PRONOUNS[self.gender][1]

    @property
    def his(self) -> str:
        return PRONOUNS[self.gender][2]

    @property
    def His(self) -> str:
        return self.his.capitalize()

    @property
    def himself(self) -> str:
        return self.him + "self"

    @property
    def child(self) -> str:
        return {"f": "girl", "m": "boy"}[self.gender]


@dataclass(frozen=True)
class Thing:
    """What can be held, lost and found. `made` says how somebody came to make it."""

    noun: str
    made: str
    use: str
    plural: bool = False
    look: str = ""

    def __str__(self) -> str:
        return f"{self.look} {self.noun}".strip()

    def looking(self, look: str) -> "Thing":
        return replace(self, look=look)

    @property
    def a(self) -> str:
        return f"a pair of {self}" if self.plural else f"a {self}"

    @property
    def it(self) -> str:
        return "they" if self.plural else "it"

    @property
    def them(self) -> str:
        return "them" if self.plural else "it"

    @property
    def was(self) -> str:
        return "were" if self.plural else "was"

    @property
    def is_(self) -> str:
        return "are" if self.plural else "is"


@dataclass(frozen=True)
class Place:
    """Where a scene is. `at` has its preposition; `spots` are where things hide, `sights` what one sees."""

    the: str
    at: str
    spots: tuple[str, ...]
    sights: tuple[str, ...]
    animals: tuple[str, ...]


@dataclass(frozen=True)
class Weather:
    """A day's weather and what follows from it."""

    adjective: str
    seen: tuple[str, ...]
    ground: tuple[str, ...]
    mishap: tuple[str, ...]
    home: tuple[str, ...]


@dataclass(frozen=True)
class Animal:
    """A kind of animal that talks: its home, and what it likes to eat."""

    noun: str
    home: str
    food: str


GIRLS = (
    "Lily Mia Anna Rosa Clara Nora Ella Ruby Sara Maya Ida Tess Elsie Ivy Wren Poppy Hazel Daisy Olive Greta "
    "Freya June Molly Lucy Amira Zara Priya Mei Yuki Aisha Leila Noor Ines Paloma Ingrid Astrid Marta Hanna Juno "
    "Pearl Willa Ada Edith Flora Mabel Nell Dora Kira Tala Saskia Bella Emma Alice Sophie Grace Rose Nina Eva"
).split()
BOYS = (
    "Tom Ben Sam Max Leo Jack Finn Otto Hugo Felix Theo Noah Emil Anton Oscar Jonas Milo Arlo Henry Peter Paul "
    "Simon Oliver Toby Karl Omar Ali Ravi Kenji Tariq Mateo Diego Luca Marco Pablo Ivan Nico Jasper Ned Walter "
    "Edgar Bruno Kofi Rafi Sami Tim Will Adam Jacob Daniel Arthur George Harry Joe David Alfie Mark Erik"
).split()
PETS = (
    "Biscuit Pepper Patch Mittens Button Clover Pickle Ginger Socks Bramble Nutmeg Dusty Smoky Waffle Pebble Acorn "
    "Bubbles Cocoa Marble Crumb Domino Fudge Muffin Thistle Sparky Tumble Whisper Toffee Pumpkin Scout"
).split()

# Names that nobody has, so that a name must be copied from the text and not known by heart.
ONSETS = "b br d dr f g gr h j k l m n p r s st t tr v w z".split()
VOWELS = "a e i o u".split()
MIDDLES = "l ll m n nn r rr b d v z lm nd rl".split()
ENDINGS = {"f": "a ia ina elle ena i etta".split(), "m": "o in us en ik or an".split()}

# Aunts and uncles have names of their own, see Tale.relative.
RELATIVES = (
    Person("Grandmother", "f", "grandmother"),
    Person("Grandfather", "m", "grandfather"),
    Person("Mother", "f", "mother"),
    Person("Father", "m", "father"),
)

TRADES = (
    "baker blacksmith gardener ferryman librarian shepherd postman miller tailor fisherman carpenter clockmaker "
    "farmer potter teacher beekeeper"
).split()

COLOURS = "red blue green yellow purple white orange pink brown grey golden silver striped spotted".split()
SIZES = ("small", "big", "little")

THINGS = (
    Thing("kite", "had built from paper and thin sticks", "fly it in the wind"),
    Thing("ball", "had sewn from old leather", "throw it high into the air"),
    Thing("doll", "had made from cloth and wool", "carry it everywhere"),
    Thing("scarf", "had knitted during the winter", "wear it every day"),
    Thing("hat", "had sewn from soft felt", "wear it every day"),
    Thing("cap", "had sewn by hand", "wear it every day"),
    Thing("boat", "had carved from a piece of wood", "let it sail on the water"),
    Thing("whistle", "had carved from a willow branch", "blow it loudly"),
    Thing("drum", "had made from an old pot", "beat it with two sticks"),
    Thing("teddy bear", "had sewn from soft cloth", "hold it close at night"),
    Thing("lantern", "had made from tin and glass", "carry it in the dark"),
    Thing("bell", "had bought at the fair", "ring it softly"),
    Thing("flute", "had carved from a reed", "play little songs on it"),
    Thing("spinning top", "had carved from a piece of wood", "watch it spin"),
    Thing("blanket", "had sewn from many small pieces of cloth", "wrap it around the shoulders"),
    Thing("compass", "had carried across the sea", "watch the needle turn"),
    Thing("marble", "had won in a game long ago", "hold it up to the light"),
    Thing("basket", "had woven from willow twigs", "fill it with berries"),
    Thing("feather", "had found on a high mountain", "keep it safe in a pocket"),
    Thing("key", "had kept for many years", "wonder what it opened"),
    Thing("book", "had read as a child", "look at the pictures"),
    Thing("mittens", "had knitted during the winter", "wear them every day", plural=True),
    Thing("boots", "had bought at the market", "jump into puddles with them", plural=True),
    Thing("socks", "had knitted by the fire", "wear them every day", plural=True),
    Thing("skates", "had polished until they shone", "race across the ice with them", plural=True),
)

PLACES = (
    Place(
        "the garden",
        "in the garden",
        (
            "under the rose bush",
            "behind the old shed",
            "beside the watering can",
            "between the cabbages",
            "under a flower pot",
        ),
        ("the roses were blooming", "the beans were climbing up their poles", "bees were humming around the flowers"),
        ("robin", "snail", "hedgehog", "blackbird"),
    ),
    Place(
        "the park",
        "in the park",
        (
            "under a bench",
            "behind the fountain",
            "beside the swings",
            "under the big chestnut tree",
            "in a heap of leaves",
        ),
        ("children were playing on the swings", "an old man was feeding the pigeons", "the fountain was splashing"),
        ("pigeon", "squirrel", "duck", "sparrow"),
    ),
    Place(
        "the beach",
        "on the beach",
        (
            "behind a rock",
            "under an old rowing boat",
            "between two shells",
            "in a pool of sea water",
            "under a heap of seaweed",
        ),
        ("the waves were rolling in", "white gulls were sailing over the water", "small boats were rocking on the sea"),
        ("crab", "gull", "seal"),
    ),
    Place(
        "the forest",
        "in the forest",
        (
            "under a fern",
            "inside a hollow tree",
            "between the roots of an oak",
            "behind a mossy stone",
            "in a patch of mushrooms",
        ),
        ("the trees were whispering", "sunbeams fell between the leaves", "a woodpecker was knocking somewhere"),
        ("fox", "owl", "deer", "squirrel", "badger"),
    ),
    Place(
        "the farm",
        "on the farm",
        ("in the hay", "behind the barn", "under the cart", "beside the water trough", "in the hen house"),
        ("the hens were scratching in the yard", "the cows were chewing slowly", "the rooster was strutting about"),
        ("goat", "hen", "donkey", "goose"),
    ),
    Place(
        "the river",
        "by the river",
        ("in the reeds", "under the little bridge", "on a flat stone", "behind a willow", "in the mud near the water"),
        ("the water was glittering", "dragonflies were dancing over the water", "small fish were darting about"),
        ("frog", "otter", "duck", "heron"),
    ),
    Place(
        "the meadow",
        "in the meadow",
        ("in the tall grass", "behind the fence", "under a thistle", "beside a molehill", "among the daisies"),
        (
            "the daisies were nodding",
            "butterflies were flying from flower to flower",
            "the grass was waving like the sea",
        ),
        ("hare", "mole", "lamb", "grasshopper"),
    ),
    Place(
        "the market",
        "at the market",
        ("under the apple stall", "behind a barrel", "in a basket of onions", "beside the well", "under a cart"),
        ("people were selling apples and cheese", "a man was playing the fiddle", "the stalls were full of colours"),
        ("dog", "cat", "donkey", "sparrow"),
    ),
    Place(
        "the hill",
        "on the hill",
        ("behind a big stone", "under a bush", "in a small cave", "beside the old wall", "in the long grass"),
        ("one could see the whole village", "sheep were grazing in the sun", "the clouds seemed very near"),
        ("goat", "lamb", "hare", "falcon"),
    ),
    Place(
        "the schoolyard",
        "in the schoolyard",
        ("behind the wall", "under the steps", "beside the gate", "in the sand box", "under the slide"),
        ("children were skipping rope", "the bell was about to ring", "somebody had drawn a chalk dragon"),
        ("cat", "sparrow", "dog"),
    ),
)

WEATHERS = {
    "sunny": Weather(
        "sunny",
        ("the sun was shining", "the sky was blue", "there was not a cloud in the sky"),
        ("the ground was warm and dry", "everything was bright"),
        ("{h} was looking at a butterfly", "{h} stopped to eat some berries", "{h} fell asleep in the warm grass"),
        ("the air was still warm", "the sky turned pink"),
    ),
    "rainy": Weather(
        "rainy",
        ("rain was falling", "the rain was drumming on the roofs", "grey clouds hung low"),
        ("the ground was wet and muddy", "there were puddles everywhere"),
        ("{h} slipped in the mud", "{h} jumped over a big puddle", "{h} ran to get out of the rain"),
        ("{h.he} hung up {h.his} wet coat", "{h.he} dried {h.his} wet hair by the fire"),
    ),
    "windy": Weather(
        "windy",
        ("the wind was blowing", "the wind was whistling around the house", "leaves were flying through the air"),
        ("the branches were bending", "dust was whirling along the road"),
        (
            "a strong gust of wind came",
            "the wind blew {h}'s hair into {h.his} eyes",
            "the wind pulled and pushed at {h}",
        ),
        ("the wind grew quiet at last", "the wind was still singing in the chimney"),
    ),
    "snowy": Weather(
        "snowy",
        ("snow was falling", "everything was white", "big snowflakes were dancing in the air"),
        ("the snow was deep and soft", "the paths were covered with snow"),
        ("{h} slipped on the ice", "{h} tumbled into a deep drift of snow", "{h} stopped to build a little snowman"),
        ("{h.he} warmed {h.his} cold fingers by the stove", "{h.he} shook the snow from {h.his} boots"),
    ),
    "foggy": Weather(
        "foggy",
        ("fog lay over the fields", "the whole world was grey and soft", "one could hardly see the next tree"),
        ("everything was damp and silent", "the path was hard to see"),
        (
            "{h} stumbled over a root in the fog",
            "{h} took the wrong path in the fog",
            "{h} turned around because of a strange sound",
        ),
        ("the fog lifted at last", "the stars came out when the fog was gone"),
    ),
}
SEASONS = {
    "spring": ("sunny", "rainy", "windy"),
    "summer": ("sunny", "sunny", "rainy"),
    "autumn": ("windy", "rainy", "foggy", "sunny"),
    "winter": ("snowy", "snowy", "foggy"),
}

ANIMALS = (
    Animal("mouse", "a hole under the kitchen stairs", "cheese"),
    Animal("fox", "a den under a fallen tree", "blackberries"),
    Animal("bear", "a cave behind the waterfall", "honey"),
    Animal("owl", "a hollow oak", "chestnuts"),
    Animal("hedgehog", "a heap of dry leaves", "apples"),
    Animal("squirrel", "a nest high in a beech tree", "acorns"),
    Animal("tortoise", "a quiet corner of the garden", "lettuce"),
    Animal("frog", "a pond full of lilies", "sweet plums"),
    Animal("otter", "a bank by the river", "watercress"),
    Animal("badger", "a tidy burrow on the hill", "mushrooms"),
    Animal("crow", "the top of a tall pine", "cherries"),
    Animal("rabbit", "a burrow under the hedge", "carrots"),
    Animal("duck", "a nest among the reeds", "bread crumbs"),
    Animal("goat", "a shed on the mountain", "clover"),
    Animal("mole", "a long tunnel under the meadow", "turnips"),
    Animal("sparrow", "a nest under the roof", "seeds"),
)

# A trait, and what one who has it does.
GOOD_TRAITS = {
    "kind": "always shared what {h.he} had",
    "curious": "asked a hundred questions every day",
    "brave": "was not afraid of the dark",
    "patient": "could wait longer than anybody else",
    "cheerful": "sang from morning to night",
    "clever": "could solve every riddle",
    "gentle": "never hurt even the smallest beetle",
    "quiet": "noticed things that nobody else noticed",
    "helpful": "carried wood and water for the neighbours",
    "honest": "always told the truth, even when it was hard",
    "dreamy": "saw castles and dragons in every cloud",
    "stubborn": "never gave up before the work was done",
    "polite": "said good morning even to the hens",
    "funny": "could make anybody laugh",
    "careful": "looked twice before every step",
    "hopeful": "believed that tomorrow would be even better",
}
BAD_TRAITS = {
    "proud": "thought {h.himself} better than everybody else",
    "greedy": "wanted everything for {h.himself}",
    "lazy": "slept until noon every day",
    "careless": "forgot everything that {h.he} was told",
    "impatient": "could not wait for anything",
    "shy": "hid whenever a stranger came by",
    "grumpy": "complained about the weather, whatever it was",
    "forgetful": "left one shoe here and the other one there",
}

HOMES = (
    "a small village by the sea",
    "a little house at the edge of the forest",
    "a town with crooked streets",
    "a valley between two mountains",
    "a cottage with a green door",
    "a village on a hill",
    "a house beside a mill",
    "a tall house near the harbour",
    "a farmhouse far from the road",
    "an old house with a red roof",
    "a town by a wide river",
    "a village where everybody knew everybody",
    "a house under three tall pines",
    "a little town with seven bridges",
    "a cottage at the foot of a mountain",
    "a village among apple trees",
    "a narrow house between two wide ones",
    "a hut beside a lake",
    "a street full of bakers and tailors",
    "a village at the end of the railway",
    "a windy town on the coast",
    "a stone house on the moor",
)

GARMENTS = ("coat", "scarf", "cloak", "jacket", "shawl")
DISHES = (
    "pancakes with honey",
    "potato soup",
    "baked apples",
    "noodles with cheese",
    "warm bread with plum jam",
    "bean stew",
    "dumplings",
    "rice pudding",
    "fried eggs",
    "pea soup",
    "waffles",
    "carrot pie",
)
SONGS = (
    "three grey geese",
    "a fish that lived in the moon",
    "an old sailor",
    "a king without a crown",
    "seven little goats",
    "a boat made of paper",
    "the north wind",
    "a cat with a fiddle",
    "a tree that could walk",
    "two brave snails",
)
SAYINGS = (
    "Little by little the bird builds its nest",
    "After the rain comes the sun",
    "A small key opens a big door",
    "Slow feet come home too",
    "One candle can light a hundred others",
    "Every river begins with a drop",
    "Who asks will find the way",
    "Good things like to hide",
    "Even the tall oak was once an acorn",
    "Tomorrow is another morning",
    "Many hands make a light load",
    "A warm heart melts the ice",
)
# A companion's noise and what it likes to be given.
COMPANIONS = {
    "dog": ("barked", "a big bone"),
    "cat": ("meowed", "a bowl of cream"),
    "goose": ("honked", "some barley"),
    "donkey": ("brayed", "a carrot"),
    "parrot": ("squawked", "a walnut"),
    "pony": ("snorted", "an apple"),
}
