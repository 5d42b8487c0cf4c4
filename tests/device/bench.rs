//! The bench runs on every adapter, and its last line is JSON that says what it must.

use crate::common::each_own_device;
use foretoken::bench::{self, BenchOptions, RandomLlama};
use foretoken::format::stored::StoredType;
use serde_json::Value;

#[test]
fn a_quick_run_reports_everything() {
    each_own_device(|gpu| async move {
        let model = RandomLlama::tiny(StoredType::F16).files();
        let options = BenchOptions::default().quick(true).commit("abc".to_owned());
        let report = bench::run(&gpu, &model, &options, &mut |_| {}).await.expect("the bench runs");
        println!("{report}");
        let line = serde_json::to_string(&report).expect("JSON");
        assert!(!line.contains('\n'));
        let json: Value = serde_json::from_str(&line).expect("JSON");
        for name in ["kernel_rates", "step_widths", "star_widths", "step_parts", "decode"] {
            assert!(json[name].as_array().is_some_and(|rows| !rows.is_empty()), "{name}: {line}");
        }
        for name in
            ["adapter", "kernels", "commit", "model", "read", "copy", "prefill", "per_token", "cpu_per_dispatch"]
        {
            assert!(!json[name].is_null(), "{name}: {line}");
        }
        assert_eq!(json["commit"], "abc");
        assert_eq!(json["adapter"]["name"], gpu.summary().name.as_str());
        assert_eq!(json["per_token"]["passes"], json["per_token"]["submits"]);
    });
}
