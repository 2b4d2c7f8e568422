//! Contract of [`pagecast_fleet::Fleet`], which every backend must fulfil.
//!
//! To test a backend, implement [`contract::fixture::Backend`] and add three lines at the end of this file.
//! The tests of PostgreSQL share one server; each has a database of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod contract {
    pub(crate) mod audit;
    pub(crate) mod claims;
    pub(crate) mod commands;
    pub(crate) mod create;
    pub(crate) mod daily_use;
    pub(crate) mod documents;
    mod faults;
    pub(crate) mod fixture;
    pub(crate) mod ledger;
    pub(crate) mod lists;
    pub(crate) mod model;
    pub(crate) mod nodes;
    pub(crate) mod outbox;
    mod pending_work;
    pub(crate) mod postgres;
    pub(crate) mod reports;
    pub(crate) mod rooms;
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
                a_full_queue_has_room_for_others
                a_contended_key_is_granted_once
                everything_is_there_after_a_restart
            }
            lists {
                the_newest_come_first_page_by_page
                filters_select_casts
                casts_are_counted
                the_queue_has_an_order
            }
            claims {
                casts_are_claimed_in_order
                a_cast_that_does_not_fit_blocks_no_other
                applications_take_turns
                several_are_claimed_at_once_in_the_order_of_single_claims
                only_a_claim_has_the_injected_data
                a_cast_that_no_worker_can_run_fails_at_once
                an_expired_lease_is_claimed_and_the_old_owner_fenced
                a_renewed_lease_lasts
                all_tickets_of_a_worker_are_renewed_at_once
                a_ticket_is_valid_until_another_claim
                a_released_cast_is_free_at_once
                registering_a_worker_frees_its_casts
                an_ended_cast_is_claimed_until_it_is_closed
                many_workers_claim_each_cast_once
            }
            nodes {
                a_cast_goes_to_a_node_that_has_all_its_labels
                a_started_cast_is_only_taken_over_by_a_node_that_has_its_labels
                casts_that_fit_nowhere_delay_no_other_application
                a_process_is_replaced_by_a_later_one_of_its_name
            }
            commands {
                they_are_there_in_order_until_they_are_acked
                they_reach_the_next_owner
                a_moved_cast_is_resumed_by_another_worker_once
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
                a_worker_is_asked_to_drain
                heartbeats_have_an_age
                changes_wake_waiters
                unknown_casts_are_reported
                a_part_that_was_away_is_reported_after_the_close
            }
            ledger {
                rows_are_replaced_and_go_to_the_next_owner
                each_cast_has_its_own
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
            rooms {
                a_room_has_one_node_until_its_lease_ends
                renewed_rooms_stay_and_lost_ones_are_reported
                released_rooms_are_free_at_once
                candidates_agree_on_one_node
            }
            audit {
                entries_are_kept_and_read_page_by_page
                each_application_keeps_its_newest_entries
                old_entries_are_deleted
            }
            daily_use {
                a_cast_counts_on_the_days_on_which_it_ran
                use_adds_up_and_outlives_casts
                a_cast_that_is_stopped_while_closing_counts_once
            }
            documents {
                they_are_kept_by_kind_and_name
                versions_grow_and_refuse_lost_updates
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

mod sqlite {
    contract!(crate::contract::fixture::SqliteBackend);
}

mod postgres {
    contract!(crate::contract::postgres::PostgresBackend);
}
