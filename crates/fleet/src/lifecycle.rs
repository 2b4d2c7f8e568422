//! Decisions about the life of a cast, which every backend follows: what claims, events and commands do to
//! its state.

use pagecast_core::cast::EndReason;

use crate::{
    CastEnd, CastId, CastState, Command, Error, EventKind, MAX_COMMANDS, MAX_EVENTS, UnixMs, WorkerId,
};

/// What a reported event does to a cast.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ReportEffect {
    /// Nothing: the cast is live or has ended already.
    Ignored,
    /// The event joins the history.
    Appended,
    /// The cast becomes live, and the event joins the history.
    BecomesLive,
    /// The cast ends.
    Ends(CastEnd),
}

/// Decides what a reported event does to a cast in this state.
pub(crate) fn on_report(state: CastState, event: &EventKind) -> ReportEffect {
    match (event, state) {
        (EventKind::Ended { .. }, CastState::Ended) | (EventKind::Live, CastState::Live) => {
            ReportEffect::Ignored
        }
        (EventKind::Ended { reason, message, cause }, _) => {
            ReportEffect::Ends(CastEnd { reason: *reason, message: message.clone(), cause: cause.clone() })
        }
        (EventKind::Live, CastState::Starting) => ReportEffect::BecomesLive,
        _ => ReportEffect::Appended,
    }
}

/// The events of a claim of a cast in this state, in order. `lost` is the owner whose lease expired; a cast
/// that was released, or whose owner registered again, has none. A cast that has ended is only finished,
/// without an event.
pub(crate) fn on_claim(state: CastState, lost: Option<WorkerId>, by: &WorkerId) -> Vec<EventKind> {
    match state {
        CastState::Queued => vec![EventKind::Started],
        CastState::Starting | CastState::Live => {
            let lost = lost.filter(|lost| lost != by).map(|WorkerId(node)| EventKind::LostNode { node });
            lost.into_iter().chain([EventKind::Resumed { node: Some(by.0.clone()) }]).collect()
        }
        CastState::Ended => Vec::new(),
    }
}

/// What a command does to a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandEffect {
    /// The command is queued for the owner.
    Queued,
    /// The cast ends at once and is closed, because no worker has claimed it.
    EndsCast,
    /// Nothing: a stop was requested already.
    Ignored,
}

/// Decides what a command does to a cast with this state and this many pending commands.
pub(crate) fn on_command(
    id: &CastId,
    state: CastState,
    stop_requested: bool,
    pending: usize,
    command: &Command,
) -> Result<CommandEffect, Error> {
    let stop = *command == Command::Stop;
    match state {
        CastState::Ended => Err(Error::CastEnded(id.clone())),
        CastState::Queued if stop => Ok(CommandEffect::EndsCast),
        _ if stop && stop_requested => Ok(CommandEffect::Ignored),
        _ if !stop && pending >= MAX_COMMANDS => Err(Error::TooManyCommands(id.clone())),
        _ => Ok(CommandEffect::Queued),
    }
}

/// Whether the history of a cast has room for an event with this number. There is always room for the end,
/// and a reserve of 10 % for stored files.
pub(crate) fn has_room_for(seq: i64, event: &EventKind) -> bool {
    let max = MAX_EVENTS as i64;
    match event {
        EventKind::Ended { .. } => true,
        EventKind::Stored { .. } => seq <= max + max / 10,
        _ => seq <= max,
    }
}

/// Whether a cast that ends now goes on holding its key, which it retains until this time.
pub(crate) fn holds_key_after_end(key_until: Option<UnixMs>, now: UnixMs) -> bool {
    key_until.is_some_and(|until| until > now)
}

/// End of a cast that was queued until its queue timeout.
pub(crate) const OVERDUE_MESSAGE: &str = "no worker had room for it before its queue timeout";
/// End of a cast whose stored description cannot be read.
pub(crate) const UNREADABLE_MESSAGE: &str = "its stored description cannot be read";

/// End of a cast that no worker runs and that fails.
pub(crate) fn failed_end(state: CastState, message: &str) -> CastEnd {
    let reason = match state {
        CastState::Queued => EndReason::StartFailed,
        CastState::Starting | CastState::Live | CastState::Ended => EndReason::OutputFailed,
    };
    CastEnd { reason, message: Some(message.to_owned()), cause: None }
}

/// End of a cast that was stopped before a worker claimed it.
pub(crate) fn stopped_end() -> CastEnd {
    CastEnd { reason: EndReason::Stopped, message: None, cause: None }
}

/// End of a cast that its worker closed without reporting an end.
pub(crate) fn unreported_end() -> CastEnd {
    let message = Some("the worker closed it without reporting an end".to_owned());
    CastEnd { reason: EndReason::OutputFailed, message, cause: None }
}

/// The event of an end.
pub(crate) fn ended_event(end: CastEnd) -> EventKind {
    EventKind::Ended { reason: end.reason, message: end.message, cause: end.cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_names_the_lost_node_and_the_one_that_goes_on() {
        let (lost, by) = (WorkerId("a".to_owned()), WorkerId("b".to_owned()));
        let resumed = EventKind::Resumed { node: Some("b".to_owned()) };
        let lost_node = EventKind::LostNode { node: "a".to_owned() };
        for state in [CastState::Starting, CastState::Live] {
            assert_eq!(on_claim(state, Some(lost.clone()), &by), [lost_node.clone(), resumed.clone()]);
            assert_eq!(on_claim(state, None, &by), std::slice::from_ref(&resumed), "it was released");
            assert_eq!(
                on_claim(state, Some(by.clone()), &by),
                std::slice::from_ref(&resumed),
                "nobody else had it"
            );
        }
        assert_eq!(on_claim(CastState::Queued, None, &by), [EventKind::Started]);
        assert_eq!(on_claim(CastState::Ended, Some(lost), &by), []);
    }
}
