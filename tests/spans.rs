//! What a subscriber of `tracing` hears. Alone in its program: threads without a subscriber would switch spans off for all.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::{DiskFiles, each_own_device, golden};
use foretoken::{Engine, EngineOptions, GenerateOptions};
use tracing::{Subscriber, span};

/// Hears how often a span of each name begins and ends.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<String, [u64; 2]>>>, Arc<Mutex<Vec<&'static str>>>);

impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("foretoken")
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut names = self.1.lock().expect("names");
        names.push(span.metadata().name());
        self.0.lock().expect("counts").entry(span.metadata().name().to_owned()).or_default()[0] += 1;
        span::Id::from_u64(names.len() as u64)
    }

    fn try_close(&self, id: span::Id) -> bool {
        let name = self.1.lock().expect("names")[id.into_u64() as usize - 1];
        self.0.lock().expect("counts").entry(name.to_owned()).or_default()[1] += 1;
        true
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_subscriber_hears_of_loads_submits_and_rounds() {
    each_own_device(|gpu| async move {
        let spans = Spans::default();
        let subscriber = tracing::subscriber::set_default(spans.clone());
        let files = DiskFiles(golden("llama-gqa"));
        let engine = Engine::load(&gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
        let loaded = spans.0.lock().expect("counts").clone();
        assert_eq!(loaded.get("load"), Some(&[1, 1]));
        assert!(loaded["submit"][0] > 0 && !loaded.contains_key("rounds"), "{loaded:?}");
        let mut session = engine.session().expect("a session");
        let mut generation =
            session.generate(&[1, 5, 9, 13], &GenerateOptions::default(), &mut |_| {}).await.expect("a prompt");
        while generation.next().await.expect("a step").is_some() {}
        let submits = generation.stats().submits;
        drop(generation);
        // A session may still hold a submit that was under way when the text ended.
        drop(session);
        let heard = spans.0.lock().expect("counts").clone();
        assert_eq!(heard["submit"][0] - loaded["submit"][0], submits, "a span a submit");
        assert!(heard["prompt"][0] > 0 && heard["rounds"][0] > 0, "{heard:?}");
        assert!(heard.values().all(|[begun, ended]| begun == ended), "{heard:?}");
        drop(subscriber);
    });
}
