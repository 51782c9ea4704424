"""What other libraries say becomes a part of one line."""

from lightning_modules.errors import sentence


def test_an_error_is_one_line_of_bounded_length_and_never_empty():
    assert sentence(ValueError("one\n\n  and  two\n")) == "one and two"
    assert sentence(TimeoutError()) == sentence(TimeoutError(" \n")) == "TimeoutError"
    assert len(sentence(ValueError("x" * 1000))) == 300
    assert len(sentence(ValueError("x" * 1000), 200)) == 200
    assert len(sentence(ValueError("x" * 1000), None)) == 1000
