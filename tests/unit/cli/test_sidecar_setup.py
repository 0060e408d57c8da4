"""The command line of sidecar-setup where no kernel is needed: output, exit status, errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interceptor.cli.flags import MAX_FILE
from interceptor.cli.sidecar_setup import run
from interceptor.config.redirect import FLAGS
from interceptor.kernel import child


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SIDECAR_SETUP_")]:
        monkeypatch.delenv(name)


def test_plan_prints_plain_language(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--exclude-egress-ports", "22", "--exclude-egress-ports", "25-27"]) == 0
    output = capsys.readouterr().out
    assert "to port 22, 25-27" in output
    assert "[--exclude-egress-ports]" in output
    assert output.endswith("IPv6 is captured like IPv4.\n")


def test_plan_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--output", "json"]) == 0
    assert [chain["name"] for chain in json.loads(capsys.readouterr().out)["chains"]] == [
        "INTERCEPTOR_INGRESS",
        "INTERCEPTOR_EGRESS",
    ]


def test_plan_prints_what_iptables_restore_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--output", "iptables", "--ipv6", "off"]) == 0
    assert capsys.readouterr().out.startswith("# IPv4: iptables-restore --noflush\n*nat\n")


def test_plan_prints_what_nft_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--output", "nft"]) == 0
    assert "\ntable inet interceptor {\n" in capsys.readouterr().out


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("egress-port: 1\ningress-port: 2\nproxy-uid: 3\n")
    monkeypatch.setenv("SIDECAR_SETUP_INGRESS_PORT", "20")
    monkeypatch.setenv("SIDECAR_SETUP_PROXY_UID", "30")
    monkeypatch.setenv("SIDECAR_SETUP_CONFIG", str(file))
    assert run(["plan", "--proxy-uid", "300"]) == 0
    output = capsys.readouterr().out
    assert "the proxy, port 1:" in output
    assert "the proxy, port 20:" in output
    assert "opened by uid 300 " in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command; 'sidecar-setup --help' shows the usage"),
        (["statu"], "No such command 'statu'"),
        (["plan", "--bogus"], "No such option: --bogus; 'sidecar-setup plan --help' shows the usage"),
        (["plan", "extra"], "unexpected extra argument"),
        (["plan", "--output", "x"], "'x' is not one of 'text', 'json', 'iptables', 'nft'"),
        (["plan", "--wait"], "requires an argument"),
        (["plan", "--wait", ""], "--wait: is empty"),
        (["plan", "--wait", "1", "--wait", "2"], "--wait: '1,2' is not a number of seconds"),
        (["plan", "--proxy-uid", "0"], "--proxy-uid: '0' is root"),
        (["plan", "--config", "/nowhere/rules.yaml"], "cannot read /nowhere/rules.yaml: No such file"),
        (["plan", "--config", "/"], "cannot read /: Is a directory"),
        (["apply", "--netns", "no-such-namespace"], "network namespace 'no-such-namespace' does not exist"),
        (["remove", "--netns", "../../etc/passwd/x"], "does not exist"),
        (["status", "--netns", "999999999"], "no process has this id"),
        (["remove", "--proxy-uid", "1"], "No such option: --proxy-uid"),
    ],
    ids=str,
)
def test_bad_usage_is_one_sentence_and_exit_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("sidecar-setup: ")
    assert says in captured.err


def test_all_problems_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("proxyuid: 1\n")
    monkeypatch.setenv("SIDECAR_SETUP_TYPO", "1")
    assert run(["plan", "--config", str(file), "--ipv6", "x", "--exclude-uids", "nobodyhere,-"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert f"{file}:1: proxyuid: there is no such flag" in errors[0]


def test_errors_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["plan", "--log-format", "json", "--bogus"], ["plan", "--bogus", "--log-format=json"]):
        assert run(arguments) == 2
        assert json.loads(capsys.readouterr().err)["message"].startswith("No such option")
    monkeypatch.setenv("SIDECAR_SETUP_LOG_FORMAT", "json")
    assert run([]) == 2
    assert json.loads(capsys.readouterr().err)["level"] == "error"
    assert run(["plan", "--log-format"]) == 2


@pytest.mark.parametrize(
    ("content", "says"), [(b"\xff\xfe", "not a text file"), (b"#" * (MAX_FILE + 1), "larger than")]
)
def test_a_file_that_is_no_file_of_flags(
    tmp_path: Path, content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(content)
    assert run(["plan", "--config", str(file)]) == 2
    assert says in capsys.readouterr().err


def test_remove_and_status_do_not_care_about_wrong_flags_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_SETUP_PROXY_UID", "0")
    monkeypatch.setenv("SIDECAR_SETUP_TYPO", "0")
    monkeypatch.setenv("SIDECAR_SETUP_NETNS", "no-such-namespace")
    for command in ("remove", "status"):
        assert run([command]) == 2
        assert "'no-such-namespace' does not exist" in capsys.readouterr().err


def as_another_user(*arguments: str) -> tuple[int, str]:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        return run(arguments), errors.getvalue()


@pytest.mark.parametrize("command", ["apply", "remove", "status"])
def test_without_root_the_remedy_is_told(command: str) -> None:
    status, errors = child.call(None, as_another_user, command)
    assert (status, errors) == (
        1,
        "sidecar-setup: reading and changing redirect rules needs root; run the command with sudo\n",
    )


def test_plan_needs_no_root_and_no_library() -> None:
    """Nor does it load what only the kernel commands need, so that it starts in an instant."""
    script = (
        "import sys\n"
        "from interceptor.cli.sidecar_setup import run\n"
        "assert run(['plan']) == 0\n"
        "print(sorted({'trio', 'pyroute2', 'iptc', 'yaml', 'ctypes'} & set(sys.modules)))\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


def test_help_lists_every_shared_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "--help"]) == 0
    output = capsys.readouterr().out
    assert [flag.name for flag in FLAGS if f"--{flag.name} " not in output] == []


def test_a_reader_that_goes_away_hears_nothing_more() -> None:
    script = "from interceptor.cli.sidecar_setup import main; main()"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", script, "plan"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_output_that_nobody_can_take_is_a_sentence() -> None:
    script = "from interceptor.cli.sidecar_setup import main; main()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script, "plan"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (
        1,
        "sidecar-setup: cannot write the output: No space left on device\n",
    )
