"""The suite fails on the naive bus on Redis too: `pytest tests/bus/conformance/naive_redis_judged.py`.

It runs in real time, about two minutes, four shares at once; its name keeps it out of the normal run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHARES = 4

PASSED = {
    # Delivering to each group of consumers, and keeping what came before, is what streams are made for.
    "test_publish_subscribe",
    "test_concurrent_subscribe_multiple_topics",
    "test_consumer_groups",
    "test_topic",
    "test_subscribe_ctx",
    "test_new_subscriber_receives_old_messages",
    "test_several_patterns_of_a_group_are_one_delivery",
    "test_patterns_select",
    "test_ids_are_made_and_positions_differ",
    "test_publish_many_keeps_order_and_stops_at_the_first_failure",
    "test_no_group_delays_another",
    "test_features_are_declared",
    "test_a_declared_group_gets_what_comes_before_it_is_handled",
    "test_a_group_keeps_its_place_while_nobody_handles_it",
    "test_a_group_of_everything_reads_a_new_topic_from_its_first_event",
    "test_a_new_group_may_start_at_the_end",
    # It trims late and by whole nodes: what these ask for is kept by chance.
    "test_what_was_settled_lately_is_there",
    "test_the_last_that_were_settled_are_always_there",
    # One replica with one lane is in order, and tries again in place.
    "test_order_topic_treats_a_topic_as_one_key",
    "test_resend_on_error",
    "test_continue_after_errors",
    "test_a_predicate_that_raises_is_a_failed_attempt",
    "test_quiet_waits_for_what_waits_for_a_time",
    # Shorter than the idle time after which it claims, a pause is nothing.
    "test_a_short_pause_costs_nothing",
    # It waits on the event loop's clock, stamps with the wall clock, and cannot be told another.
    "test_backoff_does_not_follow_the_wall_clock[3600.0]",
    "test_backoff_does_not_follow_the_wall_clock[-3600.0]",
    "test_time_follows_the_wall_clock",
    "test_delay_follows_the_wall_clock",
    # It has no dedupe that could be wrong.
    "test_replay_is_not_suppressed_by_dedupe",
    "test_dedupe_does_not_suppress_what_failed",
    # Dead letters are a hash, calls are channels whose listeners are counted.
    "test_selection_fits_everything_that_is_given",
    "test_discard_gives_up_for_good",
    "test_dead_letters_outlive_the_replica",
    "test_a_request_reaches_a_provider_on_another_replica",
    "test_a_provider_that_raises_has_failed",
    "test_no_provider_is_known_at_once",
    "test_all_are_asked_and_each_answers_once",
    "test_an_answer_that_comes_late_is_dropped",
    # Redis keeps bytes as they are; the codec copies and measures for every bus.
    "test_data_and_attributes_arrive_as_they_are",
    "test_what_one_handler_changes_no_other_sees",
    "test_payload_of_one_mebibyte_passes_and_one_byte_more_does_not",
}
"""What even this passes, and why. Everything else must fail on it."""
SOMETIMES = {
    # Fifty lanes, thousands of events, one round trip each: where the machine is fast enough.
    "test_concurrent_subscribe",
    "test_publisher_close",
    # To be quiet it asks group by group, and what one is asked another may publish meanwhile.
    "test_publish_inside_handlers_in_both_directions",
    # Ten replicas read one stream: while nobody is slower than the next, their events do not overtake.
    "test_publish_subscribe_in_order",
    "test_redrive_keeps_the_order_of_its_key_and_fails_again_alone",
    # A tail asks for what is new from each wait on, and misses what comes in between.
    "test_a_tail_reads_along_from_now_on",
    "test_a_tail_waits_for_the_next",
    "test_a_tail_of_everything_sees_topics_that_are_born_later",
    # Lanes that start, and pauses that are measured, beside many others at once.
    "test_concurrency_is_bounded",
    "test_backoff_grows_and_is_never_shortened",
}
"""What it passes or fails, as the moment wants it."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Name of each test → whether the naive bus passed it."""
    folder = tmp_path_factory.mktemp("naive")
    runs = [_start(folder / f"{share}.xml", f"{share}/{SHARES}") for share in range(1, SHARES + 1)]
    for run in runs:
        run.wait(timeout=300)
    found: dict[str, bool] = {}
    for report in folder.iterdir():
        for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - written by pytest just now
            is_passed = case.find("failure") is None and case.find("error") is None
            name = case.attrib["name"]
            found[name] = found.get(name, True) and is_passed
    return found


def _start(report: Path, share: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own file
        [
            sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("naive_redis_suite.py")),
            "--noconftest", "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--tb=line",
            f"--junit-xml={report}",
        ],
        cwd=ROOT, env={**os.environ, "PLUGBUS_TEST_SHARE": share}, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_suite_ran_on_the_naive_bus(results: dict[str, bool]) -> None:
    """All of it, no less than on any other."""
    assert len(results) > 190


def test_the_naive_bus_fails_wherever_more_is_promised(results: dict[str, bool]) -> None:
    """A test that passes here without standing in the list above is weak, or belongs into it by thought."""
    passed = {name for name, is_passed in results.items() if is_passed}
    assert passed - PASSED - SOMETIMES == set(), "passes on the naive bus"
    assert PASSED - passed == set(), "no longer passes on the naive bus, or is gone"
