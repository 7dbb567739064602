//! `ravel state`: a room's state at any point.

use std::process::ExitCode;

use ravel_core::{room::Room, state::State};
use serde_json::json;

use super::{Failure, event_of, open_room};
use crate::{database::DatabaseName, output::Output};

/// At which point.
#[derive(Debug)]
pub enum At {
    /// The current state.
    Now,
    /// Before an event.
    Before(String),
    /// After an event.
    After(String),
}

/// Prints the state: in JSON one `["type","state_key","event_id"]` a line, sorted; else with fingerprint and digest.
pub fn run(database: &DatabaseName, room: &str, at: &At, output: &mut Output) -> Result<ExitCode, Failure> {
    let room = open_room(database, room)?;
    let (state, point) = state_at(&room, at)?;
    if output.is_json() {
        for (key, event_id) in state.sorted_entries() {
            output.value(&json!([key.event_type, key.state_key, event_id.as_str()]));
        }
        return Ok(ExitCode::SUCCESS);
    }
    output.line(format_args!("{} (room version {}), {point}", room.room_id(), room.rules().version));
    output.line(format_args!("entries      {}", state.len()));
    output.line(format_args!("fingerprint  {}", state.fingerprint()));
    output.line(format_args!("sha256       {}", state.entries_sha256()));
    let rows: Vec<[String; 3]> = state
        .sorted_entries()
        .into_iter()
        .map(|(key, event_id)| {
            let state_key = if key.state_key.is_empty() { "\"\"".to_owned() } else { key.state_key.to_string() };
            [key.event_type.to_string(), state_key, event_id.to_string()]
        })
        .collect();
    let width = |column: fn(&[String; 3]) -> &str| {
        rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0).min(COLUMN_MAX)
    };
    let (types, keys) = (width(|[event_type, ..]| event_type), width(|[_, state_key, _]| state_key));
    for [event_type, state_key, event_id] in &rows {
        output.line(format_args!("{event_type:types$}  {state_key:keys$}  {event_id}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The widest that a column becomes for the sake of a few long names.
const COLUMN_MAX: usize = 48;

fn state_at<'a>(room: &'a Room, at: &At) -> Result<(State<'a>, String), Failure> {
    let (event, before) = match at {
        At::Now => return Ok((room.current_state(), "now".to_owned())),
        At::Before(event) => (event, true),
        At::After(event) => (event, false),
    };
    let event_id = event_of(room, event)?;
    let state = if before { room.state_before(&event_id) } else { room.state_after(&event_id) };
    let point = format!("{} {event_id}", if before { "before" } else { "after" });
    Ok((state.ok_or(Failure::StatePurged { event_id })?, point))
}
