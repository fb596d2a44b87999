//! Whether an address leads to ourselves.

use http::Uri;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// True if requests to this address arrive at a listener of this machine that is bound so. Names are not looked up,
/// but for those of the machine itself.
pub(super) fn reaches(uri: &Uri, bind: SocketAddr) -> bool {
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(usual);
    port != 0
        && port == bind.port()
        && addresses(uri.host().unwrap_or_default()).any(|ip| takes(bind.ip(), ip))
}

/// The addresses that a host stands for, as far as that can be told without asking anybody.
fn addresses(host: &str) -> impl Iterator<Item = IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
    let local = host == "localhost" || host.ends_with(".localhost");
    let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let one = host.parse().ok().or_else(|| short(&host).map(IpAddr::V4));
    both.into_iter().filter(move |_| local).chain(one)
}

/// True if a listener on `bind` takes what is sent to `to`.
fn takes(bind: IpAddr, to: IpAddr) -> bool {
    let (bind, mut to) = (bind.to_canonical(), to.to_canonical());
    // What is sent to no address goes to this machine.
    if to.is_unspecified() {
        to = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    }
    let family = bind.is_ipv6() || to.is_ipv4();
    bind == to || bind.is_unspecified() && family && is_ours(to)
}

/// True for the addresses of this machine: nothing is sent to find out.
fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// An IPv4 address in the short forms that resolvers take: `127.1`, `0x7f000001`, `2130706433`.
fn short(host: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    let bits = 8 * u32::try_from(4_usize.checked_sub(first.len())?).ok()?;
    let fits = bits == 32 || *last < 1 << bits;
    let mut address = *last;
    for (n, part) in first.iter().enumerate() {
        address |= u8::try_from(*part).ok().map(u32::from)? << (24 - 8 * n);
    }
    (fits && first.len() < 4).then(|| Ipv4Addr::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_back_is_known_by_every_name() {
        let leads = |upstream: &str, bind: &str| reaches(&upstream.parse().unwrap(), bind.parse().unwrap());
        for (upstream, bind) in [
            ("http://127.0.0.1:8429", "127.0.0.1:8429"),
            ("http://localhost:8429/v1", "127.0.0.1:8429"),
            ("http://LOCALHOST.:8429", "[::1]:8429"),
            ("http://api.localhost:8429", "127.0.0.1:8429"),
            ("http://127.1:8429", "127.0.0.1:8429"),
            ("http://2130706433:8429", "127.0.0.1:8429"),
            ("http://0x7f.0.0.1:8429", "127.0.0.1:8429"),
            ("http://0177.1:8429", "127.0.0.1:8429"),
            ("http://[::ffff:127.0.0.1]:8429", "127.0.0.1:8429"),
            ("http://0.0.0.0:8429", "127.0.0.1:8429"),
            ("http://[::]:8429", "[::1]:8429"),
            ("http://127.0.0.9:8429", "0.0.0.0:8429"),
            ("http://localhost:8429", "0.0.0.0:8429"),
            ("http://127.0.0.1:8429", "[::]:8429"),
            ("http://[::1]:8429", "[::]:8429"),
            ("http://localhost", "0.0.0.0:80"),
            ("https://localhost", "0.0.0.0:443"),
        ] {
            assert!(leads(upstream, bind), "{upstream} {bind}");
        }
        for (upstream, bind) in [
            ("http://127.0.0.1:8430", "127.0.0.1:8429"),
            ("http://127.0.0.2:8429", "127.0.0.1:8429"),
            ("http://[::1]:8429", "127.0.0.1:8429"),
            ("http://[::1]:8429", "0.0.0.0:8429"),
            ("http://192.0.2.1:8429", "0.0.0.0:8429"),
            ("http://localhost.example:8429", "127.0.0.1:8429"),
            ("https://api.anthropic.com", "0.0.0.0:443"),
            ("http://127.0.0.1:8429", "127.0.0.1:0"),
            ("http://1.2.3.4.5:8429", "127.0.0.1:8429"),
        ] {
            assert!(!leads(upstream, bind), "{upstream} {bind}");
        }
    }
}
