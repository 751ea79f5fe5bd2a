//! Ports that are bound or not bound: ranges, picked ports, conflicts, removal, and what the plane is told.

use super::*;
use crate::config::{PortOptions, SourceIp};
use crate::msg::Steering;

fn spec(text: &str) -> Asked {
    Asked::Spec(text.parse().unwrap())
}

/// Ports of a namespace of which all is known.
fn known(defaults: PortOptions) -> Ports {
    let mut ports = Ports::new(Network::default(), defaults, false);
    let (plane, _) = Channel::pair().unwrap();
    let (v4, v6) = (Steering::Full, Steering::Full);
    assert!(!ports.set_inside(Inside::Steered { v4, v6 }, &plane).unwrap());
    ports
}

/// Everything a plane was sent so far, with the number of descriptors.
fn sent(plane: &Channel) -> Vec<(ToPlane, usize)> {
    let mut all = Vec::new();
    while let Some((message, fds)) = plane.try_recv().unwrap() {
        all.push((message, fds.len()));
    }
    all
}

#[test]
fn a_range_is_one_object_in_batches_and_comes_again_for_another_plane() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut ports = known(PortOptions { source_ip: Some(SourceIp::Preserve), ..PortOptions::default() });
    let entry = ports.add(spec("127.0.0.1::9000-9199,source=gateway"), &ours).unwrap();
    let published = entry.published.clone();
    assert_eq!((published.id, published.count, published.guest_port), (PortId(1), 200, 9000));
    assert_eq!(published.source_ip, SourceIp::Gateway);
    assert!(entry.picked && entry.host_port > 0);
    let expected = vec![
        (ToPlane::Publish(published), 0),
        (ToPlane::Listeners { port: PortId(1), first: 0 }, 128),
        (ToPlane::Listeners { port: PortId(1), first: 128 }, 72),
    ];
    assert_eq!(sent(&theirs), expected);
    let (ours, theirs) = Channel::pair().unwrap();
    ports.publish_all(&ours).unwrap();
    assert_eq!(sent(&theirs), expected);
}

#[test]
fn what_was_removed_can_be_bound_again_and_its_number_is_not_used_again() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut ports = known(PortOptions::default());
    let port = ports.add(spec("127.0.0.1::80"), &ours).unwrap().host_port;
    let again = format!("127.0.0.1:{port}:80");
    assert!(matches!(ports.add(spec(&again), &ours), Err(PortError::Conflict(PortId(1)))));
    // The same port of all addresses is another thing to ask for, and the kernel's to refuse.
    let error = ports.add(spec(&format!("0.0.0.0:{port}:80")), &ours).unwrap_err();
    assert_eq!(error.to_string(), format!("listen tcp4 0.0.0.0:{port}: bind: address already in use"));
    sent(&theirs);
    ports.remove(PortId(1), false, &ours).unwrap();
    assert_eq!(sent(&theirs), [(ToPlane::Unpublish { port: PortId(1), connections: false }, 0)]);
    assert_eq!(ports.remove(PortId(1), false, &ours).unwrap_err().to_string(), "unknown id: 1");
    assert_eq!(ports.add(spec(&again), &ours).unwrap().published.id, PortId(2));
}

#[test]
fn ranges_conflict_where_they_overlap() {
    let (ours, _theirs) = Channel::pair().unwrap();
    let mut ports = known(PortOptions::default());
    let first = ports.add(spec("127.0.0.1::80-84"), &ours).unwrap().host_port;
    let overlapping = format!("127.0.0.1:{}-{}:80-84", first + 4, first + 8);
    assert!(matches!(ports.add(spec(&overlapping), &ours), Err(PortError::Conflict(PortId(1)))));
    // One that we pick does not conflict: it is another port.
    assert_eq!(ports.add(spec("127.0.0.1::80"), &ours).unwrap().published.id, PortId(2));
}

#[test]
fn a_plane_that_is_gone_is_no_reason_to_lose_a_port() {
    let (ours, theirs) = Channel::pair().unwrap();
    drop(theirs);
    let mut ports = known(PortOptions::default());
    let port = ports.add(spec("127.0.0.1::80"), &ours).unwrap().host_port;
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(ports.iter().count(), 1);
}

#[test]
fn what_rootlesskit_asked_for_is_kept_as_it_was() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut ports = known(PortOptions::default());
    let free = bind::bind(&"127.0.0.1::80".parse().unwrap()).unwrap().first;
    let asked: RootlessKitSpec = format!("127.0.0.1:{free}:80/tcp").parse().unwrap();
    let entry = ports.add(Asked::RootlessKit(asked.clone()), &ours).unwrap();
    assert_eq!((&entry.asked, entry.picked), (&Asked::RootlessKit(asked), false));
    assert_eq!(entry.published.guest_ip, Some(Ipv4Addr::LOCALHOST.into()));
    let bad = RootlessKitSpec {
        proto: "tcp4".into(),
        parent_ip: "::1".into(),
        parent_port: 80,
        ..RootlessKitSpec::default()
    };
    let bad = RootlessKitSpec { child_port: 80, ..bad };
    let error = ports.add(Asked::RootlessKit(bad), &ours).unwrap_err();
    assert_eq!(error.to_string(), "listen tcp4: address ::1: no suitable address found");
    assert_eq!(sent(&theirs).len(), 2);
}

#[test]
fn more_than_the_hard_limit_allows_is_said_before_anything_is_bound() {
    let hard = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().1;
    let error = limits::make_room(usize::try_from(hard).unwrap_or(usize::MAX)).unwrap_err();
    assert!(error.to_string().contains("LimitNOFILE"), "{error}");
}

#[test]
fn a_relayed_port_waits_for_the_namespace_and_takes_the_tap_once_relaying_is_over() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut ports = Ports::default();
    ports.add(spec("127.0.0.1::80,via=tap"), &ours).unwrap();
    assert!(!ports.wait_for_inside());
    assert_eq!(sent(&theirs).len(), 2);
    ports.add(spec("127.0.0.1::80"), &ours).unwrap();
    assert!(ports.wait_for_inside());
    assert_eq!(sent(&theirs), []);
    let (v4, v6) = (Steering::Full, Steering::Full);
    assert!(!ports.set_inside(Inside::Steered { v4, v6 }, &ours).unwrap());
    let via = |theirs: &Channel| {
        let all = sent(theirs).into_iter().map(|(message, _)| message);
        all.filter_map(|m| if let ToPlane::Publish(p) = m { Some((p.id.0, p.via)) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(via(&theirs), [(2, Via::Relay)]);
    assert!(ports.set_inside(Inside::Gone, &ours).unwrap());
    assert_eq!(via(&theirs), [(2, Via::Tap)]);
}
