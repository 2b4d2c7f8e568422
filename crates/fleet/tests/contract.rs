//! Contract of [`pagecast_fleet::Fleet`], which every backend must fulfil.
//!
//! To test a backend, implement [`contract::fixture::Backend`] and add three lines at the end of this file.
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
                a_cast_is_queued_as_requested
                a_key_has_one_cast_until_that_has_ended
                a_key_is_held_until_its_time
                an_application_has_its_quota
                recent_unstarted_casts_count_towards_the_quota
                an_application_has_a_storage_limit
                the_queue_is_limited
                a_contended_key_is_granted_once
                everything_is_there_after_a_restart
            }
            lists {
                the_newest_come_first_page_by_page
                filters_select_casts
                casts_are_counted
            }
            claims {
                casts_are_claimed_in_order
                a_cast_that_does_not_fit_blocks_no_other
                applications_take_turns
                only_a_claim_has_the_injected_data
                a_cast_that_no_worker_can_run_fails_at_once
                an_expired_lease_is_claimed_and_the_old_owner_fenced
                a_renewed_lease_lasts
                a_ticket_is_valid_until_another_claim
                a_released_cast_is_free_at_once
                registering_a_worker_frees_its_casts
                an_ended_cast_is_claimed_until_it_is_closed
                many_workers_claim_each_cast_once
            }
            commands {
                they_are_there_in_order_until_they_are_acked
                they_reach_the_next_owner
                a_queued_cast_stops_at_once
                they_are_limited
                they_end_with_the_cast
            }
            reports {
                the_state_follows_the_events
                the_end_comes_once
                events_beyond_the_limit_are_counted
                a_cast_that_is_closed_without_an_end_ends
                pushes_are_replaced
                stats_and_snapshots_belong_to_an_owner
                workers_without_heartbeat_disappear
                changes_wake_waiters
                unknown_casts_are_reported
            }
            outbox {
                events_of_a_cast_are_delivered_in_order
                a_retried_event_delays_those_behind_it
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
                overdue_casts_fail
                expired_casts_are_deleted
                undelivered_events_keep_their_cast
                casts_that_hold_a_key_are_kept
                a_key_that_was_freed_stays_free
                a_clock_that_is_set_back_stops_no_callbacks
                retry_delays_are_capped
                leases_and_deadlines_ignore_clock_changes
                nothing_is_deleted_right_after_a_clock_change
            }
        }

        #[test]
        fn random_operations_match_the_model() {
            crate::contract::model::random_operations::<$backend>();
        }
    };
}

mod embedded {
    contract!(crate::contract::fixture::SqliteBackend);
}
