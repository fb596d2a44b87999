//! The measured hop: what Plimsoll costs beside a proxy that measures nothing, and beside Envoy.
//!
//! `cargo bench --bench hop` runs it whole; `-- --rounds 3 --quick` for a look. Two shared cores are
//! noisy, so nothing absolute is claimed: each round runs every proxy in turn against the same
//! upstream with the same load, and what is reported is the median over the rounds of each proxy's
//! ratio to baseline A in the same round.
//!
//! - **A**: the smallest transparent reverse proxy on hyper, same pool, no measuring.
//! - **plimsoll**: the release binary with what it measures on; no collector, so no spans.
//! - **B**: Envoy with a JSON access log of the same headers, if `PLIMSOLL_ENVOY` names its binary.
//! - **direct**: no proxy.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

mod load;
mod proxies;

use load::{Figures, Load};
use proxies::Proxy;
use std::collections::BTreeMap;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match args.first().map(String::as_str) {
        Some("upstream") => runtime().block_on(proxies::upstream()),
        Some("baseline") => runtime().block_on(proxies::baseline(args[1].parse().unwrap())),
        _ => runtime().block_on(compare(&args)),
    }
}

fn flag(args: &[String], name: &str) -> Option<String> {
    args.iter().position(|a| a == name).and_then(|at| args.get(at + 1).cloned())
}

/// One figure of one proxy under one load.
type Key = (&'static str, &'static str, &'static str);

async fn compare(args: &[String]) {
    let rounds: usize = flag(args, "--rounds").map_or(7, |n| n.parse().unwrap());
    let quick = args.iter().any(|a| a == "--quick");
    let upstream = Proxy::upstream().await;
    let mut proxies =
        vec![Proxy::direct(&upstream), Proxy::baseline(&upstream).await, Proxy::plimsoll(&upstream).await];
    proxies.extend(Proxy::envoy(&upstream).await);
    let loads = Load::all(quick);
    let mut raw: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for load in &loads {
            // Another order each round, so that nobody always follows the same neighbour.
            let turn = round % proxies.len();
            let order = (0..proxies.len()).map(|n| (n + turn) % proxies.len());
            for at in order {
                let proxy = &proxies[at];
                let before = proxy.cpu();
                let figures = load.run(proxy.address).await;
                if let Some((before, after)) = before.zip(proxy.cpu()) {
                    let micros = (after - before) * 1e6 / figures.calls as f64;
                    raw.entry((load.name, proxy.name, "cpu_us")).or_default().push(micros);
                }
                eprintln!("round {round}/{rounds} {:<10} {:<9} {figures}", load.name, proxy.name);
                for (figure, value) in figures.all() {
                    raw.entry((load.name, proxy.name, figure)).or_default().push(value);
                }
                if let Some(memory) = proxy.memory() {
                    raw.entry((load.name, proxy.name, "rss_anon_mb")).or_default().push(memory.anon_mb);
                    raw.entry((load.name, proxy.name, "rss_mb")).or_default().push(memory.rss_mb);
                }
            }
        }
    }
    report(&raw, &proxies, &loads);
    if let Some(file) = flag(args, "--raw") {
        let lines: Vec<serde_json::Value> = raw
            .iter()
            .map(|((load, proxy, figure), values)| serde_json::json!({"load": load, "proxy": proxy, "figure": figure, "rounds": values}))
            .collect();
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        std::fs::write(file, text).unwrap();
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The median over the rounds of the ratio to baseline A in the same round. What the hop adds is
/// what stands above the direct way.
fn ratio(
    raw: &BTreeMap<Key, Vec<f64>>,
    load: &'static str,
    proxy: &'static str,
    figure: &'static str,
    added: bool,
) -> Option<f64> {
    let of = |proxy| raw.get(&(load, proxy, figure));
    let (own, base) = (of(proxy)?, of("A")?);
    // The direct way is no process of its own: it has no CPU.
    let direct = if added { of("direct")? } else { base };
    let ratios: Vec<f64> = own
        .iter()
        .zip(base)
        .zip(direct)
        .map(|((own, base), direct)| if added { (own - direct) / (base - direct) } else { own / base })
        .collect();
    Some(median(&ratios))
}

fn report(raw: &BTreeMap<Key, Vec<f64>>, proxies: &[Proxy], loads: &[Load]) {
    println!("| load | figure | {} |", proxies.iter().map(|p| p.name).collect::<Vec<_>>().join(" | "));
    println!("|---|---|{}", "---|".repeat(proxies.len()));
    for load in loads {
        for figure in Figures::NAMES.into_iter().chain(["cpu_us", "rss_anon_mb", "rss_mb"]) {
            let cells: Vec<String> = proxies
                .iter()
                .map(|p| {
                    raw.get(&(load.name, p.name, figure)).map_or("-".into(), |v| format!("{:.1}", median(v)))
                })
                .collect();
            println!("| {} | {figure} | {} |", load.name, cells.join(" | "));
        }
    }
    println!("\nRatios to A, median over the rounds:\n");
    println!("| figure | plimsoll | B | wanted |\n|---|---|---|---|");
    let rows = [
        ("added median, 1 connection", "closed-1", "p50_us", true, "<= 1.25"),
        ("throughput, 64 connections", "closed-64", "per_second", false, ">= 0.85"),
        ("p99 at 1,000/s, open loop", "open-1000", "p99_us", false, "<= 1.3"),
        ("CPU of a call at 1,000/s", "open-1000", "cpu_us", false, "-"),
        ("CPU of a call, 64 connections", "closed-64", "cpu_us", false, "-"),
    ];
    for (what, load, figure, added, wanted) in rows {
        let cell = |proxy| ratio(raw, load, proxy, figure, added).map_or("-".into(), |r| format!("{r:.2}"));
        println!("| {what} | {} | {} | {wanted} |", cell("plimsoll"), cell("B"));
    }
}
