from metasgd.data.omniglot.release import BACKGROUND, EVALUATION, OFFICIAL


def test_the_official_release_has_the_published_counts() -> None:
    background, evaluation = OFFICIAL.parts[BACKGROUND], OFFICIAL.parts[EVALUATION]
    assert (len(background), sum(background.values())) == (30, 964)
    assert (len(evaluation), sum(evaluation.values())) == (20, 659)
    assert not set(background) & set(evaluation)
    assert OFFICIAL.drawings == 20


def test_the_random_split_shares_out_every_character() -> None:
    assert sum(OFFICIAL.random_sizes) == 1623


def test_validation_holds_out_the_five_smallest_background_alphabets() -> None:
    background = OFFICIAL.parts[BACKGROUND]
    assert len(set(OFFICIAL.val_alphabets)) == 5
    largest_held_out = max(background[alphabet] for alphabet in OFFICIAL.val_alphabets)
    assert largest_held_out < min(n for alphabet, n in background.items() if alphabet not in OFFICIAL.val_alphabets)
