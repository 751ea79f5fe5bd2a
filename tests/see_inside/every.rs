//! No counter without a test: whatever Prometheus is told has a line here that names the test which compares it with traffic
//! (or with calls) of a known amount. The test must exist and must speak of it, so neither can be forgotten.

use crate::common::World;
use crate::counted::samples;
use std::collections::BTreeSet;

/// A source file of tests, as it was when this was built.
macro_rules! source {
    ($name:ident, $path:literal) => {
        const $name: &str = include_str!(concat!("../../", $path));
    };
}
source!(COUNTED, "tests/see_inside/counted.rs");
source!(RAW, "tests/see_inside/raw.rs");
source!(STATS, "tests/see_inside/stats.rs");
source!(FRAMES, "src/plane/frames.rs");
source!(TALLY, "src/plane/tally.rs");
source!(ADMIT, "src/plane/relays/admit.rs");
source!(PIPES, "src/ring/pipes.rs");
source!(PRESSURE, "src/ring/tests/pressure.rs");
source!(ARENA, "src/buf/arena.rs");
source!(LIMITS, "src/stack/tests/limits.rs");
source!(FRAGMENTS, "src/stack/tests/fragments.rs");
source!(LINK, "src/stack/tests/link.rs");
source!(UDP, "src/stack/tests/udp.rs");
source!(OPENING, "src/stack/tcp/tests/opening.rs");
source!(RECEIVING, "src/stack/tcp/tests/receiving.rs");

/// The name of a metric, the file and the name of a test of it, and the words by which that test means it.
const TESTED: &[(&str, &str, &str, &str)] = &[
    ("build_info", STATS, "prometheus_gets_the_same_by_the_api_and_by_the_command", "build_info"),
    ("plane_age_seconds", STATS, "the_age_is_that_of_the_data_plane", "ageMs"),
    ("frames_total{from_guest}", STATS, "frames_are_counted_by_direction_and_size", "frameBytesFromGuest"),
    ("frames_total{to_guest}", STATS, "frames_are_counted_by_direction_and_size", "frameBytesToGuest"),
    ("frame_bytes_total{from_guest}", STATS, "frames_are_counted_by_direction_and_size", "bytes{side}"),
    ("frame_bytes_total{to_guest}", STATS, "frames_are_counted_by_direction_and_size", "bytes{side}"),
    ("frame_size_bytes{from_guest}", STATS, "frames_are_counted_by_direction_and_size", "1024..1088"),
    ("frame_size_bytes{to_guest}", STATS, "frames_are_counted_by_direction_and_size", "336..352"),
    ("flows_opened_total", COUNTED, FLOWS, "flows_opened_total"),
    ("flows_closed_total", COUNTED, FLOWS, "flows_closed_total"),
    ("flows_refused_total", COUNTED, FLOWS, "flows_refused_total"),
    ("shown_as_gateway_total", COUNTED, CLIENTS, "\"shown_as_gateway_total\".to_owned()"),
    ("published_refused_total", COUNTED, CLIENTS, "published_refused_total"),
    ("flows{tcp}", COUNTED, KINDS, "\"tcp\""),
    ("flows{udp}", COUNTED, KINDS, "\"udp\""),
    ("flows{icmp}", COUNTED, KINDS, "\"icmp\""),
    ("flows{dns}", COUNTED, "questions_are_live_until_they_are_forgotten", "dns"),
    ("flows{injected_udp}", COUNTED, KINDS, "\"injected_udp\""),
    ("flows{relay_tcp}", COUNTED, KINDS, "\"relay_tcp\""),
    ("flows{relay_udp}", COUNTED, KINDS, "\"relay_udp\""),
    ("drops_total{malformed}", RAW, DROPS, "\"malformed\", 2"),
    ("drops_total{bad_checksum}", RAW, DROPS, "\"badChecksum\", 4"),
    ("drops_total{unsupported}", RAW, DROPS, "\"unsupported\", 3"),
    ("drops_total{multicast}", RAW, DROPS, "\"multicast\", 2"),
    ("drops_total{policy}", RAW, DROPS, "\"policy\", 5"),
    ("drops_total{fragment}", RAW, DROPS, "\"fragment\", 3"),
    (
        "drops_total{reassembly_timeout}",
        FRAGMENTS,
        "what_is_never_completed_goes_when_its_time_is_over",
        "dropped(DropReason::ReassemblyTimeout)), (0, 1)",
    ),
    ("drops_total{tcp_unacceptable}", RAW, DROPS, "\"tcpUnacceptable\", 2"),
    ("drops_total{no_room}", COUNTED, FLOWS, "no_room"),
    (
        "drops_total{filtered}",
        UDP,
        "only_those_spoken_to_may_answer_unless_told_otherwise",
        "dropped(DropReason::Filtered), 1",
    ),
    (
        "drops_total{no_neighbour}",
        LINK,
        "a_packet_for_an_unknown_neighbour_asks_once_and_is_counted",
        "dropped(DropReason::NoNeighbour), 2",
    ),
    ("drops_total{host_refused}", RAW, DROPS, "\"hostRefused\", 3"),
    ("drops_total{ttl_exceeded}", RAW, DROPS, "\"ttlExceeded\", 6"),
    (
        "drops_total{too_long}",
        FRAMES,
        "a_frame_that_may_not_be_cut_and_has_to_be_is_counted_as_too_long",
        "DropReason::TooLong), dropped",
    ),
    ("drops_total{spoofed}", RAW, DROPS, "\"spoofed\", 4"),
    ("limit_met_total{flows}", COUNTED, FLOWS, "limit_met_total"),
    ("limit_met_total{descriptors}", OPENING, "a_refused_connection_is_a_reset", "Limit::Descriptors"),
    (
        "limit_met_total{half_open}",
        LIMITS,
        "of_connections_under_way_the_oldest_makes_room",
        "Limit::HalfOpen",
    ),
    (
        "limit_met_total{new_flows}",
        LIMITS,
        "new_flows_beyond_the_rate_are_lost_and_come_again",
        "Limit::NewFlows",
    ),
    (
        "limit_met_total{buffered}",
        RECEIVING,
        "what_lies_beyond_a_gap_is_bounded_and_a_filled_gap_frees_it",
        "Limit::Buffered",
    ),
    (
        "limit_met_total{unanswered}",
        LIMITS,
        "who_is_never_answered_dials_at_a_bounded_rate",
        "Limit::Unanswered",
    ),
    (
        "limit_met_total{fruitless}",
        LIMITS,
        "the_tap_rests_from_frames_that_lead_to_nothing_and_from_no_others",
        "Limit::Fruitless",
    ),
    (
        "wakeup_submissions",
        TALLY,
        "each_wake_up_is_told_what_was_submitted_since_the_one_before",
        "submitted_per_wakeup",
    ),
    ("wakeup_completions", STATS, "the_ring_its_wake_ups_buffers_and_pipes_add_up", "completedPerWakeup"),
    ("connect_host_seconds", STATS, TIMED, "timed(\"connectHostUs\"), 5"),
    ("connect_guest_seconds", STATS, TIMED, "timed(\"connectGuestUs\"), 7"),
    ("first_byte_seconds", STATS, TIMED, "timed(\"firstByteUs\"), 5"),
    ("dns_seconds", STATS, TIMED, "timed(\"dnsUs\"), 3"),
    ("ring_enters_total", PRESSURE, RING, "c.enters"),
    ("ring_submitted_total", PRESSURE, RING, "c.submitted"),
    ("ring_completed_total", PRESSURE, RING, "completed"),
    ("ring_queue_full_total", PRESSURE, RING, "c.queue_full"),
    ("ring_starved_total", PRESSURE, "want_of_slots_is_told_and_cured", "starved), (0, 1)"),
    ("ring_refused_total", PRESSURE, "refusals_are_completions_too", "counters().refused, 2"),
    ("ring_inflight", PRESSURE, RING, "inflight"),
    ("buffers_refused_total", ARENA, "an_empty_class_refuses_and_counts", "refused: 1"),
    ("buffers_held{tap}", ARENA, SLOTS, "Class::Tap"),
    ("buffers_held{host}", ARENA, SLOTS, "Class::Host"),
    ("buffers_held{small}", ARENA, SLOTS, "Class::Small"),
    ("buffers_held{relay}", ARENA, SLOTS, "Class::Relay"),
    ("buffers_held{message}", ARENA, SLOTS, "Class::Message"),
    ("buffers{tap}", ARENA, SLOTS, "Class::Tap"),
    ("buffers{host}", ARENA, SLOTS, "Class::Host"),
    ("buffers{small}", ARENA, SLOTS, "Class::Small"),
    ("buffers{relay}", ARENA, SLOTS, "Class::Relay"),
    ("buffers{message}", ARENA, SLOTS, "Class::Message"),
    ("pipes{lent}", PIPES, SPOILED, "pipes.lent()"),
    ("pipes{idle}", PIPES, SPOILED, "pipes.idle.len()"),
    ("pipes_made_total", PIPES, SPOILED, "counters().made), (1, 3)"),
    ("pipes_refused_total", PIPES, "no_more_are_lent_than_allowed", "counters().refused == 1"),
    ("pipes_spoiled_total", PIPES, SPOILED, "counters().spoiled), (0, 0, 2)"),
    ("pipes_most", STATS, "the_ring_its_wake_ups_buffers_and_pipes_add_up", "\"most\"]) == 32"),
    ("port_accepted_total", COUNTED, CLIENTS, "accepted_total"),
    ("port_open", COUNTED, CLIENTS, "\"open\""),
    ("port_refused_total", COUNTED, CLIENTS, "relay(\"refused_total\")"),
    ("port_shed_total", ADMIT, SHED, "accepted + shed, CLIENTS"),
    ("port_shown_as_gateway_total", COUNTED, CLIENTS, "relay(\"shown_as_gateway_total\")"),
    ("port_bytes_from_guest_total", COUNTED, CLIENTS, "bytes_from_guest_total"),
    ("port_bytes_to_guest_total", COUNTED, CLIENTS, "bytes_to_guest_total"),
];
const FLOWS: &str = "flows_beyond_the_guests_limit_are_counted_as_refused";
const CLIENTS: &str = "clients_of_ports_are_counted_as_what_became_of_them";
const KINDS: &str = "live_flows_are_counted_by_kind";
const DROPS: &str = "each_reason_counts_what_was_dropped_for_it_and_nothing_else";
const TIMED: &str = "flows_connects_first_bytes_and_questions_are_counted_and_timed";
const RING: &str = "entries_completions_calls_and_full_queues_are_counted";
const SHED: &str =
    "whoever_is_too_many_is_reset_at_a_bounded_rate_and_who_waits_is_served_when_there_is_room";
const SLOTS: &str = "slots_and_those_in_use_are_counted_by_class";
const SPOILED: &str = "a_pipe_with_something_in_it_never_comes_back";

/// What a test does, if the file has it.
fn body<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let start = source.find(&format!("fn {name}()"))?;
    // It is a test, and ends where its indentation does.
    let before = source[..start].trim_end_matches(' ');
    let indent = &source[before.len()..start];
    before.ends_with("#[test]\n").then_some(())?;
    let end = source[start..].find(&format!("\n{indent}}}\n"))?;
    Some(&source[start..start + end])
}

/// `drops_total{reason="policy"}` as `drops_total{policy}`, parts of a histogram as the whole, ports without their names.
fn family(sample: &str) -> String {
    let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
    let kept = labels.filter(|(label, _)| !["le", "id", "port", "version", "via"].contains(label));
    let values: Vec<_> = kept.map(|(_, value)| value.trim_matches('"')).collect();
    let name = part.unwrap_or(name);
    if values.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", values.join(",")) }
}

#[test]
fn whatever_is_counted_has_a_test_of_its_amount() {
    let world = World::new();
    let guest = world.guest_with(&["-p", "8080:80"]);
    let there: BTreeSet<String> = samples(&world).keys().map(|sample| family(sample)).collect();
    let listed: BTreeSet<String> = TESTED.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let untested: Vec<_> = there.difference(&listed).collect();
    assert!(untested.is_empty(), "no test compares these with a known amount: {untested:?}");
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(gone.is_empty(), "nothing is told of these: {gone:?}");
    for (name, file, test, words) in TESTED {
        let body = body(file, test).unwrap_or_else(|| panic!("{name}: there is no test {test}"));
        assert!(
            body.contains("assert")
                || body.contains("become_exactly")
                || body.contains("check(")
                || body.contains("kinds(")
        );
        assert!(body.contains(words), "{name}: {test} does not say {words:?}");
    }
    drop(guest);
}
