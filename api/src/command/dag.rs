//! `ravel dag`: a room's event graph, drawn.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    process::ExitCode,
    sync::Arc,
};

use petgraph::{
    Direction,
    dot::{Config, Dot},
    graph::{DiGraph, EdgeReference, NodeIndex},
    visit::EdgeRef,
};
use ravel_core::{
    event::Event,
    id::EventId,
    room::{Outcome, Remains, Room},
};
use serde_json::json;

use super::{Failure, event_of, explain::name_membership, open_room, outcome_code};
use crate::{cli::GraphFormat, database::DatabaseName, output::Output};

/// Writes the graph, or what lies within some steps of an event.
pub fn run(
    database: &DatabaseName,
    room: &str,
    format: GraphFormat,
    around: Option<(&str, usize)>,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let room = open_room(database, room)?;
    let mut graph = graph_of(&room);
    if let Some((event, depth)) = around {
        let event_id = event_of(&room, event)?;
        graph = near(&graph, &event_id, depth);
    }
    match format {
        GraphFormat::Dot => output.line(to_dot(&graph).trim_end()),
        GraphFormat::Mermaid => output.bytes(to_mermaid(&graph).as_bytes()),
        GraphFormat::Json => output.value(&to_json(&graph)),
    }
    Ok(ExitCode::SUCCESS)
}

/// An event as it is drawn.
#[derive(Clone, Debug)]
struct Node {
    event: Arc<Event>,
    outcome: Outcome,
    is_extremity: bool,
    /// Its content was purged.
    is_purged: bool,
}

/// Events, with an edge from each to each of its prev events.
type Graph = DiGraph<Node, ()>;

fn graph_of(room: &Room) -> Graph {
    let extremities: BTreeSet<EventId> = room.forward_extremities().into_iter().collect();
    let mut graph = Graph::new();
    let mut places: BTreeMap<EventId, NodeIndex> = BTreeMap::new();
    for (event, outcome) in room.events() {
        let is_extremity = extremities.contains(&event.event_id);
        let is_purged = room.remains(&event.event_id) == Some(Remains::Skeleton);
        let place = graph.add_node(Node { event: event.clone(), outcome, is_extremity, is_purged });
        places.insert(event.event_id.clone(), place);
        // Events come after their prev events, each of which may be named twice.
        let prev_events: BTreeSet<_> = event.prev_events.iter().filter_map(|prev| places.get(prev)).collect();
        for prev in prev_events {
            graph.add_edge(place, *prev, ());
        }
    }
    graph
}

/// Returns the part of a graph within some steps of an event, along edges both ways.
fn near(graph: &Graph, event_id: &EventId, depth: usize) -> Graph {
    let start =
        graph.node_indices().find(|place| graph.node_weight(*place).is_some_and(|n| n.event.event_id == *event_id));
    let mut distances: BTreeMap<NodeIndex, usize> = start.map(|start| (start, 0)).into_iter().collect();
    let mut pending: VecDeque<NodeIndex> = start.into_iter().collect();
    while let Some(place) = pending.pop_front() {
        let distance = distances.get(&place).copied().unwrap_or(0);
        if distance < depth {
            let neighbors = [Direction::Outgoing, Direction::Incoming].map(|d| graph.neighbors_directed(place, d));
            for neighbor in neighbors.into_iter().flatten() {
                distances.entry(neighbor).or_insert_with(|| {
                    pending.push_back(neighbor);
                    distance + 1
                });
            }
        }
    }
    graph.filter_map(|place, node| distances.contains_key(&place).then(|| node.clone()), |_, ()| Some(()))
}

/// Returns the lines that describe an event, as they came: the writer of each format escapes them.
fn label(node: &Node) -> [String; 3] {
    let event = &node.event;
    let id: String = event.event_id.as_str().chars().take(ID_CHARS_SHOWN).collect();
    let mut what = event.event_type.to_string();
    if let Some(state_key) = event.state_key.as_deref().filter(|state_key| !state_key.is_empty()) {
        let _ = write!(what, " {state_key}");
    }
    if let Some(membership) = event.membership() {
        let _ = write!(what, " {}", name_membership(membership));
    }
    [id, what, event.sender.to_string()]
}

/// Enough to tell events apart, and to find them in what `ravel dag --json` prints.
const ID_CHARS_SHOWN: usize = 12;

/// Escapes a text for a quoted string of Graphviz, where a backslash begins an escape.
fn dot_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Escapes a text for a quoted label of Mermaid, which takes HTML, Markdown and formulas: `#` and a number stand for a character.
fn mermaid_escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (place, c) in text.chars().enumerate() {
        let is_sigil = place == 0 && c == '$';
        if c.is_control() {
            escaped.push(char::REPLACEMENT_CHARACTER);
        } else if is_sigil || c.is_alphanumeric() || " .:@-_/".contains(c) {
            escaped.push(c);
        } else {
            let _ = write!(escaped, "#{};", u32::from(c));
        }
    }
    escaped
}

fn to_dot(graph: &Graph) -> String {
    let node = |_: &Graph, (_, node): (NodeIndex, &Node)| {
        let color = match node.outcome {
            Outcome::Accepted => "black",
            Outcome::SoftFailed => "orange",
            Outcome::Rejected => "red",
        };
        let style = match (node.is_extremity, node.is_purged) {
            (true, _) => "bold",
            (false, true) => "dashed",
            (false, false) => "solid",
        };
        let shape = if node.event.state_key.is_some() { "box" } else { "ellipse" };
        format!(
            "label=\"{}\" color={color} style={style} shape={shape}",
            label(node).map(|line| dot_escaped(&line)).join("\\n")
        )
    };
    let edge = |_: &Graph, _: EdgeReference<'_, ()>| String::new();
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    format!("{:?}", Dot::with_attr_getters(graph, &config, &edge, &node))
}

fn to_mermaid(graph: &Graph) -> String {
    let mut text = String::from("graph BT\n");
    for place in graph.node_indices() {
        let Some(node) = graph.node_weight(place) else { continue };
        let class = match (node.outcome, node.is_extremity, node.is_purged) {
            (Outcome::Rejected, ..) => ":::rejected",
            (Outcome::SoftFailed, ..) => ":::softFailed",
            (Outcome::Accepted, true, _) => ":::extremity",
            (Outcome::Accepted, false, true) => ":::purged",
            (Outcome::Accepted, false, false) => "",
        };
        let _ = writeln!(
            text,
            "  e{}[\"{}\"]{class}",
            place.index(),
            label(node).map(|line| mermaid_escaped(&line)).join("<br>")
        );
    }
    for edge in graph.edge_references() {
        let _ = writeln!(text, "  e{} --> e{}", edge.source().index(), edge.target().index());
    }
    text + "  classDef rejected stroke:red\n  classDef softFailed stroke:orange\n  classDef extremity stroke-width:3px\n"
        + "  classDef purged stroke-dasharray:5\n"
}

fn to_json(graph: &Graph) -> serde_json::Value {
    let nodes = graph.node_weights().map(|node| {
        let event = &node.event;
        json!({
            "event_id": event.event_id.as_str(),
            "type": event.event_type,
            "state_key": event.state_key,
            "sender": event.sender.as_str(),
            "depth": event.depth,
            "origin_server_ts": event.origin_server_ts_ms,
            "outcome": outcome_code(node.outcome),
            "forward_extremity": node.is_extremity,
            "purged": node.is_purged,
        })
    });
    let id = |place| graph.node_weight(place).map(|node| node.event.event_id.as_str());
    let edges = graph.edge_references().map(|edge| json!([id(edge.source()), id(edge.target())]));
    json!({ "events": nodes.collect::<Vec<_>>(), "prev_events": edges.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_event_ends_a_label() {
        let check = |text: &str, dot: &str, mermaid: &str| {
            assert_eq!((dot_escaped(text), mermaid_escaped(text)), (dot.to_owned(), mermaid.to_owned()));
        };
        check("$ab-c_d:e.f", "$ab-c_d:e.f", "$ab-c_d:e.f");
        check("@ü:[::1]", "@ü:[::1]", "@ü:#91;::1#93;");
        check(r#"a"] b\"#, r#"a\"] b\\"#, "a#34;#93; b#92;");
        check("<script>&#35;", "<script>&#35;", "#60;script#62;#38;#35;35#59;");
        check("x$$y$$", "x$$y$$", "x#36;#36;y#36;#36;");
        check("a\nb\u{1b}c", "a\u{fffd}b\u{fffd}c", "a\u{fffd}b\u{fffd}c");
    }
}
