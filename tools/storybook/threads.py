"""What runs through a story beside its plot: a companion, a song, a saying. Has no plot and no cast."""

from typing import NamedTuple


class Thread(NamedTuple):
    """Something about {h} that runs through a story beside its plot: told first, and come back to."""

    begin: tuple[str, ...]
    middle: tuple[str, ...]
    end: tuple[str, ...]


THREADS = {
    "companion": Thread(
        (
            "{h.His} best companion was {buddy_a} {buddy.kind} named {buddy}.",
            "{buddy_a} {buddy.kind} named {buddy} went with {h.him} everywhere.",
            "{h.He} was never seen without {buddy}, {buddy_a} {buddy.kind}.",
        ),
        (
            "{buddy} the {buddy.kind} stayed close to {h}.",
            "{buddy} {buddy_noise} <softly|once|twice|quietly>, as if to say that all would be well.",
            "{buddy} looked at {h} with big eyes.",
            "{buddy} put {buddy.his} head to one side, as if {buddy.he} understood every word.",
        ),
        (
            "{buddy} the {buddy.kind} was given {treat_for_buddy}.",
            "Even {buddy} seemed to smile.",
            "And {buddy} {buddy_noise} for joy.",
            "{buddy} lay down at {h}'s feet and slept.",
        ),
    ),
    "garment": Thread(
        (
            "{h.He} always wore a {garment}.",
            "Everybody knew {h.him} by {h.his} {garment}.",
            "In the whole place, nobody else had a {garment} like {h.his} own.",
        ),
        (
            "{h} pulled {h.his} {garment} tighter.",
            "{h} wiped {h.his} nose with a corner of the {garment}.",
            "{h.His} {garment} could be seen from far away.",
        ),
        (
            "Then {h} hung {h.his} {garment} on its hook.",
            "{h.His} {garment} had a new hole, but {h} did not mind.",
            "And whoever meets somebody with a {garment} should ask whether it is {h}.",
        ),
    ),
    "dish": Thread(
        (
            "What {h.he} liked best to eat was {dish}.",
            "For a plate of {dish}, {h.he} would do anything.",
            "{h.He} could eat {dish} every day.",
        ),
        (
            "{h.His} belly growled, and {h.he} thought of {dish}.",
            "{h} wished for a plate of {dish}.",
            "It would soon be time for dinner, but {h} did not think of that.",
        ),
        (
            "And for supper {h} was given a big plate of {dish}.",
            "{h} ate two plates of {dish} that evening.",
            "Afterwards they all ate {dish}.",
        ),
    ),
    "song": Thread(
        (
            "{h.He} liked to hum a little song about {song}.",
            "All day long, {h.he} sang a song about {song}.",
            "{h.He} knew only one song, and it was about {song}.",
        ),
        (
            "To give {h.himself} courage, {h} hummed the song about {song}.",
            "Very quietly, {h} sang the song about {song}.",
            "This time {h} did not feel like singing.",
        ),
        (
            "And then everybody sang the song about {song}.",
            "{h} went home singing the song about {song}.",
            "Since then, the song about {song} has a new verse.",
        ),
    ),
    "saying": Thread(
        (
            '"{saying}," people used to say in that place.',
            'There was something that {h} had often been told: "{saying}."',
            'Over the door of the house was written: "{saying}."',
        ),
        ('"{saying}," thought {h}.', '"{saying}," {h} said to {h.himself}.', "{h} thought of the old saying."),
        (
            '"{saying}," said {h}, and it was true.',
            'So it is: "{saying}."',
            "And that is how {h} learned what the old saying means.",
        ),
    ),
}
