from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from scripts.benchmark.outputs import (
    Bulk,
    OutputError,
    Process,
    Requests,
    busy_seconds,
    descendants,
    listening_ports,
    memory_mb,
    parse_h2load,
    parse_iperf3,
    parse_process,
    parse_wrk,
    redirected,
    total_seconds,
)

WRK = """\
Running 2s test @ http://10.9.0.2:8080/
  2 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.50ms    1.00ms   9.00ms   90.00%
  50200 requests in 2.01s, 9.00MB read
Requests/sec:  25100.00
bench: {"requests": 50200, "duration_us": 2000000, "p50_us": 1500, "p99_us": 5200, "connect": 0, "read": 1, "write": 2, "status": 3, "timeout": 4}
"""


def test_wrk_says_requests_and_latencies_on_one_line() -> None:
    assert parse_wrk(WRK) == Requests(50200, 2.0, 1.5, 5.2, connect_errors=0, other_errors=6, timeouts=4)


@pytest.mark.parametrize(
    ("text", "said"), [("unable to connect\n", "unable to connect"), ("", "it printed nothing")]
)
def test_wrk_without_a_result_is_an_error_with_its_last_words(text: str, said: str) -> None:
    with pytest.raises(OutputError, match=f"no result: {said}"):
        parse_wrk(text)


@pytest.mark.parametrize(
    ("requests", "connect_errors", "other_errors", "flaw"),
    [
        (1000, 0, 0, None),
        (1000, 0, 1, None),
        (1000, 0, 2, "2 of 1000 requests failed"),
        (1000, 1, 0, "1 connections could not be made (local ports exhausted?)"),
        (0, 0, 0, "no request was answered"),
    ],
)
def test_a_run_that_measured_something_else_has_a_flaw(
    requests: int, connect_errors: int, other_errors: int, flaw: str | None
) -> None:
    assert Requests(requests, 1.0, 1.0, 1.0, connect_errors, other_errors, timeouts=9).flaw() == flaw


def test_iperf3_counts_what_the_receiver_got() -> None:
    end = {"sum_sent": {"bytes": 9, "seconds": 1}, "sum_received": {"bytes": 1_250_000_000, "seconds": 2.0}}
    result = parse_iperf3(json.dumps({"end": end}))
    assert result == Bulk(1_250_000_000, 2.0)
    assert result.gbit == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"end": {}, "error": "unable to connect to server"}', "iperf3: unable to connect to server"),
        ("iperf3: command not understood", "no JSON: iperf3: command not understood"),
        ('{"end": {}}', "received nothing"),
        ('{"end": {"sum_received": {"bytes": 0, "seconds": 1}}}', "received nothing"),
        ('{"end": {"sum_received": {"bytes": 1, "seconds": 0}}}', "received nothing"),
    ],
)
def test_iperf3_without_a_result_is_an_error(text: str, said: str) -> None:
    with pytest.raises(OutputError, match=said):
        parse_iperf3(text)


def test_the_machine_is_busy_with_all_but_idling_waiting_and_stolen_time() -> None:
    stat = "cpu  100 20 300 4000 50 6 7 8 90 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"
    assert busy_seconds(stat, 100) == pytest.approx((100 + 20 + 300 + 6 + 7) / 100)
    assert total_seconds(stat, 100) == pytest.approx((100 + 20 + 300 + 4000 + 50 + 6 + 7 + 8) / 100)


@given(
    st.text(alphabet=st.characters(exclude_categories=["C", "Z"])) | st.sampled_from(["a b", ") (", ") S 9"])
)
def test_a_process_is_read_whatever_its_name(name: str) -> None:
    stat = f"42 ({name}) S 7 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 99\n"
    assert parse_process(stat, 100) == Process(42, 7, 2.0)


def test_descendants_are_found_below_each_other_in_any_order() -> None:
    tree = [
        Process(5, 4, 0.0),
        Process(4, 3, 0.0),
        Process(3, 1, 0.0),
        Process(6, 1, 0.0),
        Process(1, 0, 0.0),
    ]
    assert [process.pid for process in descendants(tree, 3)] == [5, 4, 3]
    assert descendants(tree, 99) == []


ROLLUP = "55-7f ---p 00000000 00:00 0  [rollup]\nRss:  2048 kB\nPss:  1024 kB\nPss_Dirty: 512 kB\n"


def test_one_process_is_its_rss_and_several_are_their_shares() -> None:
    assert memory_mb([ROLLUP]) == 2.0
    assert memory_mb([ROLLUP, ROLLUP]) == 2.0
    assert memory_mb([]) == 0.0


def test_memory_that_is_not_told_is_an_error() -> None:
    with pytest.raises(OutputError, match="Rss"):
        memory_mb([""])


def test_listeners_are_told_from_other_sockets() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue
   0: 00000000:3A9E 00000000:0000 0A 00000000
   1: 0200090A:1F90 0100090A:D431 01 00000000
"""
    assert listening_ports(table) == {15006}
    six = "  sl ...\n   0: 00000000000000000000000000000000:3A99 00000000000000000000000000000000:0000 0A\n"
    assert listening_ports(six) == {15001}


def test_the_rules_counters_of_one_port_are_added_up() -> None:
    saved = """\
[9:540] -A PREROUTING -i eth0 -p tcp -j REDIRECT --to-ports 15006
[1:60] -A PREROUTING -i eth1 -p tcp -j REDIRECT --to-ports 15006
[7:420] -A OUTPUT -p tcp -j REDIRECT --to-ports 15001
"""
    assert redirected(saved, 15006) == 10
    assert redirected(saved, 15001) == 7
    assert redirected("", 15001) == 0


H2LOAD = """\
finished in 3.00s, 28073.33 req/s, 1.87MB/s
requests: 84220 total, 84230 started, 84220 done, 84220 succeeded, {failed} failed, 0 errored, 0 timeout
"""


def test_h2load() -> None:
    assert parse_h2load(H2LOAD.format(failed=0)) == 28073.33


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (H2LOAD.format(failed=3), "3 failed"),
        ("could not connect", "no result: could not connect"),
        ("", "no result"),
    ],
)
def test_h2load_failed(text: str, said: str) -> None:
    with pytest.raises(OutputError, match=said):
        parse_h2load(text)
