//! The core's errors as JavaScript's.

use foretoken::{Error, ErrorKind};
use js_sys::Reflect;
use wasm_bindgen::JsValue;

/// An `Error` of JavaScript with the core's message, and its kind as `kind`.
pub fn to_js(error: Error) -> JsValue {
    let value = js_sys::Error::new(&error.to_string());
    // It can only fail on a frozen object, and this one is new.
    let _ = Reflect::set(&value, &"kind".into(), &format!("{:?}", error.kind()).into());
    value.into()
}

/// What went wrong in JavaScript: a source that could not be read.
pub fn from_js(value: &JsValue) -> Error {
    let field = |name: &str| Reflect::get(value, &name.into()).ok().and_then(|field| field.as_string());
    let message = field("message").or_else(|| value.as_string()).unwrap_or_else(|| format!("{value:?}"));
    Error::new(ErrorKind::Io, message)
}

/// A refused argument.
pub fn input(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, message)
}
