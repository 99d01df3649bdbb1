"""Whatever is done to a password in an address, it is in nothing that is shown or recorded."""

import pytest

from vgpt.addresses import ambiguous, bare, masked, masked_text, secrets_of, without_credentials


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:5000/path", "http://host:5000/path"),
        ("https://al:pw@host:5000/path", "https://***@host:5000/path"),
        ("http://al:p%2Fw@host", "http://***@host"),
        ("http://al:s3cr/et9@host:9", "http://***@host:9"),
        ("http://al:s3cr?et9@host:9/x", "http://***@host:9/x"),
        ("http://al:s3cr#et9@host:9", "http://***@host:9"),
        ("http://al:s3cr[et9@host:9", "http://***@host:9"),
        ("http://al:1234/5@host", "http://***@host"),
        ("http://al:p@ss@host", "http://***@host"),
        ("http://al:pw@[::1]:5000", "http://***@[::1]:5000"),
        ("http://[::1", "http://***"),
        ("http://al:s3cret", "http://***"),
        ("postgresql+psycopg2://al:s3cr/et9@host/db?sslpassword=x", "postgresql+psycopg2://***@host/db"),
        ("postgresql://al:pw@a:1,b:2/db", "postgresql://***@a:1,b:2/db"),
        ("al:s3cret@host:5000", "***@host:5000"),
        ("sqlite:////home/me@work/what?/50%.db", "sqlite:////home/me@work/what?/50%.db"),
    ],
)
def test_user_information_is_cut_also_where_it_breaks_the_grammar(address, shown):
    assert masked(address) == shown
    assert bare(address) == shown.replace("***@", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at ftp://u:p@h/x and http://h/y@z", "at ftp://***@h/x and http://h/y@z"),
        ("no answer from 'http://al:s3cr/et9@host:9', twice", "no answer from 'http://***@host:9', twice"),
        ("extra argument (http://al:s3cr/et9@host:9).", "extra argument (http://***@host:9)."),
        ("got http://al:it's)[s3cret]@host:9 now", "got http://***@host:9 now"),
        ("see http://host/x?token=abcdef now", "see http://host/x now"),
        ("mail me@home about sqlite:////a@b/c.db", "mail me@home about sqlite:////a@b/c.db"),
    ],
)
def test_addresses_within_a_text_are_masked_and_the_text_stays(text, shown):
    assert masked_text(text) == shown


def test_a_setting_that_is_no_address_stays_as_it_is():
    assert without_credentials("me@work/file?x") == "me@work/file?x"


def test_the_secrets_of_an_address_are_known_in_every_spelling():
    found = secrets_of("postgresql://al:s3cr%2Fet@host/db?sslpassword=hid%20den&connect_timeout=30")
    assert {"s3cr/et", "s3cr%2Fet", "hid den"} <= found
    assert "30" not in found


def test_an_address_that_can_be_read_in_two_ways_is_told_from_a_plain_one():
    assert ambiguous("http://al:s3cr/et9@host:9")
    assert ambiguous("http://[::1")
    assert not ambiguous("https://al:s3cr%2Fet9@host:9/path?x=1")
    assert not ambiguous("sqlite:////a@b/c@d.db")
