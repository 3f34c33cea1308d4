"""Small stories in English, made by a grammar: `story(seed)` is always the same text. Trains nothing.

python tools/stories.py --seed 1 --count 3      # read some
"""

import argparse
import random

from storybook import adventures, fables, home, making, outdoors, tales
from storybook.teller import Tale

PLOTS = (
    making.wish_for_a_skill, making.quarrel, making.gift, home.baking, home.broken, home.night_fear,
    outdoors.lost_and_found, outdoors.lost_and_found, outdoors.growing, outdoors.rescue, outdoors.new_friend,
    outdoors.sharing, adventures.journey, adventures.storm, adventures.fog_light, adventures.dragon,
    adventures.snowman, fables.race, fables.winter_store, fables.flatterer, tales.secret_helper,
    tales.foolish_wish, tales.sad_ruler,
)  # fmt: skip


def story(seed: int | str) -> str:
    """The story of this seed: three or four paragraphs, 130 to 300 words, with an end."""
    tale = Tale(random.Random(seed))
    tale.pick(PLOTS)(tale)
    return tale.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", default="0")
    parser.add_argument("--count", type=int, default=1)
    args = parser.parse_args()
    for i in range(args.count):
        print(story(f"{args.seed}:{i}"), end="\n\n----\n\n")


if __name__ == "__main__":
    main()
