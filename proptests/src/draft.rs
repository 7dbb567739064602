//! Makes the events of a planned room.
//!
//! A draft keeps a state before and after each event to choose sensible content and auth events by. It is a guess: where branches
//! meet, the newest event of a key wins, which is not what resolution says. So some events of an orderly room are refused.

mod auth_events;
mod content;

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::{
    canonical_json::{
        CanonicalJsonObject, CanonicalJsonValue, INTEGER_MAX, JsonMode, object_to_canonical_bytes, parse_object,
    },
    event::{Content, Event, StateKey, event_type},
    event_auth::{auth_keys_for_event, check_state_dependent},
    graph::EventGraph,
    id::{EventId, RoomId},
    pdu::{ParsedPdu, VerifiedPdu},
    room_version::{EventIdFormat, RoomVersion, RoomVersionRules},
    signing::{content_hash, encode_base64, sign_event},
    state::StateMap,
};

use self::content::Proposal;
use crate::{
    people::{NOW_MS, USERS, key_ring, server_of, signing_key, user},
    plan::{Action, Clock, Flaw, Parents, Plan, StatesPlan, Step, Style},
};

/// A room's state, by places in [`Draft::events`].
pub type State = BTreeMap<StateKey, usize>;

/// A room.
#[derive(Debug)]
pub struct Draft {
    /// Its version.
    pub version: RoomVersion,
    /// Its id.
    pub room_id: RoomId,
    /// Its events, each after those that it cites; the create event is the first.
    pub events: Vec<DraftEvent>,
    style: Style,
    clock_ms: i64,
}

/// An event.
#[derive(Debug)]
pub struct DraftEvent {
    /// The event, hashed, with empty `signatures`.
    pub json: CanonicalJsonObject,
    /// Its fields.
    pub event: Arc<Event>,
    /// What is wrong with it.
    pub flaw: Flaw,
    /// What the draft takes for the state after it.
    pub state_after: State,
    has_children: bool,
    /// Whether the server of the user who authorizes a join signs as well.
    authorizing_server_signs: bool,
}

impl Draft {
    /// Makes the events of a plan.
    pub fn of(plan: &Plan) -> Self {
        Self::in_room(plan, "!room:ash.example")
    }

    /// As [`of`](Self::of), in a room with this id; in version 12 the create event makes the id.
    pub fn in_room(plan: &Plan, room_id: &str) -> Self {
        let mut draft = Self {
            version: plan.version,
            room_id: RoomId::parse(room_id).unwrap(),
            events: Vec::new(),
            style: plan.style,
            clock_ms: NOW_MS - 1_000_000,
        };
        draft.begin(plan);
        for step in &plan.steps {
            draft.take(step);
        }
        draft
    }

    /// Returns the rules of the room's version.
    pub fn rules(&self) -> &'static RoomVersionRules {
        self.version.rules()
    }

    /// Returns the events as federation sends them, signed.
    pub fn signed(&self) -> Vec<CanonicalJsonObject> {
        self.events.iter().map(|event| self.sign(event)).collect()
    }

    /// Returns the events as they come out of the first three checks on receipt.
    pub fn verified(&self) -> Vec<VerifiedPdu> {
        let keys = key_ring();
        let verify = |event: CanonicalJsonObject| {
            let pdu = ParsedPdu::parse(&object_to_canonical_bytes(&event), self.rules()).unwrap();
            pdu.verify(&keys, NOW_MS).unwrap()
        };
        self.signed().into_iter().map(verify).collect()
    }

    /// Returns the graph of the events, with those marked that `rejected` says.
    pub fn graph(&self, rejected: impl Fn(usize) -> bool) -> EventGraph {
        let mut graph = EventGraph::new(self.rules());
        for (place, event) in self.events.iter().enumerate() {
            graph.insert(&event.event, None, rejected(place)).unwrap();
        }
        graph
    }

    /// Returns the states that a plan asks for.
    pub fn states(&self, plan: &StatesPlan) -> Vec<State> {
        let newest = self.events.len() - 1;
        let after = plan.after.iter().map(|back| newest.saturating_sub(usize::from(*back)));
        let mut states: Vec<State> = after.map(|place| self.events[place].state_after.clone()).collect();
        for change in &plan.changes {
            let index = usize::from(change.state) % states.len();
            let state = &mut states[index];
            // The create event is in every state.
            let keys: Vec<StateKey> =
                state.keys().filter(|key| *key.event_type != *event_type::CREATE).cloned().collect();
            let Some(key) = keys.get(usize::from(change.key).checked_rem(keys.len()).unwrap_or(0)) else { continue };
            match change.event {
                None => drop(state.remove(key)),
                Some(number) => {
                    let place = self.another_of_key(state[key], number);
                    state.insert(key.clone(), place);
                }
            }
        }
        states
    }

    /// Returns a state of this draft by the numbers of a graph that [`graph`](Self::graph) made.
    pub fn state_map(&self, graph: &EventGraph, state: &State) -> StateMap {
        StateMap::of_events(graph, state.values().map(|place| graph.index_of(self.event_id(*place)).unwrap()))
    }

    /// Returns the id of an event.
    pub fn event_id(&self, place: usize) -> &EventId {
        &self.events[place].event.event_id
    }

    fn begin(&mut self, plan: &Plan) {
        let mut create = self.create_content(&plan.preset);
        // So that two rooms with equal beginnings have different ids in version 12.
        create.insert("org.example.room".into(), self.room_id.to_string().into());
        self.append(&Proposal::state(USERS[0], event_type::CREATE, "", create), &[], Flaw::None, true);
        self.room_id = self.events[0].event.room_id.clone();
        self.append_newest(&Proposal::membership(USERS[0], USERS[0], "join"));
        if plan.preset.power_levels {
            let mut content = self.first_power_levels();
            if plan.preset.invites_need_power {
                content.insert("invite".into(), CanonicalJsonValue::Integer(50));
            }
            self.append_newest(&Proposal::state(USERS[0], event_type::POWER_LEVELS, "", content));
        }
        if plan.preset.join_rules {
            let public = content::object(r#"{"join_rule":"public"}"#);
            self.append_newest(&Proposal::state(USERS[0], event_type::JOIN_RULES, "", public));
            for member in &USERS[1..=usize::from(plan.preset.members)] {
                self.append_newest(&Proposal::membership(member, member, "join"));
            }
        }
        for number in 0..plan.preset.more_state {
            let content = content::object("{}");
            self.append_newest(&Proposal::state(USERS[0], "org.example.more", &number.to_string(), content));
        }
    }

    fn take(&mut self, step: &Step) {
        let clock_ms = self.clock_ms;
        self.clock_ms = match step.clock {
            Clock::Later => clock_ms + 1_000,
            Clock::Same => clock_ms,
            Clock::Earlier(seconds) => clock_ms - 1_000 * i64::from(seconds),
            Clock::Extreme { largest } => i64::from(largest) * INTEGER_MAX,
        };
        self.take_now(step);
        if matches!(step.clock, Clock::Extreme { .. }) {
            self.clock_ms = clock_ms;
        }
    }

    fn take_now(&mut self, step: &Step) {
        let parents = self.parents(step.parents);
        let state = self.state_before(&parents);
        let actor = user(step.actor);
        let proposal = self.proposal(step, actor, &state);
        let parents =
            if step.action == Action::SecondCreate && step.value.is_multiple_of(2) { vec![] } else { parents };
        if self.append(&proposal, &parents, step.flaw, step.insists) {
            return;
        }
        for sender in [actor, USERS[0]] {
            let body = content::object(r#"{"body":"hm"}"#);
            let message = Proposal::message(sender, "m.room.message", body);
            if self.style != Style::States && self.append(&message, &parents, step.flaw, false) {
                return;
            }
        }
    }

    fn append_newest(&mut self, proposal: &Proposal) {
        self.clock_ms += 1_000;
        self.append(proposal, &[self.events.len() - 1], Flaw::None, true);
    }

    /// Adds an event, unless the rules refuse it in the state before it and nobody insists. Returns whether it is there now.
    fn append(&mut self, proposal: &Proposal, parents: &[usize], flaw: Flaw, insists: bool) -> bool {
        let state = self.state_before(parents);
        let (_, event) = self.make(proposal, parents, &[], flaw);
        let allowed =
            self.is_allowed(&event, |event_type, state_key| state.get(&StateKey::new(event_type, state_key)).copied());
        if !allowed && !insists {
            return false;
        }
        let auth_events = self.auth_events(&event, &state, flaw);
        let (json, event) = self.make(proposal, parents, &auth_events, flaw);
        if self.events.iter().any(|other| other.event.event_id == event.event_id) {
            return true;
        }
        let cited = |event_type: &str, state_key: &str| {
            let mut cited = auth_events.iter().copied().chain([0]);
            cited.find(|place| self.events.get(*place).is_some_and(|other| other.event.is_state(event_type, state_key)))
        };
        let applies = match self.style {
            Style::States => allowed || insists,
            _ => allowed && !auth_events::is_always_rejected(flaw) && self.is_allowed(&event, cited),
        };
        let mut state_after = state;
        if let (true, Some(key)) = (applies, event.state_key()) {
            state_after.insert(key, self.events.len());
        }
        for parent in parents {
            self.events[*parent].has_children = true;
        }
        self.events.push(DraftEvent {
            json,
            event: Arc::new(event),
            flaw,
            state_after,
            has_children: false,
            authorizing_server_signs: proposal.authorizing_server_signs,
        });
        true
    }

    fn is_allowed(&self, event: &Event, state: impl Fn(&str, &str) -> Option<usize>) -> bool {
        let keys = auth_keys_for_event(self.rules(), event).chain([(event_type::CREATE, "")]);
        let state: Vec<&Event> =
            keys.filter_map(|(event_type, key)| Some(&*self.events[state(event_type, key)?].event)).collect();
        check_state_dependent(self.rules(), event, &state).is_ok()
    }

    fn parents(&self, parents: Parents) -> Vec<usize> {
        let newest = self.events.len() - 1;
        let back = |steps: u8| newest.saturating_sub(usize::from(steps));
        let tips: Vec<usize> = (0..=newest).filter(|place| !self.events[*place].has_children).collect();
        let mut parents = match parents {
            Parents::Newest => vec![newest],
            Parents::Tip(number) => vec![tips[usize::from(number) % tips.len()]],
            Parents::AllTips => tips.into_iter().rev().take(5).collect(),
            Parents::Back(steps) => vec![back(steps)],
            Parents::TwoBack(first, second) => vec![back(first), back(second)],
        };
        parents.dedup();
        parents
    }

    fn state_before(&self, parents: &[usize]) -> State {
        let mut states = parents.iter().map(|parent| &self.events[*parent].state_after);
        let mut state = states.next().cloned().unwrap_or_default();
        for other in states {
            for (key, place) in other {
                let newest = state.entry(key.clone()).or_insert(*place);
                *newest = (*newest).max(*place);
            }
        }
        state
    }

    fn make(
        &self,
        proposal: &Proposal,
        parents: &[usize],
        auth_events: &[usize],
        flaw: Flaw,
    ) -> (CanonicalJsonObject, Event) {
        let depth = parents.iter().map(|parent| self.events[*parent].event.depth).max().map_or(1, |depth| depth + 1);
        let depth = if let Flaw::Depth(depth) = flaw { depth.into() } else { depth };
        let mut json = CanonicalJsonObject::new();
        let mut put = |key: &str, value: CanonicalJsonValue| json.insert(key.into(), value);
        put("auth_events", self.references(auth_events));
        put("content", proposal.content.clone().into());
        put("depth", CanonicalJsonValue::Integer(depth));
        put("origin_server_ts", CanonicalJsonValue::Integer(self.clock_ms));
        put("prev_events", self.references(parents));
        put("sender", proposal.sender.clone().into());
        put("signatures", CanonicalJsonObject::new().into());
        put("type", proposal.event_type.clone().into());
        if let Some(state_key) = &proposal.state_key {
            put("state_key", state_key.clone().into());
        }
        if flaw == Flaw::Oversized && proposal.state_key.is_some() && !self.rules().strict_byte_limits {
            put("state_key", "é".repeat(200).into());
        }
        if !(self.rules().room_id_is_create_hash && proposal.event_type == event_type::CREATE) {
            put("room_id", self.room_id.to_string().into());
        }
        if self.rules().event_id_format == EventIdFormat::Carried {
            let server = server_of(&proposal.sender);
            put("event_id", format!("$event{}:{server}", self.events.len()).into());
        }
        if let Some(redacts) = &proposal.redacts {
            put("redacts", redacts.to_string().into());
        }
        let hash = encode_base64(&content_hash(&json));
        json.insert("hashes".into(), content::object(&format!(r#"{{"sha256":"{hash}"}}"#)).into());
        let event = ParsedPdu::parse(&object_to_canonical_bytes(&json), self.rules()).unwrap().event().clone();
        (json, event)
    }

    fn references(&self, places: &[usize]) -> CanonicalJsonValue {
        let reference = |place: &usize| {
            let id = CanonicalJsonValue::from(self.event_id(*place).to_string());
            match self.rules().event_id_format {
                EventIdFormat::Carried => {
                    let hashes = self.events[*place].json["hashes"].clone();
                    CanonicalJsonValue::Array(vec![id, hashes])
                }
                _ => id,
            }
        };
        CanonicalJsonValue::Array(places.iter().map(reference).collect())
    }

    fn sign(&self, event: &DraftEvent) -> CanonicalJsonObject {
        let mut json = event.json.clone();
        let mut sign = |user: &str| {
            let server = server_of(user);
            sign_event(&mut json, self.rules(), &server, &signing_key(server.as_str())).unwrap();
        };
        sign(event.event.sender.as_str());
        if let Content::Member(member) = &event.event.content
            && let Some(user) = &member.join_authorised_via_users_server
            && event.authorizing_server_signs
        {
            sign(user);
        }
        // Redaction may keep all of a create event's content; then it is the signature that would be wrong.
        if event.flaw == Flaw::ContentHash
            && *event.event.event_type != *event_type::CREATE
            && let Some(CanonicalJsonValue::Object(content)) = json.get_mut("content")
        {
            content.insert("changed".into(), CanonicalJsonValue::Bool(true));
        }
        json
    }
}

/// Reads JSON whose numbers may have any spelling.
pub fn json_object(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::ByteExact).unwrap()
}
