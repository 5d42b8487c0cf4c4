//! A checkpoint's files, read by JavaScript: downloaded, cached or picked from disk.

use std::borrow::Cow;
use std::future::Future;
use std::ops::Range;

use foretoken::Result;
use foretoken::format::files::Files;
use send_wrapper::SendWrapper;
use wasm_bindgen::prelude::*;

use crate::error::from_js;

#[wasm_bindgen]
extern "C" {
    /// What the package's `ByteSource` is.
    pub type ByteSource;

    /// The length of a file, or null when there is none.
    #[wasm_bindgen(method, catch)]
    async fn len(this: &ByteSource, name: &str) -> std::result::Result<JsValue, JsValue>;

    /// A part of a file as a `Uint8Array`.
    #[wasm_bindgen(method, catch)]
    async fn read(this: &ByteSource, name: &str, start: f64, end: f64) -> std::result::Result<JsValue, JsValue>;

    /// Where the files are, for messages.
    #[wasm_bindgen(method)]
    fn describe(this: &ByteSource) -> String;
}

/// The files of a [`ByteSource`].
pub struct JsFiles(pub ByteSource);

// A promise stays on its thread, and in a browser's page there is no other.
impl Files for JsFiles {
    fn len(&self, name: &str) -> impl Future<Output = Result<Option<u64>>> + Send {
        SendWrapper::new(async move {
            let length = self.0.len(name).await.map_err(|error| from_js(&error))?;
            Ok(length.as_f64().map(|length| length as u64))
        })
    }

    fn read(&self, name: &str, range: Range<u64>) -> impl Future<Output = Result<Cow<'_, [u8]>>> + Send {
        SendWrapper::new(async move {
            let (start, end) = (range.start as f64, range.end as f64);
            let bytes = self.0.read(name, start, end).await.map_err(|error| from_js(&error))?;
            Ok(Cow::Owned(js_sys::Uint8Array::new(&bytes).to_vec()))
        })
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}
