//! `ringtap ps`: the running instances of this user.
//!
//! What an instance says of itself ([`InstanceView`]), its ports, and the namespaces of its first process as the kernel
//! numbers them. One that does not answer is left out; it may just be ending. Those that were started under slirp4netns's name
//! answer no question of ours; they are found otherwise ([`super::callers`]), and no other verb knows them.

use super::CliError;
use super::port::client::{Client, ClientError, print, running};
use super::proc;
use super::table::{age, or_dash, table};
use crate::control::api::SOCKET;
use crate::control::api::instance::InstanceView;
use crate::control::api::views::PortView;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Namespaces that are shown, those first that tell instances apart.
const NAMESPACES: [&str; 7] = ["user", "net", "mnt", "pid", "uts", "ipc", "cgroup"];

/// Options of `ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// One JSON object a line, with everything that is known
    #[arg(long)]
    json: bool,
}

/// What is known of an instance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    #[serde(flatten)]
    view: InstanceView,
    /// By kind; those that cannot be read are missing.
    namespaces: BTreeMap<&'static str, u64>,
    ports: Vec<PortView>,
}

impl PsArgs {
    /// Lists them.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let known = running().into_iter();
        let asked = known.filter_map(|known| ask(&known.dir.join(SOCKET)).ok());
        let silent = super::callers::running().into_iter().map(|view| {
            let namespaces = namespaces(&view);
            Instance { view, namespaces, ports: Vec::new() }
        });
        let all: Vec<_> = asked.chain(silent).collect();
        let text = if self.json {
            let line = |one| serde_json::to_string(one).map(|text| text + "\n").map_err(ClientError::answer);
            all.iter().map(line).collect::<Result<String, _>>()?
        } else {
            listing(&all)
        };
        print(&text);
        Ok(0)
    }
}

fn ask(socket: &Path) -> Result<Instance, ClientError> {
    let client = Client::at(socket);
    let view: InstanceView = client.get("/ringtap/v1/instance")?;
    // Without a plane there is nobody to ask for counters; ports of RootlessKit's are none then, either.
    let ports = client.get("/ringtap/v1/ports").unwrap_or_default();
    let namespaces = namespaces(&view);
    Ok(Instance { view, namespaces, ports })
}

/// Those of the first process; the network's is that of the tap.
pub fn namespaces(view: &InstanceView) -> BTreeMap<&'static str, u64> {
    let of_child = |kind| proc::namespace(view.child_pid?, kind);
    let all = NAMESPACES.into_iter().filter_map(|kind| Some((kind, of_child(kind)?)));
    let net = view.netns.as_ref().and_then(|path| proc::namespace_of(Path::new(path)));
    all.chain(net.map(|net| ("net", net))).collect()
}

fn listing(all: &[Instance]) -> String {
    let head =
        ["NAME", "VERB", "PID", "CHILD", "PLANE", "USERNS", "NETNS", "ADDRESSES", "PORTS", "UP", "STATE"];
    let rows = all.iter().map(|one| {
        let v = &one.view;
        let addresses = v.network.as_ref().map(|net| net.addresses.join(" "));
        let ports: Vec<_> = one.ports.iter().map(|port| port.spec.as_str()).collect();
        [
            v.name.clone(),
            v.verb.clone(),
            v.pid.to_string(),
            or_dash(v.child_pid),
            or_dash(v.plane_pid),
            or_dash(one.namespaces.get("user")),
            or_dash(one.namespaces.get("net")),
            addresses.unwrap_or_else(|| "the host's".to_owned()),
            or_dash(Some(ports.join(" ")).filter(|ports| !ports.is_empty())),
            age(Duration::from_millis(v.uptime_ms)),
            or_dash(Some(v.state_dir.as_str()).filter(|dir| !dir.is_empty())),
        ]
    });
    table(std::iter::once(head.map(str::to_owned)).chain(rows))
}
