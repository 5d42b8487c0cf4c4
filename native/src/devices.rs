//! `foretoken devices`: the adapters, which one is picked and why, and whether its kernels compute what they should.

use std::fmt::Write;

use foretoken::gpu::AdapterSummary;
use foretoken::{Error, ErrorKind, Gpu, KernelCheck, KernelSet};
use serde::Serialize;

use crate::source::{AdapterFlags, advice};
use crate::terminal::{Outcome, SUCCESS, bytes, print, print_json};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    adapter: AdapterFlags,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// The contract of `devices --json`.
#[derive(Serialize)]
struct Report {
    adapters: Vec<AdapterSummary>,
    /// Index of the adapter that is used.
    picked: usize,
    reason: String,
    /// What to do about a software adapter.
    advice: Option<String>,
    self_test: Vec<SetChecks>,
    passed: bool,
}

#[derive(Serialize)]
struct SetChecks {
    kernels: String,
    checks: Vec<KernelCheck>,
}

pub async fn run(args: &Args) -> Outcome<u8> {
    let adapters = Gpu::adapters().await;
    let (picked, reason) = Gpu::pick(&adapters, args.adapter.wanted()?.as_deref())?;
    if !args.json {
        print(&listing(&adapters, picked, &reason))?;
    }
    let gpu = args.adapter.open().await?;
    let advice = advice(gpu.summary());
    let mut self_test = Vec::new();
    let sets = match args.adapter.kernels {
        Some(set) => vec![set],
        None => KernelSet::available(gpu.summary()),
    };
    for set in sets {
        let mut checks = SetChecks { kernels: set.to_string(), checks: Vec::new() };
        foretoken::self_test(&gpu, set, true, &mut |check| checks.checks.push(check)).await?;
        if !args.json {
            print(&table(&checks))?;
        }
        self_test.push(checks);
    }
    let failed = failures(&self_test);
    if args.json {
        print_json(&Report { adapters, picked, reason, advice, self_test, passed: failed.is_empty() })?;
    } else if let Some(advice) = advice {
        print(&format!("\n{advice}\n"))?;
    }
    match failed.as_slice() {
        [] => Ok(SUCCESS),
        failed => Err(Error::new(
            ErrorKind::SelfTest,
            format!("{}: wrong results from {}; do not trust this adapter", gpu.summary(), failed.join(", ")),
        )
        .into()),
    }
}

fn failures(self_test: &[SetChecks]) -> Vec<String> {
    let of_set = |set: &SetChecks| {
        let failed = set.checks.iter().filter(|check| !check.passed);
        failed.map(|check| format!("{} ({})", check.kernel, set.kernels)).collect::<Vec<_>>()
    };
    self_test.iter().flat_map(of_set).collect()
}

fn listing(adapters: &[AdapterSummary], picked: usize, reason: &str) -> String {
    let mut text = String::from("Adapters\n");
    for adapter in adapters {
        let mark = if adapter.index == picked { '*' } else { ' ' };
        let AdapterSummary { index, driver, driver_info, .. } = adapter;
        let kind = if adapter.software { ", software" } else { "" };
        let _ = writeln!(text, "{mark} {index}  {adapter}{kind}\n     driver    {driver} {driver_info}");
        let _ = writeln!(text, "     features  {}\n     limits    {}", features(adapter), limits(adapter));
    }
    let _ = writeln!(text, "\nPicked: {picked}, {reason} (--adapter or FORETOKEN_ADAPTER picks another)");
    text
}

fn features(adapter: &AdapterSummary) -> String {
    let has = |name: &str, has: bool| format!("{} {name}", if has { "has" } else { "no" });
    let subgroups = match adapter.subgroup {
        Some((low, high)) if low == high => format!("has subgroups of {low}"),
        Some((low, high)) => format!("has subgroups of {low} to {high}"),
        None => "no subgroups".to_owned(),
    };
    [has("f16", adapter.f16), subgroups, has("timestamps", adapter.timestamps)].join(", ")
}

fn limits(adapter: &AdapterSummary) -> String {
    format!(
        "buffer {}, binding {}, workgroup memory {}, {} threads a workgroup, {} storage buffers",
        bytes(adapter.max_buffer_bytes),
        bytes(adapter.max_binding_bytes),
        bytes(adapter.max_workgroup_storage_bytes.into()),
        adapter.max_threads_per_workgroup,
        adapter.max_storage_buffers,
    )
}

/// A line for each kernel, with the case of its that came closest to failing; `--json` has every case.
fn table(SetChecks { kernels, checks }: &SetChecks) -> String {
    let mut worst: Vec<(&str, usize, &KernelCheck)> = Vec::new();
    for check in checks {
        let kernel = check.kernel.split_whitespace().next().unwrap_or_default();
        match worst.iter_mut().find(|(other, ..)| *other == kernel) {
            None => worst.push((kernel, 1, check)),
            Some((_, cases, shown)) => {
                *cases += 1;
                if (check.passed, margin(shown)) < (shown.passed, margin(check)) {
                    *shown = check;
                }
            }
        }
    }
    let mut text =
        format!("\nSelf-test, {kernels} kernels\n         kernel      cases     error   allowed  worst case\n");
    for (name, cases, KernelCheck { kernel, error, tolerance, passed }) in worst {
        let verdict = if *passed { "ok" } else { "WRONG" };
        let _ = writeln!(text, "  {verdict:5}  {name:10} {cases:6}  {error:8.1e}  {tolerance:8.1e}  {kernel}");
    }
    text
}

/// How much of the allowed error a check used up.
fn margin(check: &KernelCheck) -> f64 {
    if check.tolerance > 0.0 { check.error / check.tolerance } else { check.error }
}
