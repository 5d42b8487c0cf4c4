//! foretoken in the browser.
