//! How an event was judged.

use std::borrow::Cow;

use crate::{event_auth::Refusal, room_version::RoomVersion};

/// The verdict on an event, with what decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed every check.
    Accepted,
    /// It passed against the state before it, but not against the current state: it takes part in resolution, but is neither a
    /// forward extremity nor shown to clients.
    SoftFailed(Refusal),
    /// It passed against the state before it, but the room's policy server has not signed it, so it is not recommended for inclusion:
    /// what follows is the same as of any other soft failure.
    NotRecommended,
    /// It is never part of a state.
    Rejected {
        /// What it did not pass: [`Check::AuthEvents`] or [`Check::StateBefore`].
        check: Check,
        /// The rule.
        refusal: Refusal,
    },
}

/// A verdict without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Outcome {
    Accepted,
    SoftFailed,
    Rejected,
}

/// Which of the "Checks performed on receipt of a PDU" an event did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// 4: by the event's own auth events.
    AuthEvents,
    /// 5: in the state before the event.
    StateBefore,
    /// 6: in the current state.
    CurrentState,
    /// 7: by the room's policy server.
    PolicyServer,
}

/// Why an event was not accepted, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedReason {
    /// The check.
    pub check: Check,
    /// The refusal's stable name, such as `member_banned_sender`.
    pub code: Cow<'static, str>,
    /// The number of the rule in the room version's list; empty if it is none of them.
    pub rule: Cow<'static, str>,
    /// A sentence for people.
    pub sentence: String,
}

impl Verdict {
    /// Returns the outcome and what is stored of the reason.
    pub fn record(&self, version: RoomVersion) -> (Outcome, Option<RecordedReason>) {
        let (outcome, check, refusal) = match self {
            Self::Accepted => return (Outcome::Accepted, None),
            Self::NotRecommended => return (Outcome::SoftFailed, Some(not_recommended())),
            Self::SoftFailed(refusal) => (Outcome::SoftFailed, Check::CurrentState, refusal),
            Self::Rejected { check, refusal } => (Outcome::Rejected, *check, refusal),
        };
        let reason = RecordedReason {
            check,
            code: refusal.code().into(),
            rule: refusal.rule_number(version).into(),
            sentence: refusal.to_string(),
        };
        (outcome, Some(reason))
    }
}

fn not_recommended() -> RecordedReason {
    RecordedReason {
        check: Check::PolicyServer,
        code: "not_recommended".into(),
        rule: "".into(),
        sentence: "the room's policy server has not signed the event".to_owned(),
    }
}
