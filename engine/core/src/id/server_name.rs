//! The grammar of server names (appendices, "Server Name").

use std::net::Ipv6Addr;

/// Checks a server name: `hostname [ ":" port ]`.
///
/// Beyond the grammar, a DNS name has the conventional form of host names (labels of 1 to 63 letters, digits and hyphens that
/// neither begin nor end with a hyphen), numbers of an IPv4 address are at most 255 and a port at most 65535.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("server name longer than 255 bytes");
    }
    let (host, port) = match name.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("no closing bracket")?;
            check_ipv6(address)?;
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return Err("text after the closing bracket"),
            }
        }
        None => match name.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(name), None),
        },
    };
    if let Some(port) = port {
        check_port(port)?;
    }
    host.map_or(Ok(()), check_host)
}

const NAME_BYTES_MAX: usize = 255;
const LABEL_BYTES_MAX: usize = 63;

fn check_port(port: &str) -> Result<(), &'static str> {
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("port is not 1 to 5 digits");
    }
    port.parse::<u16>().map(drop).map_err(|_| "port above 65535")
}

fn check_ipv6(address: &str) -> Result<(), &'static str> {
    if !(2..=45).contains(&address.len()) {
        return Err("not an IPv6 address");
    }
    address.parse::<Ipv6Addr>().map(drop).map_err(|_| "not an IPv6 address")
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let mut labels = 0;
    let mut numbers = 0;
    let mut numbers_fit = true;
    for label in host.split('.') {
        check_label(label)?;
        labels += 1;
        if label.bytes().all(|byte| byte.is_ascii_digit()) {
            numbers += 1;
            numbers_fit &= label.len() <= 3 && label.parse::<u8>().is_ok();
        }
    }
    if labels == 4 && numbers == 4 && !numbers_fit { Err("number of an IPv4 address above 255") } else { Ok(()) }
}

fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX {
        return Err("empty or overlong label in a server name");
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err("character that is not allowed in a server name");
    }
    if label.starts_with('-') || label.ends_with('-') { Err("label begins or ends with a hyphen") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn valid_names() {
        for name in [
            "a",
            "matrix.org",
            "matrix.org:8888",
            "1.2.3.4:1234",
            "[1234:5678::abcd]:5678",
            "[::ffff:1.2.3.4]",
            "xn--bcher-kva.example",
            "1.2.3",
            "UPPER.example",
            "localhost:18441",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn sc_022_invalid_server_names_are_refused() {
        for name in [
            "",
            ".",
            "a..b",
            "a.b.",
            ".a",
            "-a.b",
            "a-.b",
            "[::1",
            "[::1]x",
            "[::1]]",
            "[:::1]",
            "[fe80::1%eth0]",
            "[]",
            "::1",
            "a:99999",
            "a:123456",
            "a:",
            "a:+80",
            "a:8 0",
            "a\0",
            "example.com/x",
            "ex ample.com",
            "user@example.com",
            "b\u{fc}cher.example",
            "256.1.1.1",
            "1.1.1.1111",
            "a_b",
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
        let long = vec!["a".repeat(63); 4].join(".");
        assert_eq!(check(&long), Ok(()));
        assert!(check(&format!("{long}.")).is_err());
        assert!(check(&format!("{long}:1")).is_err());
        assert!(check(&"a".repeat(64)).is_err());
    }
}
