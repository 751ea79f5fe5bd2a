//! What of a DHCP message from the guest is handed to the library that reads it: the options we look at, and only where
//! their length is right.
//!
//! dhcproto reads several options at the length they should have rather than the one they do, and asserts in debug
//! builds that both agree; it also walks IPv6 options that nest. A guest writes these bytes, so everything else is left
//! out before. Options that overrun the message make it malformed; one that lacks its end mark is read as it is.

/// Fixed part of a DHCPv4 message, magic cookie included (RFC 2131 section 2).
const FIXED_V4: usize = 240;
/// Fixed part of a DHCPv6 message (RFC 8415 section 8).
const FIXED_V6: usize = 4;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const PAD: u8 = 0;
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const CLIENT_IDENTIFIER: u8 = 61;
const END: u8 = 255;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_PD: u16 = 25;

/// A DHCPv4 message with requested address, message type, server and client identifier; `None` if it is malformed.
pub fn v4(message: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut options) = message.split_at_checked(FIXED_V4)?;
    if fixed[FIXED_V4 - 4..] != COOKIE {
        return None;
    }
    let mut out = fixed.to_vec();
    let mut kept = [false; 256];
    while let [code, rest @ ..] = options {
        options = match *code {
            PAD => rest,
            END => break,
            code => {
                let (len, rest) = rest.split_first()?;
                let (data, rest) = rest.split_at_checked(usize::from(*len))?;
                let right = match code {
                    MESSAGE_TYPE => *len == 1,
                    REQUESTED_ADDRESS | SERVER_IDENTIFIER => *len == 4,
                    _ => true,
                };
                if !right {
                    return None;
                }
                let wanted =
                    matches!(code, MESSAGE_TYPE | REQUESTED_ADDRESS | SERVER_IDENTIFIER | CLIENT_IDENTIFIER);
                // The first of several counts; an empty client identifier is none.
                if wanted && *len > 0 && !kept[usize::from(code)] {
                    kept[usize::from(code)] = true;
                    out.extend_from_slice(&[code, *len]);
                    out.extend_from_slice(data);
                }
                rest
            }
        };
    }
    out.push(END);
    Some(out)
}

/// A DHCPv6 message with client and server identifier, and whether it asked for addresses; `None` if it is malformed.
pub fn v6(message: &[u8]) -> Option<(Vec<u8>, bool)> {
    let (fixed, mut options) = message.split_at_checked(FIXED_V6)?;
    let mut out = fixed.to_vec();
    let mut asks = false;
    while !options.is_empty() {
        let (header, rest) = options.split_first_chunk::<4>()?;
        let [c0, c1, l0, l1] = *header;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        match u16::from_be_bytes([c0, c1]) {
            CLIENT_ID | SERVER_ID => {
                out.extend_from_slice(header);
                out.extend_from_slice(data);
            }
            IA_NA | IA_TA | IA_PD => asks = true,
            _ => {}
        }
        options = rest;
    }
    Some((out, asks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(options: &[u8]) -> Vec<u8> {
        let mut m = vec![0; FIXED_V4 - 4];
        m.extend_from_slice(&COOKIE);
        m.extend_from_slice(options);
        m
    }

    fn sieved(options: &[u8]) -> Option<Vec<u8>> {
        v4(&message(options)).map(|m| m[FIXED_V4..].to_vec())
    }

    #[test]
    fn only_what_is_looked_at_passes() {
        assert_eq!(sieved(&[0, 53, 1, 3, 80, 2, 9, 9, 0, 61, 2, 1, 7, 61, 1, 8, 255, 50, 4]), {
            Some(vec![53, 1, 3, 61, 2, 1, 7, 255])
        });
        assert_eq!(sieved(&[61, 0]), Some(vec![255]));
        for bad in [&[53, 2, 1, 1][..], &[50, 3, 1, 2, 3], &[54, 0], &[12], &[12, 5, 1], &[61, 255, 1]] {
            assert_eq!(sieved(bad), None, "{bad:?}");
        }
        assert_eq!(v4(&[0; FIXED_V4]), None);
        assert_eq!(v4(&message(&[])[..FIXED_V4 - 1]), None);
    }

    #[test]
    fn dhcpv6_options_are_not_entered() {
        let m = [11, 1, 2, 3, 0, 3, 0, 4, 0, 3, 0, 9, 0, 1, 0, 1, 5];
        assert_eq!(v6(&m), Some((vec![11, 1, 2, 3, 0, 1, 0, 1, 5], true)));
        assert_eq!(v6(&[11, 1, 2, 3]), Some((vec![11, 1, 2, 3], false)));
        for cut in (0..4).chain(5..8).chain(9..12) {
            assert_eq!(v6(&m[..cut]), None, "{cut}");
        }
    }
}
