//! What the processes say to each other, and the same through a socket as it really goes.
//!
//! Whatever decodes must encode again within the limit that a channel has, for it is answered or passed on.

use ringtap::msg::{Channel, FromChild, FromFactory, FromPlane, MsgError, ToChild, ToFactory, ToPlane};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::io::Write;

thread_local! {
    static PAIR: RefCell<Option<(Channel, std::os::unix::net::UnixStream)>> = RefCell::new(pair());
}

/// A channel, and the bare socket at its other end.
fn pair() -> Option<(Channel, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = Channel::pair().ok()?;
    Some((ours, theirs.into_fd().into()))
}

fn one<T: DeserializeOwned + Serialize>(data: &[u8]) {
    let Ok(value) = postcard::from_bytes::<T>(data) else { return };
    let bytes = postcard::to_stdvec(&value).expect("what was decoded can be encoded");
    // There may be other spellings of it, but it has a meaning only once.
    let again: T = postcard::from_bytes(&bytes).expect("and decoded again");
    assert_eq!(postcard::to_stdvec(&again).expect("twice"), bytes);
}

/// Any bytes as each message.
pub fn messages(data: &[u8]) {
    one::<ToPlane>(data);
    one::<FromPlane>(data);
    one::<ToChild>(data);
    one::<FromChild>(data);
    one::<ToFactory>(data);
    one::<FromFactory>(data);
    if data.is_empty() {
        return;
    }
    PAIR.with_borrow_mut(|pair| {
        let Some((ours, theirs)) = pair else { return };
        if theirs.write_all(data).is_err() {
            return;
        }
        match ours.try_recv::<FromFactory>() {
            Ok(Some((_, fds))) => assert!(fds.is_empty()),
            Ok(None) => panic!("a packet was lost"),
            Err(MsgError::Decode(_) | MsgError::TooLong(_)) => {}
            Err(e) => panic!("{e}"),
        }
        assert!(matches!(ours.try_recv::<FromFactory>(), Ok(None)), "a packet was not consumed");
    });
}
