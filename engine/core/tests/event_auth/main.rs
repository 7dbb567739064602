//! The authorization rules, each in every room version, as a table (`rules.txt`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]

mod scenario;
mod security_cases;
mod units;

use std::collections::BTreeSet;

use ravel_core::room_version::RoomVersion;

/// A line `rule`: the number in each version, or `None`.
type Rule = [Option<&'static str>; 12];

#[test]
fn sc_034_every_rule_of_every_version_allows_and_refuses() {
    // Which rules of which version have a line that allows, and which one that refuses.
    let (mut allowing, mut refusing) = (BTreeSet::new(), BTreeSet::new());
    let mut rules: Vec<Rule> = vec![];
    let mut after_case = false;
    let mut failures = vec![];
    for (number, line) in include_str!("rules.txt").lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(line) = line.strip_prefix("rule ") {
            if std::mem::take(&mut after_case) {
                rules.clear();
            }
            rules.push(rule_numbers(line.split('|').next().unwrap()));
            continue;
        }
        after_case = true;
        let [head, state, event] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("line {}: three parts wanted", number + 1)
        };
        let (verb, code) = head.split_once(' ').unwrap_or((head, ""));
        let (verb, versions) = verb.split_once('[').unwrap_or((verb, "1-12]"));
        let (first, last) =
            versions.trim_end_matches(']').split_once('-').unwrap_or((versions.trim_end_matches(']'), ""));
        let last = if last.is_empty() { first } else { last };
        for version in RoomVersion::ALL {
            let index = version as usize;
            let limit = |id| RoomVersion::parse(id).unwrap();
            let last_rule = rules.last().unwrap()[index];
            let is_here =
                if verb == "allow" { rules.iter().any(|rule| rule[index].is_some()) } else { last_rule.is_some() };
            if version < limit(first) || version > limit(last) || !is_here {
                continue;
            }
            let covered = rules.iter().filter_map(|rule| rule[index]).map(|rule| (version, rule));
            let expected = match verb {
                "allow" => {
                    allowing.extend(covered);
                    Ok(())
                }
                "refuse" => {
                    refusing.extend(covered);
                    Err((code, last_rule.unwrap()))
                }
                other => panic!("line {}: {other:?}", number + 1),
            };
            let found = scenario::check(version, state, event);
            let outcome = found.as_ref().copied().map_err(|refusal| (refusal.code(), refusal.rule_number(version)));
            if outcome != expected {
                failures.push(format!("line {}, version {version}: {line}\n    found {outcome:?}", number + 1));
            }
            if let Err(refusal) = &found {
                assert!(refusal.to_string().len() > 20, "line {}: {refusal}", number + 1);
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));

    let printed: Vec<_> = printed_rules().collect();
    for rule in &printed {
        assert!(allowing.contains(rule), "{rule:?} has no event that it allows");
        assert!(refusing.contains(rule), "{rule:?} has no event that it refuses");
    }
    for rule in allowing.iter().chain(&refusing) {
        assert!(printed.contains(rule), "{rule:?} is not in the specification");
    }
}

/// Reads the numbers for versions 1-2, 3-5, 6, 7, 8-9, 10-11 and 12.
fn rule_numbers(line: &'static str) -> Rule {
    let numbers: Vec<_> = line.split_whitespace().map(|number| (number != "-").then_some(number)).collect();
    assert_eq!(numbers.len(), 7, "seven numbers wanted: {line}");
    [0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5, 6].map(|column| numbers[column])
}

fn printed_rules() -> impl Iterator<Item = (RoomVersion, &'static str)> {
    let lines = include_str!("printed_rules.txt").lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(|line| {
        let (version, numbers) = line.split_once(": ").unwrap();
        let version = RoomVersion::parse(version).unwrap();
        numbers.split_whitespace().map(move |number| (version, number))
    })
}
