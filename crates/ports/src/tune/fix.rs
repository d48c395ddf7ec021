//! Writes a corrected copy of a sysctl file.
//!
//! Every line stays, in its place; a line that is wrong is put right where there is one right
//! way, and made a comment where there is none. Applying the result is never refused.

use super::keys::{self, Shape};
use super::lint::{Line, Setting, parse_range};
use crate::ranges::{PortRange, PortSet};

/// The corrected text; equal to `text` where nothing is wrong.
pub fn fix(text: &str) -> String {
    let mut fixed = String::with_capacity(text.len() + 128);
    let mut range: Option<PortRange> = None;
    let mut reserved = PortSet::new();
    for line in text.lines() {
        match Line::parse(line) {
            Line::Nothing => fixed.push_str(line),
            Line::Garbage { .. } => {
                fixed.push_str("# ");
                fixed.push_str(line.trim().trim_start_matches('/').trim_start());
            }
            Line::Setting(setting) => {
                let corrected = correct(line, &setting);
                if let Line::Setting(kept) = Line::parse(&corrected) {
                    match kept.key.as_str() {
                        "net.ipv4.ip_local_port_range" => range = parse_range(&kept.value),
                        "net.ipv4.ip_local_reserved_ports" => {
                            reserved = kept.value.parse().unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                fixed.push_str(&corrected);
            }
        }
        fixed.push('\n');
    }
    if let Some(range) = range.filter(|range| range.low < 32_768) {
        let mut services = PortSet::of(range);
        services.intersect_with(&keys::SERVICE_PORTS.parse().unwrap_or_default());
        let mut missing = services.clone();
        missing.subtract(&reserved);
        if !missing.is_empty() {
            reserved.union_with(&services);
            fixed.push_str(
                "# Ports of well-known services inside the range stay theirs; add your own.\n",
            );
            fixed.push_str(&format!("net.ipv4.ip_local_reserved_ports = {reserved}\n"));
        }
    }
    fixed
}

fn correct(line: &str, setting: &Setting) -> String {
    let comment = |why: &str| format!("# {why}: {}", line.trim().trim_start_matches('/'));
    let Setting { key, value, .. } = setting;
    if setting.slashes {
        return format!("# {}", line.trim().trim_start_matches('/'));
    }
    if let Some(gone) = keys::removed(key) {
        return comment(&format!("removed in Linux {}", gone.since));
    }
    if key == "net.ipv4.tcp_timestamps" && value == "0" {
        return comment("harmful, the default 1 is right");
    }
    let Some(known) = keys::known(key) else { return line.to_owned() };
    match known.shape {
        Shape::Number(low, high) => match value.parse::<i64>() {
            Ok(n) if (low..=high).contains(&n) => line.to_owned(),
            _ => comment(&format!("not a number from {low} to {high}")),
        },
        Shape::Ports if value.parse::<PortSet>().is_err() => comment("no list of ports"),
        Shape::Ports => line.to_owned(),
        Shape::Range => match corrected_range(value) {
            None => comment("no range of ports"),
            Some(range) => {
                let text = format!("{} {}", range.low, range.high);
                if value.split_whitespace().eq(text.split_whitespace()) {
                    line.to_owned()
                } else {
                    format!("{key} = {text}")
                }
            }
        },
    }
}

/// In order, from 1024 on at the least, and of even size.
fn corrected_range(value: &str) -> Option<PortRange> {
    let spaced = value.replace(['-', ','], " ");
    let range = parse_range(&spaced)?;
    let (mut low, mut high) = (range.low.min(range.high), range.low.max(range.high));
    low = low.max(1024);
    if high <= low {
        return None;
    }
    if (high - low) % 2 == 0 {
        high -= 1;
    }
    (high > low).then_some(PortRange { low, high })
}
