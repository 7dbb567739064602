//! The decisions of server discovery: what to ask next, given a name or an answer. No input or output.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ravel_core::id::ServerName;

use crate::{federation::SrvRecord, random::Random};

/// The port of a server that names none.
pub(crate) const DEFAULT_PORT: u16 = 8448;

/// The part of a server name before the port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IP literal.
    Address(IpAddr),
    /// A DNS name, in lower case.
    Name(Box<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host; a name is looked up in DNS.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Returns the parts of a server name.
pub fn split(name: &ServerName) -> (Host, Option<u16>) {
    let name = name.as_str();
    if let Some((address, port)) = name.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && let Ok(address) = address.parse::<Ipv6Addr>()
    {
        return (Host::Address(address.into()), port.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (name, None),
    };
    let host = match host.parse::<Ipv4Addr>() {
        Ok(address) => Host::Address(address.into()),
        Err(_) => Host::Name(host.to_ascii_lowercase().into()),
    };
    (host, port)
}

/// Returns the host whose `.well-known` says to whom the server delegates; `None` if it is not asked (steps 1 and 2).
pub(crate) fn well_known_host(server: &ServerName) -> Option<Box<str>> {
    match split(server) {
        (Host::Name(host), None) => Some(host),
        _ => None,
    }
}

/// What a name that `.well-known` is not asked for, or no more, says about where it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Steps 1, 2, 3.1, 3.2: here.
    At(Target),
    /// Steps 3.3, 3.4, 4, 5: SRV records of these names are asked for in turn; without any it is on [`DEFAULT_PORT`] of the host
    /// (steps 3.5, 6).
    BySrv { host: Box<str>, names: [String; 2] },
}

/// Tells where a server name, or the name that a server has delegated to, is.
pub(crate) fn place(name: &ServerName) -> Placed {
    match split(name) {
        (Host::Name(host), None) => {
            Placed::BySrv { names: [format!("_matrix-fed._tcp.{host}"), format!("_matrix._tcp.{host}")], host }
        }
        (host, port) => Placed::At(Target { host, port: port.unwrap_or(DEFAULT_PORT) }),
    }
}

/// Returns where SRV records lead, in the order to try: by priority, and by chance within one, as weights say (RFC 2782). At most
/// [`TARGETS_MAX`]; none if the records say that there is no such service.
pub(crate) fn targets_of(mut records: Vec<SrvRecord>, random: &dyn Random) -> Vec<Target> {
    records.retain(|record| !record.target.is_empty());
    records.sort();
    records.truncate(TARGETS_MAX);
    let mut targets = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let same = records.iter().take_while(|record| record.priority == first.priority);
        let total: u64 = same.map(|record| u64::from(record.weight)).sum();
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let drawn = u64::from_le_bytes(bytes) % (total + 1);
        let mut sum = 0;
        let chosen = records.iter().position(|record| {
            sum += u64::from(record.weight);
            sum >= drawn
        });
        let record = records.remove(chosen.unwrap_or(0));
        let host = match record.target.parse::<IpAddr>() {
            Ok(address) => Host::Address(address),
            Err(_) => Host::Name(record.target.to_ascii_lowercase().into()),
        };
        targets.push(Target { host, port: record.port });
    }
    targets
}

/// How many places one name may have.
pub(crate) const TARGETS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsRandom;

    fn name(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    fn record(priority: u16, weight: u16, target: &str) -> SrvRecord {
        SrvRecord { priority, weight, port: 1, target: target.into() }
    }

    #[test]
    fn names_are_placed() {
        for (server, well_known, at) in [
            ("1.2.3.4", None, Some("1.2.3.4:8448")),
            ("1.2.3.4:5", None, Some("1.2.3.4:5")),
            ("[::1]", None, Some("[::1]:8448")),
            ("[::1]:443", None, Some("[::1]:443")),
            ("a.b:80", None, Some("a.b:80")),
            ("A.b:80", None, Some("a.b:80")),
            ("A.b", Some("a.b"), None),
            ("1.2.3", Some("1.2.3"), None),
        ] {
            assert_eq!(well_known_host(&name(server)).as_deref(), well_known, "{server}");
            match place(&name(server)) {
                Placed::At(target) => assert_eq!(Some(&*target.to_string()), at, "{server}"),
                Placed::BySrv { host, names } => {
                    assert_eq!((Some(&*host), None), (well_known, at), "{server}");
                    assert_eq!(names, [format!("_matrix-fed._tcp.{host}"), format!("_matrix._tcp.{host}")]);
                }
            }
        }
    }

    #[test]
    fn priorities_come_first() {
        let records = vec![record(20, 60_000, "c"), record(10, 0, "b"), record(5, 1, "a")];
        let targets = targets_of(records, &OsRandom).into_iter().map(|target| target.host.to_string());
        assert_eq!(targets.collect::<String>(), "abc");
    }

    #[test]
    fn weights_are_chances() {
        let first = || targets_of(vec![record(1, 10, "rare"), record(1, 90, "often")], &OsRandom).remove(0).host;
        let often = (0..2000).filter(|_| first().to_string() == "often").count();
        assert!((1600..1950).contains(&often), "{often}");
    }

    #[test]
    fn sc_203_a_thousand_records_are_few_targets() {
        let records = (0..1000).map(|number| record(1, 0, &format!("h{number}"))).collect();
        assert_eq!(targets_of(records, &OsRandom).len(), TARGETS_MAX);
        assert_eq!(targets_of(vec![record(0, 0, "")], &OsRandom), []);
    }
}
