from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from interceptor.model.identity import LONGEST, SpiffeId, is_segment, is_trust_domain


def test_an_identity_is_read_and_written() -> None:
    identity = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web-1")
    assert identity == SpiffeId("cluster.local", "shop", "web-1")
    assert str(identity) == "spiffe://cluster.local/ns/shop/sa/web-1"
    assert identity.principal == "cluster.local/ns/shop/sa/web-1"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe:",
        "https://cluster.local/ns/shop/sa/web",
        "SPIFFE://cluster.local/ns/shop/sa/web",
        "spiffe://Cluster.local/ns/shop/sa/web",
        "spiffe:///ns/shop/sa/web",
        "spiffe://cluster.local:80/ns/shop/sa/web",
        "spiffe://user@cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/",
        "spiffe://cluster.local/ns//sa/web",
        "spiffe://cluster.local/ns/shop/sa/web/",
        "spiffe://cluster.local/ns/shop/sa/web/more",
        "spiffe://cluster.local/sa/shop/ns/web",
        "spiffe://cluster.local/NS/shop/SA/web",
        "spiffe://cluster.local/ns/../sa/web",
        "spiffe://cluster.local/ns/./sa/web",
        "spiffe://cluster.local/ns/shop/sa/we%62",
        "spiffe://cluster.local/ns/shop/sa/web?x",
        "spiffe://cluster.local/ns/shop/sa/web#x",
        "spiffe://cluster.local/ns/shop/sa/web\n",
        "spiffe://cluster.local\n/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/wéb",
        "spiffe://cluster.local/ns/shop/sa/" + "a" * LONGEST,
    ],
)
def test_every_other_form_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"SPIFFE id of|is not of the form"):
        SpiffeId.parse(uri)


@given(st.text())
def test_nothing_else_is_ever_taken_for_an_identity(text: str) -> None:
    for uri in (text, f"spiffe://{text}", f"spiffe://td/ns/{text}/sa/x", f"spiffe://td/ns/x/sa/{text}"):
        try:
            identity = SpiffeId.parse(uri)
        except ValueError:
            continue
        assert str(identity) == uri


_segments = st.from_regex(r"[a-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True), _segments, _segments)
def test_what_is_written_is_read_again(trust_domain: str, namespace: str, account: str) -> None:
    assert is_trust_domain(trust_domain)
    assert is_segment(namespace)
    identity = SpiffeId(trust_domain, namespace, account)
    assert SpiffeId.parse(str(identity)) == identity
