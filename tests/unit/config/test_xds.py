from __future__ import annotations

import pytest

from tests.support.documents import SIDECAR, problems

WORKLOAD = "tls: {certificate: /c, privateKey: /k, trustBundle: /b}"


@pytest.mark.parametrize(
    ("tls", "own", "problem"),
    [
        ("{trustBundle: /b}", "", None),
        ("{trustBundle: /b, certificate: /c, privateKey: /k}", "", None),
        ("{trustBundle: /b, certificate: /c}", "", "tls.privateKey: is required: a certificate and its key"),
        ("{trustBundle: /b, privateKey: /k}", "", "tls.certificate: is required: a certificate and its key"),
        ("{certificate: /c, privateKey: /k}", WORKLOAD, "tls.trustBundle: is required beside certificate"),
        ("{}", WORKLOAD, None),
        ("{}", "tls: {workloadApi: {}}", None),
        (
            "{}",
            "",
            "tls.trustBundle: is required where the Sidecar has no spec.tls of files or of workloadApi",
        ),
        ("{}", "tls: {sds: {}}", "tls.trustBundle: is required where the Sidecar has no spec.tls of files"),
    ],
)
def test_a_server_is_spoken_to_by_files_or_as_the_workload(tls: str, own: str, problem: str | None) -> None:
    found = problems(
        f"{SIDECAR}spec:\n  {own}\n  discovery: {{xds: {{servers: [{{address: 'a:1', tls: {tls}}}]}}}}\n"
    )
    if problem is None:
        assert found == []
    else:
        [said] = found
        assert f"spec.discovery.xds.servers[0].{problem}" in said
