//! What drafted events say.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    event::{Membership, NamedLevel, StateKey, event_type},
    id::{EventId, ServerName},
    room_version::PowerLevelFormat,
    signing::{encode_base64, sign_json},
};

pub(super) use super::json_object as object;
use super::{Draft, State};
use crate::{
    people::{USERS, signing_key, user},
    plan::{Action, Preset, Step},
};

/// The name whose key signs third-party invites.
const IDENTITY_SERVER: &str = "id.example";

/// The levels that power levels give.
const LEVELS: [i64; 7] = [0, 25, 50, 75, 100, -10, 101];

/// The join rules, those first that let something happen.
const JOIN_RULES: [&str; 6] = ["public", "invite", "restricted", "knock", "knock_restricted", "private"];

/// An event that is not placed in the room yet.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) sender: String,
    pub(super) event_type: String,
    pub(super) state_key: Option<String>,
    pub(super) content: CanonicalJsonObject,
    /// At the top level, up to version 10.
    pub(super) redacts: Option<EventId>,
    pub(super) authorizing_server_signs: bool,
}

impl Proposal {
    pub(super) fn state(sender: &str, event_type: &str, state_key: &str, content: CanonicalJsonObject) -> Self {
        Self { state_key: Some(state_key.to_owned()), ..Self::message(sender, event_type, content) }
    }

    pub(super) fn message(sender: &str, event_type: &str, content: CanonicalJsonObject) -> Self {
        Self {
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: None,
            content,
            redacts: None,
            authorizing_server_signs: true,
        }
    }

    pub(super) fn membership(sender: &str, target: &str, membership: &str) -> Self {
        let content = object(&format!(r#"{{"membership":"{membership}"}}"#));
        Self::state(sender, event_type::MEMBER, target, content)
    }
}

impl Draft {
    pub(super) fn create_content(&self, preset: &Preset) -> CanonicalJsonObject {
        let rules = self.rules();
        let mut content = object(&format!(r#"{{"room_version":"{}"}}"#, self.version));
        if !rules.implicit_room_creator {
            content.insert("creator".into(), USERS[0].to_owned().into());
        }
        if !preset.federates {
            content.insert("m.federate".into(), CanonicalJsonValue::Bool(false));
        }
        if rules.creators_have_infinite_power && preset.additional_creator {
            content.insert("additional_creators".into(), CanonicalJsonValue::Array(vec![USERS[1].to_owned().into()]));
        }
        content
    }

    pub(super) fn first_power_levels(&self) -> CanonicalJsonObject {
        let mut users = object(&format!(r#"{{"{}":100,"{}":50,"{}":50}}"#, USERS[0], USERS[1], USERS[2]));
        if self.rules().creators_have_infinite_power {
            users.retain(|user, _| !self.is_creator(user));
        }
        let mut content = object(
            r#"{"ban":50,"events":{"m.room.name":75},"events_default":0,"invite":0,"kick":50,"notifications":{"room":50},
                "redact":50,"state_default":50,"users_default":0}"#,
        );
        content.insert("users".into(), users.into());
        content
    }

    pub(super) fn proposal(&self, step: &Step, actor: &str, state: &State) -> Proposal {
        let target = user(step.target);
        let value = step.value;
        match step.action {
            Action::Message => Proposal::message(actor, "m.room.message", object(&format!(r#"{{"body":"{value}"}}"#))),
            Action::Topic => Proposal::state(actor, "m.room.topic", "", object(&format!(r#"{{"topic":"{value}"}}"#))),
            Action::OtherState => {
                let (event_type, state_key) = [
                    ("m.room.name", ""),
                    ("org.example.state", ""),
                    ("org.example.state", "key"),
                    ("org.example.state", actor),
                    ("org.example.state", target),
                    ("m.room.history_visibility", ""),
                    (event_type::POWER_LEVELS, "key"),
                    (event_type::JOIN_RULES, "key"),
                ][usize::from(value % 8)];
                let content = match event_type {
                    event_type::POWER_LEVELS => self.power_levels(state),
                    event_type::JOIN_RULES => join_rules(value / 8),
                    _ => object(&format!(r#"{{"value":{value}}}"#)),
                };
                Proposal::state(actor, event_type, state_key, content)
            }
            Action::Join => Proposal::membership(actor, actor, "join"),
            Action::JoinVia => {
                let mut proposal = Proposal::membership(actor, actor, "join");
                proposal.content.insert("join_authorised_via_users_server".into(), target.to_owned().into());
                proposal.authorizing_server_signs = !value.is_multiple_of(4);
                proposal
            }
            Action::Leave => Proposal::membership(actor, actor, "leave"),
            Action::Kick => Proposal::membership(actor, target, "leave"),
            Action::Ban => Proposal::membership(actor, target, "ban"),
            Action::Invite => Proposal::membership(actor, self.absent_user(step.target, value, state), "invite"),
            Action::Knock => Proposal::membership(actor, actor, "knock"),
            Action::PowerLevels => {
                Proposal::state(actor, event_type::POWER_LEVELS, "", self.changed_power_levels(step, state))
            }
            Action::JoinRules => Proposal::state(actor, event_type::JOIN_RULES, "", join_rules(value)),
            Action::Redact => self.redaction(actor, step, state),
            Action::ThirdPartyToken => {
                let key = encode_base64(signing_key(IDENTITY_SERVER).verify_key().as_bytes());
                let content = object(&format!(r#"{{"display_name":"b...","public_key":"{key}"}}"#));
                Proposal::state(actor, event_type::THIRD_PARTY_INVITE, &token(value), content)
            }
            Action::ThirdPartyInvite => third_party_invite(actor, self.absent_user(step.target, value, state), value),
            Action::Aliases => {
                let server = actor.split_once(':').map_or("", |(_, server)| server);
                let state_key = if value.is_multiple_of(4) { "elsewhere.example" } else { server };
                Proposal::state(actor, event_type::ALIASES, state_key, object(r#"{"aliases":[]}"#))
            }
            Action::OddMember => odd_member(actor, target, value),
            // There, another create event makes another room.
            Action::SecondCreate if self.rules().room_id_is_create_hash => Proposal::membership(actor, actor, "join"),
            Action::SecondCreate => {
                let mut content = self.events[0].json["content"].as_object().unwrap().clone();
                content.insert("again".into(), CanonicalJsonValue::Integer(value.into()));
                Proposal::state(USERS[0], event_type::CREATE, "", content)
            }
        }
    }

    /// Returns a user who is not in the room, if there is one; sometimes just any.
    fn absent_user(&self, target: u8, value: u8, state: &State) -> &'static str {
        let is_absent = |user: &&str| {
            let member = state.get(&StateKey::new(event_type::MEMBER, *user));
            let membership = member.and_then(|place| self.events[*place].event.membership());
            matches!(membership, None | Some(Membership::Leave | Membership::Knock))
        };
        let number = usize::from(target) % USERS.len();
        let absent = USERS[number..].iter().chain(&USERS[..number]).copied().find(is_absent);
        absent.filter(|_| value % 4 != 3).unwrap_or(user(target))
    }

    fn is_creator(&self, user: &str) -> bool {
        let create = &self.events[0].json;
        let content = create["content"].as_object().unwrap();
        let additional = content.get("additional_creators").and_then(CanonicalJsonValue::as_array).unwrap_or_default();
        create["sender"].as_str() == Some(user) || additional.iter().any(|creator| creator.as_str() == Some(user))
    }

    /// Returns the power levels of a state, or the first ones.
    fn power_levels(&self, state: &State) -> CanonicalJsonObject {
        match state.get(&StateKey::new(event_type::POWER_LEVELS, "")) {
            Some(place) => self.events[*place].json["content"].as_object().unwrap().clone(),
            None => self.first_power_levels(),
        }
    }

    fn changed_power_levels(&self, step: &Step, state: &State) -> CanonicalJsonObject {
        let mut content = self.power_levels(state);
        let level = LEVELS[usize::from(step.value / 16) % LEVELS.len()];
        let spelled = match self.rules().power_level_format {
            PowerLevelFormat::Integer => CanonicalJsonValue::Integer(level),
            _ => format!(" {level} ").into(),
        };
        let level = CanonicalJsonValue::Integer(level);
        let target = user(step.target);
        let named = NamedLevel::ALL[usize::from(step.target) % NamedLevel::ALL.len()].as_str();
        match step.value % 16 {
            0..=5 => set(&mut content, "users", target, level),
            6..=8 => drop(content.insert(named.into(), level)),
            9 => drop(content.remove(named)),
            10 => set(&mut content, "events", "m.room.topic", level),
            11 => set(&mut content, "notifications", "room", level),
            12 => set(&mut content, "users", target, spelled),
            13 => drop(content.insert(named.into(), spelled)),
            14 => {
                if let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users") {
                    users.remove(target);
                }
            }
            _ => content.clear(),
        }
        content
    }

    /// Redacts what authorizes others, or any event.
    fn redaction(&self, actor: &str, step: &Step, state: &State) -> Proposal {
        let any = self.events.len() - 1 - usize::from(step.target) % self.events.len();
        let authorizes = |place: &usize| {
            let event_type = &*self.events[*place].event.event_type;
            matches!(event_type, event_type::POWER_LEVELS | event_type::THIRD_PARTY_INVITE)
        };
        let target = match step.value % 4 {
            0 => state.get(&StateKey::new(event_type::POWER_LEVELS, "")).copied(),
            1 => (0..self.events.len()).rev().filter(authorizes).nth(usize::from(step.target % 4)),
            _ => None,
        };
        let target = self.event_id(target.unwrap_or(any)).clone();
        let mut proposal = Proposal::message(actor, event_type::REDACTION, CanonicalJsonObject::new());
        if self.rules().redacts_in_content {
            proposal.content.insert("redacts".into(), target.to_string().into());
        } else {
            proposal.redacts = Some(target);
        }
        proposal
    }
}

fn set(content: &mut CanonicalJsonObject, map: &str, key: &str, level: CanonicalJsonValue) {
    let map = content.entry(map.into()).or_insert_with(|| CanonicalJsonObject::new().into());
    if let CanonicalJsonValue::Object(map) = map {
        map.insert(key.into(), level);
    }
}

fn join_rules(value: u8) -> CanonicalJsonObject {
    let rule = JOIN_RULES[usize::from(value) % JOIN_RULES.len()];
    object(&format!(r#"{{"allow":[],"join_rule":"{rule}"}}"#))
}

fn token(value: u8) -> String {
    format!("token{}", value % 2)
}

fn third_party_invite(actor: &str, target: &str, value: u8) -> Proposal {
    let mut signed = object(&format!(r#"{{"mxid":"{target}","token":"{}"}}"#, token(value)));
    let signer = if value % 8 == 7 { "someone else" } else { IDENTITY_SERVER };
    sign_json(&mut signed, &ServerName::parse(IDENTITY_SERVER).unwrap(), &signing_key(signer)).unwrap();
    let mut invite = object(r#"{"display_name":"b..."}"#);
    if value % 16 != 6 {
        invite.insert("signed".into(), signed.into());
    }
    let mut proposal = Proposal::membership(actor, target, "invite");
    proposal.content.insert("third_party_invite".into(), invite.into());
    proposal
}

fn odd_member(actor: &str, target: &str, value: u8) -> Proposal {
    let mut proposal = Proposal::membership(actor, target, "dance");
    match value % 5 {
        0 => {}
        1 => proposal.content.clear(),
        2 => proposal.state_key = Some("nobody".to_owned()),
        3 => proposal.state_key = None,
        _ => drop(proposal.content.insert("membership".into(), CanonicalJsonValue::Null)),
    }
    proposal
}
