//! What slirp4netns and rootlesskit make of the settings: their flags are fixed by their callers, so this is where a user has
//! a say.

use crate::cli::log::{self, LogFilter, LogFormat};
use crate::cli::network_args::{exposed, outbound};
use crate::config::{Limits, OutboundAddr, Policy, Rule, SandboxMode, Settings, SourceIp, limits, resolvers};
use crate::control::Level;
use clap::ValueEnum;
use std::net::SocketAddr;
use std::str::FromStr;

/// Names the place of a setting that turns out wrong.
fn blame<'a>(settings: &'a Settings, key: &'a str) -> impl Fn(String) -> String + 'a {
    move |cause| settings.place(key).map_or_else(|| cause.clone(), |place| format!("{place}: {cause}"))
}

/// What the guest may reach. Nothing is closed that nobody has asked to close: callers count on what slirp4netns reaches, a
/// cloud's metadata among it.
pub(super) fn policy(settings: &Settings) -> Result<Policy, String> {
    let rules = Rule::asked(settings.texts("policy.allow"), settings.texts("policy.deny"));
    let exposed = exposed(settings.texts("policy.expose-host"));
    Ok(Policy {
        allow_host_loopback: settings.on("policy.host-loopback"),
        exposed: exposed.map_err(|e| blame(settings, "policy.expose-host")(e.cause()))?,
        rules: rules.map_err(|e| blame(settings, "policy.deny")(e.to_string()))?,
    })
}

/// The source of outgoing traffic, unless flags have said it.
pub(super) fn source(settings: &Settings) -> Result<OutboundAddr, String> {
    let key = "network.outbound-addr";
    outbound(settings.texts(key)).map_err(|e| blame(settings, key)(e.cause()))
}

/// Resolvers instead of the host's.
pub(super) fn dns(settings: &Settings) -> Result<Vec<SocketAddr>, String> {
    settings.texts("network.dns").iter().map(|text| resolvers::named(text)).collect()
}

/// Whom guests see behind published ports; none if nobody has said so.
pub(super) fn source_ip(settings: &Settings) -> Option<SourceIp> {
    match settings.text("publish.source-ip") {
        "gateway" => Some(SourceIp::Gateway),
        _ => None,
    }
}

/// How far the plane is locked in. A caller that has asked for a sandbox gets one.
pub(super) fn sandbox(settings: &Settings, asked: bool) -> SandboxMode {
    match settings.text("sandbox") {
        "require" => SandboxMode::Require,
        "off" if !asked => SandboxMode::Off,
        _ => SandboxMode::On,
    }
}

/// How much the guest may have open and hold.
pub(super) fn limits(settings: &Settings) -> Limits {
    // The texts have been checked.
    fn number<T: FromStr>(settings: &Settings, key: &str, otherwise: T) -> T {
        settings.text(key).parse().unwrap_or(otherwise)
    }
    let default = Limits::default();
    Limits {
        flows: number(settings, "limits.flows", default.flows),
        half_open: number(settings, "limits.half-open", default.half_open),
        new_flows: number(settings, "limits.new-flows", default.new_flows),
        buffered: limits::buffered(settings.text("limits.buffered")).unwrap_or(default.buffered),
    }
}

/// Starts the log.
pub(super) fn start_log(settings: &Settings) -> Level {
    let filter: Result<LogFilter, String> = settings.text("log.level").parse();
    let wrong = filter.as_ref().err().cloned();
    let filter = filter.unwrap_or_else(|_| LogFilter::from(Level::Warn));
    let level = filter.level();
    let format = LogFormat::from_str(settings.text("log.format"), false).unwrap_or_default();
    log::start(filter, format);
    // Containers start all the same: what is wrong is a part that does not exist.
    if let Some(cause) = wrong {
        tracing::warn!("{}", blame(settings, "log.level")(cause));
    }
    level
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;
    use crate::config::settings::Caller;
    use std::path::Path;

    fn with(text: &str) -> Settings {
        let mut settings = Settings::new(Caller::RootlessKit);
        settings.take_file(Path::new("/c.toml"), text).unwrap();
        settings
    }

    #[test]
    fn nothing_is_closed_unless_asked_for() {
        let open = policy(&with("")).unwrap();
        assert!(open.rules.is_empty() && open.allow_host_loopback && open.exposed.is_empty());
        let closed = policy(&with("[policy]\ndeny = [\"169.254.0.0/16\"]\nhost-loopback = false")).unwrap();
        assert_eq!((closed.rules.len(), closed.allow_host_loopback), (1, false));
    }

    #[test]
    fn what_turns_out_wrong_names_the_line() {
        let said = source(&with("\nnetwork.outbound-addr = [\"192.0.2.1\"]")).unwrap_err();
        assert!(said.starts_with("/c.toml:2: network.outbound-addr: 192.0.2.1: "), "{said}");
        let said = policy(&with("policy.expose-host = [\"80\", \"81:80\"]")).unwrap_err();
        assert!(said.starts_with("/c.toml:1: policy.expose-host: \"81:80\" is at the same port"), "{said}");
    }

    #[test]
    fn a_sandbox_that_is_asked_for_is_there() {
        for (text, asked, mode) in [
            ("", false, SandboxMode::On),
            ("sandbox = \"off\"", false, SandboxMode::Off),
            ("sandbox = \"off\"", true, SandboxMode::On),
            ("sandbox = \"require\"", true, SandboxMode::Require),
        ] {
            assert_eq!(sandbox(&with(text), asked), mode, "{text} {asked}");
        }
    }

    #[test]
    fn defaults_match_a_network_without_settings() {
        assert!(dns(&with("")).unwrap().is_empty());
        assert_eq!(source(&with("")).unwrap(), Network::default().outbound);
        assert_eq!(limits(&with("")), Limits::default());
        let few = limits(&with("[limits]\nflows = 7\nhalf-open = 6\nnew-flows = 5\nbuffered = \"3M\""));
        assert_eq!(few, Limits { flows: 7, half_open: 6, new_flows: 5, buffered: Some(3 << 20) });
        assert_eq!(source_ip(&with("")), None);
        assert_eq!(source_ip(&with("publish.source-ip = \"gateway\"")), Some(SourceIp::Gateway));
    }
}
