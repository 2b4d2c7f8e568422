//! What every fleet does, whatever it is made of: the promises of [`pagecast_fleet::Fleet`], one by one.
//!
//! A backend is tested by a [`contract::fixture::Backend`] of its own and three lines at the end of this file.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod contract {
    pub(crate) mod claims;
    pub(crate) mod commands;
    pub(crate) mod create;
    pub(crate) mod documents;
    pub(crate) mod fixture;
    pub(crate) mod lists;
    pub(crate) mod model;
    pub(crate) mod outbox;
    pub(crate) mod reports;
    pub(crate) mod time;
}

macro_rules! tests {
    ($backend:ty: $($topic:ident { $($test:ident)* })*) => {$(
        mod $topic {$(
            #[test]
            fn $test() {
                crate::contract::fixture::block_on(crate::contract::$topic::$test::<$backend>());
            }
        )*}
    )*};
}

macro_rules! contract {
    ($backend:ty) => {
        tests! { $backend:
            create {
                a_cast_waits_as_it_was_asked_for
                a_key_has_one_cast_until_that_has_ended
                a_key_is_held_until_its_time
                an_application_has_its_quota
                recent_unstarted_casts_count_towards_the_quota
                an_application_keeps_as_much_as_it_may
                the_queue_has_an_end
                of_many_who_want_a_key_one_gets_it
                everything_is_there_after_a_restart
            }
            lists {
                the_newest_come_first_page_by_page
                filters_leave_out_what_is_not_asked_for
                casts_are_counted
            }
            claims {
                casts_are_taken_in_order
                one_that_does_not_fit_holds_up_nobody
                applications_take_turns
                only_a_claim_has_what_is_put_into_the_page
                one_that_nobody_can_run_fails_at_once
                an_expired_lease_is_claimed_and_the_old_owner_fenced
                a_renewed_lease_lasts
                a_ticket_that_nobody_took_over_is_good
                one_that_is_given_back_is_free_at_once
                a_worker_that_begins_frees_what_it_had
                one_that_ended_is_claimed_until_it_is_closed
                many_workers_take_each_cast_once
            }
            commands {
                they_are_there_in_order_until_they_are_acked
                they_reach_the_next_owner
                one_that_is_queued_stops_at_once
                there_is_an_end_to_them
                they_end_with_the_cast
            }
            reports {
                the_state_follows
                the_end_comes_once
                events_beyond_the_most_are_counted
                a_cast_that_is_closed_without_an_end_ends
                pushes_are_replaced
                stats_and_snapshots_belong_to_an_owner
                workers_without_heartbeat_disappear
                changes_wake_waiters
                unknown_casts_are_reported
            }
            outbox {
                events_of_a_cast_are_delivered_in_order
                one_that_is_tried_again_holds_up_those_behind_it
                parts_of_an_event_are_counted
                given_up_events_are_redelivered_on_request
                delivered_events_are_redelivered_on_request
                redeliver_reports_what_is_pending
                the_longest_waiting_comes_first
                casts_without_notifications_have_no_entries
                attempts_are_logged
            }
            documents {
                they_are_kept_by_kind_and_name
            }
            time {
                one_that_nobody_began_in_time_has_failed
                what_is_old_is_forgotten
                undelivered_events_keep_their_cast
                a_key_that_is_held_is_not_forgotten
                a_clock_that_is_set_back_stops_no_callbacks
                retry_delays_are_capped
                leases_and_deadlines_do_not_mind_clocks_that_are_set
                nothing_is_forgotten_right_after_the_clock_was_set
            }
        }

        #[test]
        fn random_operations_do_what_a_simple_model_does() {
            crate::contract::model::random_operations::<$backend>();
        }
    };
}

mod embedded {
    contract!(crate::contract::fixture::SqliteBackend);
}
