//! Which servers this one has to do with.

use ravel_core::id::ServerName;
use ruma::events::room::server_acl::RoomServerAclEventContent;

/// Decides on each server that is about to be asked and on each that has sent something, whoever named it: a user, an alias, an event,
/// another server.
///
/// Names are compared as by rooms' access control lists: `*` is for any characters and `?` for one; case and port make no difference.
///
/// Source: client-server API, "Server Access Control Lists (ACLs) for rooms", for the form of the lists.
#[derive(Clone, Debug)]
pub struct ServerFilter {
    servers: RoomServerAclEventContent,
    /// Those that others may delegate to: where an allowed server is served is its own choice.
    delegated: RoomServerAclEventContent,
}

impl ServerFilter {
    /// Makes a filter that lets allowed servers through that are not denied.
    pub fn new(allowed: Vec<String>, denied: Vec<String>) -> Self {
        Self {
            servers: RoomServerAclEventContent::new(true, allowed, denied.clone()),
            delegated: RoomServerAclEventContent::new(true, vec!["*".to_owned()], denied),
        }
    }

    /// Whether there is something to do with a server. Cost: linear in the lists.
    pub fn allows(&self, server: &ServerName) -> bool {
        is_allowed(&self.servers, server)
    }

    /// Whether a server that is allowed may delegate to this name. It need not be among the allowed ones, and must not be denied.
    pub fn allows_delegation_to(&self, name: &ServerName) -> bool {
        is_allowed(&self.delegated, name)
    }
}

/// Lets all through.
impl Default for ServerFilter {
    fn default() -> Self {
        Self::new(vec!["*".to_owned()], Vec::new())
    }
}

/// Whether an access control list lets a server take part.
pub(crate) fn is_allowed(list: &RoomServerAclEventContent, server: &ServerName) -> bool {
    ruma::ServerName::parse(server.as_str()).is_ok_and(|server| list.is_allowed(&server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allowed: &[&str], denied: &[&str]) -> ServerFilter {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ServerFilter::new(names(allowed), names(denied))
    }

    #[test]
    fn sc_146_names_are_compared_without_case_and_port() {
        let check = |allowed: &[&str], denied: &[&str], server: &str, is_allowed: bool| {
            let server = ServerName::parse(server).unwrap();
            assert_eq!(filter(allowed, denied).allows(&server), is_allowed, "{allowed:?} {denied:?} {server}");
        };
        for server in ["evil.org", "EVIL.org", "Evil.Org:8448", "evil.org:443"] {
            check(&["*"], &["evil.org"], server, false);
            check(&["*"], &["EVIL.ORG"], server, false);
            check(&["good.org"], &[], server, false);
        }
        for server in ["a.evil.org", "notevil.org", "evil.org.good.org", "1.2.3.4", "[::1]:80"] {
            check(&["*"], &["evil.org"], server, true);
            check(&[], &[], server, false);
        }
        for (server, is_allowed) in [("a.evil.org", false), ("a.b.EVIL.org:1", false), ("evil.org", true)] {
            check(&["*"], &["*.evil.org"], server, is_allowed);
            check(&["*.evil.org"], &[], server, !is_allowed);
        }
        check(&["*"], &["1.2.3.?", "[::1]"], "1.2.3.4:80", false);
        check(&["*"], &["1.2.3.?", "[::1]"], "[::1]:80", false);
        check(&["good.org"], &["*.org"], "good.org", false);
    }

    #[test]
    fn sc_146_an_allowed_server_may_be_served_elsewhere() {
        let filter = filter(&["good.org"], &["evil.org"]);
        let check = |name: &str, allowed: (bool, bool)| {
            let name = ServerName::parse(name).unwrap();
            assert_eq!((filter.allows(&name), filter.allows_delegation_to(&name)), allowed, "{name}");
        };
        check("good.org", (true, true));
        check("hosting.org:443", (false, true));
        check("EVIL.org:8448", (false, false));
    }
}
