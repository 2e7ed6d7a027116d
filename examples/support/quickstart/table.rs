//! The comparison as a table.

use super::replay::Side;

/// One line: what, of the plain run, of the optimised run, and how the second compares.
struct Row(&'static str, String, String, String);

/// Prints both sides beside each other; a side that did not run is left blank.
pub(crate) fn print(plain: Option<&Side>, optimized: Option<&Side>) {
    let rows = [
        row("answered calls", plain, optimized, |s| Some((s.calls - s.errors) as f64), whole, None),
        row("errors", plain, optimized, |s| Some(s.errors as f64), whole, None),
        row("wall time", plain, optimized, |s| Some(s.wall_s), |v| format!("{v:.1} s"), Some(percent)),
        row("throughput", plain, optimized, |s| Some(s.throughput()), |v| format!("{v:.1} /s"), Some(times)),
        row("latency p50", plain, optimized, |s| Some(s.p50_ms), millis, Some(percent)),
        row("latency p95", plain, optimized, |s| Some(s.p95_ms), millis, Some(percent)),
        row("latency p99", plain, optimized, |s| Some(s.p99_ms), millis, Some(percent)),
        row("first chunk p50", plain, optimized, |s| Some(s.first_chunk_p50_ms), millis, Some(percent)),
        row("upstream calls", plain, optimized, |s| Some(s.upstream_calls as f64), whole, Some(percent)),
        row("  refused with 429", plain, optimized, |s| Some(s.http_429 as f64), whole, None),
        row("cache hits: stored", plain, optimized, |s| Some(s.hits as f64), whole, None),
        row("cache hits: shared flight", plain, optimized, |s| Some(s.coalesced as f64), whole, None),
        row("input tokens", plain, optimized, |s| Some(s.input_tokens as f64), whole, Some(percent)),
        row("  provider-cached", plain, optimized, |s| Some(s.cached_input_tokens as f64), whole, None),
        row("output tokens", plain, optimized, |s| Some(s.output_tokens as f64), whole, Some(percent)),
        row("cost", plain, optimized, |s| s.cost_usd, |v| format!("${v:.4}"), Some(percent)),
    ];
    println!("\n{:<26} {:>14} {:>14} {:>10}", "", "plain", "optimised", "change");
    for Row(what, plain, optimized, change) in rows {
        println!("{what:<26} {plain:>14} {optimized:>14} {change:>10}");
    }
}

fn row(
    what: &'static str,
    plain: Option<&Side>,
    optimized: Option<&Side>,
    pick: fn(&Side) -> Option<f64>,
    show: fn(f64) -> String,
    compare: Option<fn(f64, f64) -> String>,
) -> Row {
    let value = |side: Option<&Side>| side.map(pick);
    let text = |side| match value(side) {
        None => String::new(),
        Some(None) => "unknown".to_owned(),
        Some(Some(value)) => show(value),
    };
    let change = match (value(plain).flatten(), value(optimized).flatten(), compare) {
        (Some(plain), Some(optimized), Some(compare)) if plain > 0.0 => compare(plain, optimized),
        _ => String::new(),
    };
    Row(what, text(plain), text(optimized), change)
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn millis(value: f64) -> String {
    if value < 10.0 { format!("{value:.2} ms") } else { format!("{value:.0} ms") }
}

fn percent(plain: f64, optimized: f64) -> String {
    format!("{:+.0} %", (optimized / plain - 1.0) * 100.0)
}

fn times(plain: f64, optimized: f64) -> String {
    format!("x {:.1}", optimized / plain)
}
