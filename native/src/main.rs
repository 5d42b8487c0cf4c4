//! The `foretoken` command as a process: everything else is in its library.

use std::env;
use std::process::ExitCode;

use foretoken_native::{Console, run};

fn main() -> ExitCode {
    silence_device_select();
    run(env::args_os(), Console::of_process()).into()
}

/// Mesa's device-select layer looks for a Wayland server, and where there cannot be one (containers, remote shells)
/// libwayland writes "error: XDG_RUNTIME_DIR is invalid or not set" for every look, as if something had gone wrong. The layer
/// only puts adapters in another order, which matters to nobody who picks them by type.
fn silence_device_select() {
    if cfg!(target_os = "linux") && env::var_os("XDG_RUNTIME_DIR").is_none() {
        #[allow(unsafe_code, reason = "the layer has no other switch than this variable of its process")]
        // SAFETY: nothing has started a thread yet that could read the environment meanwhile.
        unsafe {
            env::set_var("NODEVICE_SELECT", "1");
        }
    }
}
