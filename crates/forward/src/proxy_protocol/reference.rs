//! The oracle of the PROXY protocol: slow, and told apart from the code step by step. It is given whole inputs.
//!
//! Shared by the unit tests and the fuzz target.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The header at the start of `input`: its length, and the client if it has one. `None`: there is no whole header.
pub(crate) fn header(input: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    line(input).or_else(|| binary(input))
}

fn line(input: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    let end = (0..=105).find(|&end| input.get(end..end + 2) == Some(b"\r\n"))?;
    // One character a byte, so that nothing is lost.
    let text: String = input[..end].iter().map(|&byte| char::from(byte)).collect();
    if text.contains(['\r', '\n']) {
        return None;
    }
    let words: Vec<&str> = text.split(' ').collect();
    let client = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            let (from, _) = (ipv4(from)?, ipv4(to)?);
            decimal(to_port, 65_535)?;
            Some(SocketAddr::new(from.into(), u16::try_from(decimal(from_port, 65_535)?).ok()?))
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            let (from, _) = (ipv6(from)?, ipv6(to)?);
            decimal(to_port, 65_535)?;
            Some(SocketAddr::new(unmapped(from), u16::try_from(decimal(from_port, 65_535)?).ok()?))
        }
        _ => return None,
    };
    Some((end + 2, client))
}

fn decimal(text: &str, most: u32) -> Option<u32> {
    // What is written like this again was the only spelling.
    let value: u32 = text.parse().ok()?;
    (value <= most && value.to_string() == text).then_some(value)
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| decimal(part, 255)).collect();
    let parts = parts.filter(|parts| parts.len() == 4)?;
    Some(Ipv4Addr::from(parts.iter().fold(0, |all, part| all << 8 | part)))
}

/// RFC 4291 §2.2: eight groups, of which "::" may leave out some; the last two may be written as IPv4.
fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let mut text = text.to_owned();
    if let Some((rest, last)) = text.clone().rsplit_once(':').filter(|(_, last)| last.contains('.')) {
        let bits = u32::from(ipv4(last)?);
        text = format!("{rest}:{:x}:{:x}", bits >> 16, bits & 0xffff);
    }
    let groups = |text: &str| -> Option<Vec<u16>> {
        let group = |group: &str| {
            let is_hex = (1..=4).contains(&group.len()) && group.chars().all(|c| c.is_ascii_hexdigit());
            is_hex.then(|| u16::from_str_radix(group, 16).ok()).flatten()
        };
        if text.is_empty() { Some(Vec::new()) } else { text.split(':').map(group).collect() }
    };
    let all = match text.split_once("::") {
        None => groups(&text)?,
        Some((left, right)) => {
            let (left, right) = (groups(left)?, groups(right)?);
            let zeros = 8_usize.checked_sub(left.len() + right.len()).filter(|zeros| *zeros > 0)?;
            [left, vec![0; zeros], right].concat()
        }
    };
    <[u16; 8]>::try_from(all).ok().map(Ipv6Addr::from)
}

fn unmapped(address: Ipv6Addr) -> IpAddr {
    let octets = address.octets();
    match octets[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255] {
        true => Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]).into(),
        false => address.into(),
    }
}

fn binary(input: &[u8]) -> Option<(usize, Option<SocketAddr>)> {
    let rest = input.strip_prefix(&[13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10])?;
    let (fixed, rest) = rest.split_at_checked(4)?;
    let block = rest.get(..usize::from(fixed[2]) * 256 + usize::from(fixed[3]))?;
    let length = 16 + block.len();
    if length > 2048 {
        return None;
    }
    match fixed[0] {
        0x20 => return Some((length, None)),
        0x21 => {}
        _ => return None,
    }
    let sizes = match fixed[1] {
        0x00 | 0x01 | 0x02 | 0x10 | 0x20 | 0x30 => return Some((length, None)),
        0x11 | 0x12 => 4,
        0x21 | 0x22 => 16,
        0x31 | 0x32 => 108,
        _ => return None,
    };
    let ports = if sizes == 108 { 0 } else { 4 };
    let additions = block.get(2 * sizes + ports..)?;
    sound(additions, &input[..length])?;
    let port = || u16::from(block[2 * sizes]) << 8 | u16::from(block[2 * sizes + 1]);
    let client = match fixed[1] {
        0x11 => Some(SocketAddr::new(Ipv4Addr::new(block[0], block[1], block[2], block[3]).into(), port())),
        0x21 => {
            Some(SocketAddr::new(unmapped(Ipv6Addr::from(<[u8; 16]>::try_from(&block[..16]).ok()?)), port()))
        }
        _ => None,
    };
    Some((length, client))
}

/// `None` unless the additions fill their room, with at most one checksum, which is right.
fn sound(mut additions: &[u8], whole: &[u8]) -> Option<()> {
    let mut checksums = 0;
    while let [kind, high, low, rest @ ..] = additions {
        let length = usize::from(*high) * 256 + usize::from(*low);
        let value = rest.get(..length)?;
        if *kind == 3 {
            checksums += 1;
            let at = whole.len() - rest.len();
            let mut zeroed = whole.to_vec();
            zeroed.get_mut(at..at + 4)?.fill(0);
            if length != 4 || checksums > 1 || value != remainder(&zeroed) {
                return None;
            }
        }
        additions = &rest[length..];
    }
    additions.is_empty().then_some(())
}

/// CRC-32C as a division of polynomials, a bit at a time and not reflected, turned round at the end.
fn remainder(bytes: &[u8]) -> [u8; 4] {
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let crc = bits.fold(u32::MAX, |crc, bit| {
        let carry = (crc >> 31 == 1) != bit;
        crc << 1 ^ if carry { 0x1edc_6f41 } else { 0 }
    });
    (!crc.reverse_bits()).to_be_bytes()
}
