//! The text of the guest's /etc/hosts and /etc/resolv.conf.

use crate::config::{Network, Resolvers};
use std::fmt::Write as _;

/// The host's file, and a line per family for the host name unless it is named already.
pub fn hosts(host: &str, hostname: &str) -> String {
    let mut text = host.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let named = host.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|name| name == hostname)
    });
    if !named && !hostname.is_empty() {
        let _ = write!(text, "127.0.0.1 {hostname}\n::1 {hostname}\n");
    }
    text
}

/// Our resolver's addresses, and what the host's file says about searching and options.
pub fn resolv_conf(network: &Network, host: &Resolvers) -> String {
    let mut text = format!("nameserver {}\n", network.dns_v4());
    if let Some(v6) = network.dns_v6() {
        let _ = writeln!(text, "nameserver {v6}");
    }
    for (word, values) in [("search", &host.search), ("options", &host.options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_added_once() {
        assert_eq!(hosts("127.0.0.1 localhost", "box"), "127.0.0.1 localhost\n127.0.0.1 box\n::1 box\n");
        assert_eq!(hosts("127.0.1.1 box.example box\n", "box"), "127.0.1.1 box.example box\n");
        assert_eq!(hosts("# box\n", "box"), "# box\n127.0.0.1 box\n::1 box\n");
    }

    #[test]
    fn search_and_options_are_kept() {
        let host = Resolvers {
            servers: vec!["192.0.2.1:53".parse().unwrap()],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:2".into()],
        };
        let v4 = Network { v6: None, ..Network::default() };
        assert_eq!(
            resolv_conf(&v4, &host),
            "nameserver 10.0.2.3\nsearch a.example b.example\noptions ndots:2\n"
        );
        assert!(
            resolv_conf(&Network::default(), &host).starts_with("nameserver 10.0.2.3\nnameserver fd00::3\n")
        );
    }
}
