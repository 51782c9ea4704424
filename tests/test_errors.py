"""What other libraries say becomes a part of one line."""

from lightning_modules.errors import counted, sentence


def test_an_error_is_one_line_of_bounded_length_and_never_empty():
    assert sentence(ValueError("one\n\n  and  two\n")) == "one and two"
    assert sentence(TimeoutError()) == sentence(TimeoutError(" \n")) == "TimeoutError"
    assert len(sentence(ValueError("x" * 1000))) == 300
    assert len(sentence(ValueError("x" * 1000), 200)) == 200
    assert len(sentence(ValueError("x" * 1000), None)) == 1000


def test_one_of_a_thing_is_no_plural():
    assert [counted(number, "image") for number in (0, 1, 1797)] == ["0 images", "1 image", "1,797 images"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]
