"""Bootstrap tokens survive a round trip and refuse everything else in one sentence."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.errors import InvalidInput
from camsdk.wire.tokens import MAX_TOKEN_CHARS, PREFIX, decode_token, encode_token

CA = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


def _token(parts: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@given(endpoint=TEXT, secret=TEXT, fleet=TEXT)
def test_round_trip(endpoint: str, secret: str, fleet: str) -> None:
    text = encode_token(endpoint, secret, fleet, CA)
    assert text.isascii()
    assert " " not in text
    token = decode_token(f"  {text}\n")
    assert (token.endpoint, token.secret, token.fleet) == (endpoint, secret, fleet)
    assert token.ca_pem == CA


@pytest.mark.parametrize(
    "text",
    [
        "",
        "camtok2_abc",
        PREFIX,
        PREFIX + "!!!",
        PREFIX + "a",
        PREFIX + "A" * MAX_TOKEN_CHARS,
        _token([]),
        _token({"e": "h:1", "s": "x", "f": "park"}),
        _token({"e": "h:1", "s": 7, "f": "park", "c": "pem"}),
        _token({"e": "h:1", "s": "", "f": "park", "c": "pem"}),
    ],
)
def test_what_is_no_token_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_token(text)
    assert caught.value.hint


def test_a_cut_token_is_refused() -> None:
    text = encode_token("127.0.0.1:8445", "secret", "park-a", CA)
    for length in range(len(text)):
        with pytest.raises(InvalidInput):
            decode_token(text[:length])


@given(st.text(max_size=200))
def test_no_text_raises_anything_but_invalid_input(text: str) -> None:
    for candidate in (text, PREFIX + text):
        with pytest.raises(InvalidInput):
            decode_token(candidate)


def test_secrets_stay_out_of_repr_and_messages() -> None:
    token = decode_token(encode_token("127.0.0.1:8445", "hush-hush", "park-a", CA))
    assert "hush" not in repr(token)
    with pytest.raises(InvalidInput) as caught:
        decode_token(_token({"s": "hush-hush"}))
    assert "hush" not in str(caught.value)


def test_an_oversized_or_empty_part_is_refused() -> None:
    with pytest.raises(InvalidInput):
        encode_token("", "s", "f", CA)
    with pytest.raises(InvalidInput):
        encode_token("e", "s", "f", CA * 400)
