//! The core's errors as JavaScript's.

use foretoken::{Error, ErrorKind};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// An `Error` of JavaScript that also has a kind.
    #[wasm_bindgen(extends = js_sys::Error, js_name = Error)]
    type KindOfError;

    #[wasm_bindgen(method, setter)]
    fn set_kind(this: &KindOfError, kind: &str);
}

/// An `Error` of JavaScript with the core's message, and its kind as `kind`.
pub fn to_js(error: Error) -> JsValue {
    let value = js_sys::Error::new(&error.to_string()).unchecked_into::<KindOfError>();
    value.set_kind(&format!("{:?}", error.kind()));
    value.into()
}

/// What went wrong in JavaScript: a source that could not be read.
pub fn from_js(value: &JsValue) -> Error {
    let message = value.dyn_ref::<js_sys::Error>().map(|error| String::from(error.message()));
    let message = message.or_else(|| value.as_string()).unwrap_or_else(|| format!("{value:?}"));
    Error::new(ErrorKind::Io, message)
}

/// A refused argument.
pub fn input(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, message)
}
