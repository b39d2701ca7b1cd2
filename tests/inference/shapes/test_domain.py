"""The domain of a data set holds what its captions show, and nothing else."""

from inference.shapes.captions import parse
from inference.shapes.domain import Domain


def test_a_domain_holds_what_its_captions_name() -> None:
    domain = Domain.of(
        [
            "a small red star in the middle on a blue background",
            "a striped white heart on a red background, outlined",
        ]
    )
    held = (
        "a red heart on a blue background",
        "a large striped blue star on a white background, outlined",
    )
    not_held = (
        "a green star on a blue background",
        "a red star on a green background",
        "a dotted red star on a blue background",
        "a red circle on a blue background",
        "a red star on a blue background, with shadows",
        "a red star and a white heart on a blue background",
    )
    assert all(domain.holds(parse(text)) for text in held)
    assert not any(domain.holds(parse(text)) for text in not_held)
    assert domain.in_words() == (
        "1 figure; heart, star; blue, red, white; solid, striped; flat, outlined"
    )
