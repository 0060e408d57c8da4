from __future__ import annotations

import pytest

from interceptor.model.forwarding import CertificateDetails, Forwarding, ForwardingMode, Presented

DETAILS = CertificateDetails(subject=False)
EARLIER = Presented(earlier=True)


@pytest.mark.parametrize(
    ("mode", "proved", "unproved"),
    [
        ("SANITIZE", None, None),
        ("FORWARD_ONLY", EARLIER, None),
        ("APPEND_FORWARD", Presented(True, b"element"), None),
        ("SANITIZE_SET", Presented(False, b"element"), None),
        ("ALWAYS_FORWARD_ONLY", EARLIER, EARLIER),
    ],
)
def test_each_mode_tells_what_envoys_does(
    mode: ForwardingMode, proved: Presented | None, unproved: Presented | None
) -> None:
    asked: list[CertificateDetails] = []

    def element(details: CertificateDetails) -> bytes:
        asked.append(details)
        return b"element"

    forwarding = Forwarding(mode, DETAILS)
    assert forwarding.proved(element) == proved
    assert forwarding.unproved == unproved
    assert asked == ([DETAILS] if proved is not None and proved.element else [])


def test_without_a_word_it_is_istios_for_what_comes_to_an_app() -> None:
    assert Forwarding() == ("APPEND_FORWARD", (True, False, True, True))
