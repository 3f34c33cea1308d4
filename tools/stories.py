"""Small stories in English, made by a grammar: `story(seed)` is always the same text. Trains nothing.

    python tools/stories.py --seed 1 --count 3      # read some
"""

import argparse
import random

import story_plots as plots
import story_tales as tales
from story_teller import Tale

PLOTS = (
    plots.lost_and_found, plots.lost_and_found, plots.wish_for_a_skill, plots.quarrel, plots.gift, plots.baking,
    plots.growing, plots.night_fear, plots.rescue, plots.new_friend, plots.broken,
    tales.race, tales.journey, tales.storm, tales.secret_helper, tales.winter_store, tales.foolish_wish,
    tales.snowman, tales.sad_ruler, tales.fog_light, tales.dragon, tales.sharing, tales.flatterer,
)  # fmt: skip


def story(seed: int | str) -> str:
    """The story of this seed: three paragraphs or so, 120 to 300 words, with an end."""
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
