"""The suite fails on a naive bus, test by test: a test that passes there judges nothing that is hard.

Whoever adds a test to the suite runs this, and is asked: does it pass on the naive bus for a reason?
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[3]

PASSED = {
    # Delivering once to each group, with as many workers as one likes, is what a queue for each group can do.
    "test_publish_subscribe",
    "test_concurrent_subscribe",
    "test_concurrent_subscribe_multiple_topics",
    "test_consumer_groups",
    "test_topic",
    "test_subscribe_ctx",
    "test_concurrency_is_bounded",
    "test_several_patterns_of_a_group_are_one_delivery",
    "test_patterns_select",
    "test_publish_inside_handlers_in_both_directions",
    "test_ids_are_made_and_positions_differ",
    "test_no_group_delays_another",
    "test_features_are_declared",
    # It keeps its queues and a log for as long as the process lives, and without any bound.
    "test_publisher_close",
    "test_new_subscriber_receives_old_messages",
    "test_a_group_keeps_its_place_while_nobody_handles_it",
    "test_a_declared_group_gets_what_comes_before_it_is_handled",
    "test_a_new_group_may_start_at_the_end",
    "test_a_group_of_everything_reads_a_new_topic_from_its_first_event",
    "test_trimming_under_pending_deliveries_takes_nothing",
    "test_what_was_published_survives_the_process_where_it_is_persistent",
    "test_what_was_settled_lately_is_there",
    "test_the_young_are_there_while_there_is_room",
    # It promises nothing beyond its process, and has nothing after it.
    "test_what_was_confirmed_is_there_at_once",
    "test_places_pauses_lots_and_dead_letters_are_there",
    "test_what_ran_is_suspect",
    "test_one_event_that_kills_everything_is_given_up_alone",
    # It counts attempts and waits between them; with one worker or without keys that is enough.
    "test_backoff_grows_and_is_never_shortened",
    "test_continue_after_errors",
    "test_delivery_count_survives_restart",
    "test_a_predicate_that_raises_is_a_failed_attempt",
    "test_order_none_gives_the_order_of_a_key_up",
    "test_pausing_holds_one_group_alone",
    # It waits on the event loop's clock, stamps with the wall clock, and has no other use for either.
    "test_backoff_does_not_follow_the_wall_clock[3600.0]",
    "test_backoff_does_not_follow_the_wall_clock[-3600.0]",
    "test_time_follows_the_wall_clock",
    # It has no leases that could run out, no dedupe and no storm guard that could be wrong.
    "test_replay_is_not_suppressed_by_dedupe",
    "test_slow_but_live_owner_keeps_its_partitions",
    "test_dedupe_does_not_suppress_what_failed",
    "test_a_schedule_is_no_storm",
    # Dead letters are a list, tails are queues, calls are calls.
    "test_selection_fits_everything_that_is_given",
    "test_redrive_keeps_the_order_of_its_key_and_fails_again_alone",
    "test_discard_gives_up_for_good",
    "test_dead_letters_outlive_the_replica",
    "test_a_tail_reads_along_from_now_on",
    "test_a_tail_waits_for_the_next",
    "test_a_tail_of_everything_sees_topics_that_are_born_later",
    "test_quiet_waits_for_what_waits_for_a_time",
    "test_a_request_reaches_a_provider_on_another_replica",
    "test_a_provider_that_raises_has_failed",
    "test_answers_find_their_callers",
    "test_with_no_time_left_nothing_is_executed",
    # Nothing leaves the process, so nothing can be garbled; what is mutable, the codec copies for every bus.
    "test_data_and_attributes_arrive_as_they_are",
    "test_what_one_handler_changes_no_other_sees",
    # What the codec checks for every bus.
    "test_payload_of_one_mebibyte_passes_and_one_byte_more_does_not",
    "test_publish_many_keeps_order_and_stops_at_the_first_failure",
}
"""What even the naive bus passes, and why. Everything else must fail on it."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Name of each test → whether the naive bus passed it."""
    report = tmp_path_factory.mktemp("naive") / "report.xml"
    subprocess.run(  # noqa: S603 - our own interpreter and our own file
        [
            sys.executable, "-m", "pytest", "-q", str(Path(__file__).with_name("naive.py")),
            "-p", "no:cacheprovider", "-p", "no:unraisableexception", "--tb=no", f"--junit-xml={report}",
        ],
        capture_output=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    found: dict[str, bool] = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - written by pytest just now
        name = case.attrib["name"]
        is_passed = case.find("failure") is None
        found[name] = found.get(name, True) and is_passed and case.find("error") is None
    return found


def test_the_suite_ran_on_the_naive_bus(results: dict[str, bool]) -> None:
    """All of it, no less than on any other."""
    assert len(results) > 140


def test_the_naive_bus_fails_wherever_more_is_promised(results: dict[str, bool]) -> None:
    """A test that passes here without standing in the list above is weak, or belongs into it by thought."""
    passed = {name for name, is_passed in results.items() if is_passed}
    assert passed - PASSED == set(), "passes on the naive bus"
    assert PASSED - passed == set(), "no longer passes on the naive bus, or is gone"
