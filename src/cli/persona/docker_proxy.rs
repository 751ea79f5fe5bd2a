//! ringtap called as `docker-proxy` or `rootlesskit-docker-proxy`: Docker's relay of one published port.
//!
//! Theory of operation. Docker starts one for each port and family, inside the namespace, to relay from an address there to
//! a container. We do that too, for whoever connects from inside the namespace. What comes from outside need not pass here:
//! the instance that published the port is told the container's address, and its data plane dials the container itself, in
//! one hop and from the client's own address.
//!
//! `rootlesskit-docker-proxy` (Docker before 28) publishes the port by the API, with the container for its target, listens on
//! the loopback in the place of the host's address, and removes the port when it is told to end. `docker-proxy` finds the
//! port published by Docker itself, and has it pointed elsewhere ([`crate::control::api`], `/ringtap/v1/targets`); where the
//! instance is none of ours, it is an ordinary relay. Descriptor 3 gets `0` once the port works, or `1` and why it does not.
//! Descriptor 4 is the listener, with `-use-listen-fd`.
//!
//! Most proxies never see a client. One has no ring before the first one comes.

use super::go_flags::{Flag, Parsed};
use super::rootlesskit_api::Api;
use crate::cli::port::client::ClientError;
use crate::config::RootlessKitSpec;
use crate::control::api::views::Info;
use crate::netns::process::{adopt_fd, heed_interrupts};
use crate::plane::relays::stop::Stop;
use crate::plane::relays::{standalone_tcp, standalone_udp, udp};
use crate::relay::Choice;
use crate::relay::udp::Limits;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

static FLAGS: [Flag; 8] = [
    Flag::value("proto", "tcp", "protocol: tcp, udp"),
    Flag::value("host-ip", "", "address to listen at"),
    Flag::value("host-port", "", "port to listen at"),
    Flag::value("container-ip", "", "address to relay to"),
    Flag::value("container-port", "", "port to relay to"),
    Flag::switch("use-listen-fd", "descriptor 4 listens already"),
    Flag::switch("help", "show this").or("h"),
    Flag::switch("version", "print the version").or("v"),
];

/// Connections that wait to be accepted, at most; the kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Relays.
    DockerProxy,
    /// Publishes the port as well.
    RootlessKitDockerProxy,
}

/// From its arguments to its exit status.
pub fn main(kind: Kind, arguments: Vec<OsString>) -> ExitCode {
    let flags = match Parsed::of(&FLAGS, arguments) {
        Ok(flags) => flags,
        Err(e) => {
            eprintln!("{e}\n{}", super::go_flags::describe(&FLAGS));
            return ExitCode::FAILURE;
        }
    };
    if flags.on("help") || flags.on("version") {
        let version = concat!("docker-proxy (ringtap ", env!("CARGO_PKG_VERSION"), ")\n");
        print!("{}", if flags.on("help") { super::go_flags::describe(&FLAGS) } else { version.to_owned() });
        return ExitCode::SUCCESS;
    }
    // Before anything else is opened: the listener is at a number of its own as well.
    let report = adopt_fd(3).map(File::from);
    match Proxy::start(kind, &flags) {
        Ok(proxy) => {
            tell(report, "0\n");
            proxy.serve()
        }
        Err(e) => {
            tell(report, &format!("1\n{e}"));
            eprintln!("docker-proxy: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever has started us. Nobody listening is no reason not to run.
fn tell(report: std::io::Result<File>, text: &str) {
    if let Ok(mut report) = report {
        let _ = report.write_all(text.as_bytes());
    }
}

/// What is to be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    udp: bool,
    /// At the host, as Docker says it.
    host: SocketAddr,
    container: SocketAddr,
}

impl Route {
    fn of(flags: &Parsed) -> Result<Self, String> {
        let proto = flags.text("proto", "tcp");
        let udp = match proto.as_str() {
            "tcp" => false,
            "udp" => true,
            "sctp" => return Err("sctp is not relayed; publish tcp or udp".to_owned()),
            other => return Err(format!("unsupported protocol {other}")),
        };
        let address = |ip: &str, port: &str| -> Result<SocketAddr, String> {
            let (given, number) = (flags.text(ip, ""), flags.text(port, ""));
            let ip = given.parse::<IpAddr>().map_err(|_| format!("-{ip}: {given:?} is not an address"))?;
            let port = number.parse().map_err(|_| format!("-{port}: {number:?} is not a port"))?;
            Ok(SocketAddr::new(ip.to_canonical(), port))
        };
        let host = address("host-ip", "host-port")?;
        Ok(Self { udp, host, container: address("container-ip", "container-port")? })
    }

    const fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    /// With the family.
    fn proto(&self) -> String {
        format!("{}{}", self.protocol(), if self.host.is_ipv4() { "4" } else { "6" })
    }

    /// As it is published by our own API: straight to the container.
    fn spec(&self) -> String {
        format!("{}:{}/{}", self.host, self.container, self.protocol())
    }

    /// Where to listen inside for a port that is published at the host.
    fn inside(&self, info: &Info) -> SocketAddr {
        let loopback: IpAddr = match self.host.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let not_there = info.port_driver.as_ref().is_some_and(|driver| driver.disallow_loopback_child_ip);
        let own = info.network_driver.as_ref().and_then(|net| net.child_ip.parse::<IpAddr>().ok());
        let own = own.filter(|ip| not_there && ip.is_ipv4() == loopback.is_ipv4());
        SocketAddr::new(own.unwrap_or(loopback), self.host.port())
    }
}

enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listener {
    fn bind(udp: bool, at: SocketAddr) -> Result<Self, String> {
        let cannot = |e: std::io::Error| format!("cannot listen on {at} inside: {e}");
        if udp {
            return standalone_udp::listen(at).map(Self::Udp).map_err(cannot);
        }
        let listener = TcpListener::bind(at).map_err(cannot)?;
        // The library's backlog is 128: a burst of clients should find room.
        let _ = socket2::SockRef::from(&listener).listen(BACKLOG);
        Ok(Self::Tcp(listener))
    }

    fn passed(datagrams: bool, fd: OwnedFd) -> Result<Self, String> {
        match datagrams {
            true => {
                udp::prepare(&fd).map(|()| Self::Udp(fd.into())).map_err(|e| format!("descriptor 4: {e}"))
            }
            false => Ok(Self::Tcp(fd.into())),
        }
    }

    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }

    /// Relays until a signal asks for the end.
    fn relay(self, to: SocketAddr, stop: &Stop) -> Result<(), String> {
        match self {
            Self::Tcp(listener) => {
                standalone_tcp::run(listener, to, Choice::Auto, stop).map(drop).map_err(|e| e.to_string())
            }
            Self::Udp(socket) => {
                standalone_udp::run(socket, to, Limits::default(), stop).map(drop).map_err(|e| e.to_string())
            }
        }
    }
}

struct Proxy {
    listener: Listener,
    container: SocketAddr,
    stop: Stop,
    /// A port of ours, to be removed.
    published: Option<(Api, i64)>,
}

impl Proxy {
    fn start(kind: Kind, flags: &Parsed) -> Result<Self, String> {
        let route = Route::of(flags)?;
        let passed = flags.on("use-listen-fd").then(|| adopt_fd(4)).transpose();
        let passed = passed.map_err(|e| format!("descriptor 4: {e}"))?;
        // By an interrupt Docker ends us.
        heed_interrupts();
        let stop = Stop::new().map_err(|e| format!("cannot watch signals: {e}"))?;
        // Listings show what Docker's proxy is called, whichever of the two names we have.
        let _ = nix::sys::prctl::set_name(c"docker-proxy");
        let mut published = None;
        let mut at = route.host;
        match (kind, api()) {
            (Kind::RootlessKitDockerProxy, Some(api)) => {
                let info = api.info().map_err(|e| format!("error while calling RootlessKit: {e}"))?;
                at = route.inside(&info);
                let id = publish(&api, &info, &route, at);
                let id = id.map_err(|e| format!("error while calling PortManager.AddPort(): {e}"))?;
                published = id.map(|id| (api, id));
            }
            (Kind::RootlessKitDockerProxy, None) => {
                return Err("$ROOTLESSKIT_STATE_DIR needs to be set".to_owned());
            }
            (Kind::DockerProxy, Some(api)) => {
                // If that is not possible, clients come by us.
                let _ = api.redirect(route.protocol(), at, route.container);
            }
            (Kind::DockerProxy, None) => {}
        }
        let listener = match passed {
            Some(fd) => Listener::passed(route.udp, fd),
            None => Listener::bind(route.udp, at),
        };
        match listener {
            Ok(listener) => Ok(Self { listener, container: route.container, stop, published }),
            Err(e) => {
                remove(published);
                Err(e)
            }
        }
    }

    /// Until it is told to end.
    fn serve(self) -> ExitCode {
        let Self { listener, container, stop, published } = self;
        let outcome = loop {
            let mut fds = [stop.fd(), listener.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                // An interruption only goes round once more.
                Err(_) => {}
                Ok(_) if fds[0].any() == Some(true) => break Ok(()),
                // The first client: from now on there is a ring.
                Ok(_) => break listener.relay(container, &stop),
            }
        };
        remove(published);
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("docker-proxy: {e}");
                ExitCode::FAILURE
            }
        }
    }
}

fn remove(published: Option<(Api, i64)>) {
    if let Some((api, id)) = published {
        // An instance that is gone has no ports.
        let _ = api.remove(id);
    }
}

/// The instance that we are inside of.
fn api() -> Option<Api> {
    let dir = std::env::var_os("ROOTLESSKIT_STATE_DIR").filter(|dir| !dir.is_empty())?;
    Some(Api::at(&PathBuf::from(dir).join(crate::control::api::SOCKET)))
}

/// Publishes the port: straight to the container if the instance is one of ours, else to `at`, where we listen. `None` if
/// RootlessKit's port driver has not got the protocol, which Docker takes for no error.
fn publish(api: &Api, info: &Info, route: &Route, at: SocketAddr) -> Result<Option<i64>, ClientError> {
    match api.publish_direct(&route.spec()) {
        Err(ClientError::Status(404)) => {}
        other => return other.map(Some),
    }
    let proto = route.proto();
    let driver = info.port_driver.as_ref();
    if !driver.is_some_and(|driver| driver.protos.contains(&proto)) {
        return Ok(None);
    }
    let spec = RootlessKitSpec {
        proto,
        parent_ip: route.host.ip().to_string(),
        parent_port: route.host.port().into(),
        child_port: at.port().into(),
        child_ip: at.ip().to_string(),
    };
    Ok(Some(i64::from(api.add(&spec)?.id.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(line: &str) -> Result<Route, String> {
        Route::of(&Parsed::of(&FLAGS, line.split_whitespace().map(Into::into).collect())?)
    }

    const DOCKERS: &str =
        "-proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80";

    #[test]
    fn what_docker_says_is_understood() {
        let four = route(DOCKERS).unwrap();
        assert_eq!((four.spec().as_str(), four.proto().as_str()), ("0.0.0.0:8080:172.17.0.2:80/tcp", "tcp4"));
        let six = route(&DOCKERS.replace("tcp", "udp").replace("0.0.0.0", "::")).unwrap();
        assert_eq!((six.spec().as_str(), six.proto().as_str()), ("[::]:8080:172.17.0.2:80/udp", "udp6"));
        for spec in [four.spec(), six.spec()] {
            assert!(spec.parse::<crate::config::PortSpec>().is_ok(), "{spec}");
        }
    }

    #[test]
    fn what_is_wrong_names_the_flag() {
        for (line, words) in [
            ("-proto sctp", "sctp is not relayed"),
            ("-proto icmp", "unsupported protocol icmp"),
            ("-host-ip x", "-host-ip: \"x\" is not an address"),
            ("-host-ip 0.0.0.0", "-host-port: \"\" is not a port"),
            ("-host-ip 0.0.0.0 -host-port 70000", "-host-port: \"70000\""),
            ("-host-ip 0.0.0.0 -host-port 1 -container-ip 1", "-container-ip: \"1\""),
        ] {
            assert!(route(line).unwrap_err().starts_with(words), "{line}");
        }
    }

    #[test]
    fn it_listens_at_the_loopback_or_where_the_port_driver_leads() {
        let info = |disallow| {
            let text = format!(
                r#"{{"networkDriver":{{"driver":"x","childIP":"10.0.2.100"}},"portDriver":{{"driver":"x","disallowLoopbackChildIP":{disallow}}}}}"#
            );
            serde_json::from_str::<Info>(&text).unwrap()
        };
        let (four, six) = (route(DOCKERS).unwrap(), route(&DOCKERS.replace("0.0.0.0", "::")).unwrap());
        assert_eq!(four.inside(&info(false)).to_string(), "127.0.0.1:8080");
        assert_eq!(six.inside(&info(false)).to_string(), "[::1]:8080");
        assert_eq!(four.inside(&info(true)).to_string(), "10.0.2.100:8080");
        assert_eq!(six.inside(&info(true)).to_string(), "[::1]:8080");
        assert_eq!(four.inside(&Info::default()).to_string(), "127.0.0.1:8080");
    }
}
