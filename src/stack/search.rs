//! The host's search list as DHCP and router advertisements carry it: bounded, for their messages are.

/// The first names of a search list that fit into `max` bytes as written in DNS messages.
pub fn bounded(search: &[String], max: usize) -> impl Iterator<Item = &String> {
    search.iter().scan(max, |room, name| {
        *room = room.checked_sub(name.len() + 2)?;
        Some(name)
    })
}

/// Names as DNS writes them (RFC 1035 section 3.1), uncompressed, at most `max` bytes. A name that DNS cannot hold is
/// passed over.
pub fn names(search: &[String], max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for name in bounded(search, max) {
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        if name.len() > 253 || labels.iter().any(|l| l.is_empty() || l.len() > 63) {
            continue;
        }
        for label in labels {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }
    out
}
